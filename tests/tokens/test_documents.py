"""Documents as token ids: each its own, with the tokenizer's beginning and end, in parts that fit."""

import json

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError
from jaxprune.tokens import documents, pieces
from jaxprune.tokens.documents import documents_doubts, parts_of
from jaxprune.tokens.tokenizer import Tokenizer
from tests.helpers.chat import write_chat_tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    return Tokenizer.of(write_chat_tokenizer(tmp_path / "tokenizer", None))


def own_parts(tokenizer, texts, length):
    whole = [np.append(tokenizer.plain(text), tokenizer.end) for text in texts]
    cut = [ids[at : at + length].tolist() for ids in whole for at in range(0, len(ids), length)]
    return [part for part in cut if len(part) > 1]


def test_parts_are_those_of_every_document_read_whole(tmp_path, tokenizer, monkeypatch):
    """However short or long, in several files, pieces small enough for a document to take several."""
    monkeypatch.setattr(pieces, "PIECE", 64)
    monkeypatch.setattr(pieces, "AROUND", 16)
    random = np.random.RandomState(0)
    texts = [" ".join(random.choice(["the", "film", "was", "é", "x\n\ny"], n)) for n in (1, 200, 3, 40, 7, 7, 90)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts[:5]))
    (tmp_path / "b.txt").write_text(texts[5])
    (tmp_path / "c.json").write_text(json.dumps([{"text": texts[6]}]))
    task = jp.tasks.text([tmp_path / name for name in ("a.jsonl", "b.txt", "c.json")], length=16, documents=True)
    parts = list(parts_of(tokenizer, task.validation, 16, "here"))
    assert [part.tolist() for part in parts] == own_parts(tokenizer, texts, 16)
    assert task.validation[0].text == "\n\n".join(texts)  # joined, for whoever reads it as one text


def test_a_beginning_and_an_end_of_the_tokenizer_are_taken(tmp_path, tokenizer):
    from tokenizers import processors

    tokenizer.backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    (tmp_path / "a.txt").write_text("the film")
    [part] = parts_of(tokenizer, jp.tasks.text(tmp_path / "a.txt", documents=True).validation, 512, "here")
    assert part.tolist() == [1, *tokenizer.plain("the film").tolist(), 0]


def test_progress_and_nothing_to_predict(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": "the film"}) for _ in range(50)))
    monkeypatch.setattr(documents, "PIECE", 20)
    task, events = jp.tasks.text(tmp_path / "a.jsonl", length=8, documents=True), []
    assert len(list(parts_of(tokenizer, task.validation, 8, "here", events.append))) == 50
    assert len(events) > 3 and events[-1]["done"] <= events[-1]["of"]
    assert documents_doubts(tokenizer) == ()
    tokenizer.read.own.eos_token = None
    assert "names no end token" in documents_doubts(tokenizer)[0]
    (tmp_path / "b.txt").write_text("x")
    with pytest.raises(DataError, match="here has no document of 2 tokens"):
        list(parts_of(tokenizer, jp.tasks.text(tmp_path / "b.txt", documents=True).validation, 8, "here"))
