"""Perplexity of completions and of documents, against each text read alone."""

import json

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError, SettingsError
from jaxprune.evaluation import perplexity
from jaxprune.tokens.conversations import read_conversations
from jaxprune.tokens.documents import parts_of
from jaxprune.tokens.tokenizer import Tokenizer
from tests.helpers.chat import chat_model, turns, write_rows

ROWS = [
    {"messages": turns("the film?", "it was the film", "why", "so")},
    {"prompt": "see the", "completion": " film"},
    {"messages": turns("a", "b", system="be " * 9)},
    {"prompt": "x" * 40, "completion": "the"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return chat_model(tmp_path_factory.mktemp("chat") / "model")


def losses(model, ids):
    """Of every token but the first. All texts are filled up to one length, so that they share a program."""
    filled = np.pad(ids, (0, 256 - len(ids)))[None]
    logits = np.asarray(jp.logits(model, filled)[0], np.float64)[: len(ids)]
    logits -= np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    return -logits[np.arange(len(ids) - 1), ids[1:]]


@pytest.mark.parametrize("group", [2**20, 1])
def test_completions_are_scored_by_what_is_learnt_alone(model, tmp_path, monkeypatch, group):
    monkeypatch.setattr(perplexity, "GROUP", group)  # tokens packed at a time: one conversation, or all
    task = jp.tasks.chat(write_rows(tmp_path / "a.jsonl", ROWS))
    rows, _ = read_conversations(Tokenizer.of(model), task.validation, task.max_length)
    expected = np.concatenate([losses(model, ids)[mask[1:] > 0] for ids, mask in rows])
    scored = jp.evaluate(model, task)
    assert scored.score == pytest.approx(np.exp(expected.mean()), rel=1e-5)
    assert (scored.metric, scored.examples, set(scored.metrics)) == ("perplexity", 4, {"perplexity", "loss"})
    assert jp.evaluate(model, task, limit=2).examples == 2


def test_cuts_are_warnings(model, tmp_path):
    rows = [ROWS[1], {"messages": turns("a", "long " * 40)}, {"messages": turns("long " * 40, "b")}]
    scored = jp.evaluate(model, jp.tasks.chat(write_rows(tmp_path / "a.jsonl", rows), max_length=60))
    assert any("2 of 3 evaluation conversations were cut to 60 tokens" in told for told in scored.warnings)
    assert any("1 of 3 evaluation conversations were dropped" in told for told in scored.warnings)


def test_nothing_left_to_score_is_an_error(model, tmp_path):
    file = write_rows(tmp_path / "a.jsonl", [{"messages": turns("long " * 40, "b")}])
    with pytest.raises(DataError, match="nothing that is learnt is left of 1 conversations in 60 tokens; allow more"):
        jp.evaluate(model, jp.tasks.chat(file, max_length=60))


def test_documents_do_not_see_each_other(model, tmp_path):
    texts = ["the film was here", "a", "it", "the film " * 9]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    task = jp.tasks.text(tmp_path / "a.jsonl", length=16, documents=True)
    parts = list(parts_of(Tokenizer.of(model), task.validation, 16, "here"))
    expected = np.concatenate([losses(model, part) for part in parts])
    scored = jp.evaluate(model, task)
    assert scored.score == pytest.approx(np.exp(expected.mean()), rel=1e-5) and scored.examples == len(parts)
    joined = jp.evaluate(model, jp.tasks.text(tmp_path / "a.jsonl", length=16))
    assert joined.score != pytest.approx(scored.score, rel=1e-3)


def test_pruning_calibrates_on_conversations(model, tmp_path):
    task = jp.tasks.chat(write_rows(tmp_path / "a.jsonl", ROWS * 5), validation=2)
    pruned = jp.prune(model, task.calibration(8, seed=0), jp.Budget(remove=0.3, cost="params"), jp.Magnitude())
    assert pruned.report.calibration is not None and pruned.report.calibration.count == 8
    assert np.isfinite(jp.evaluate(pruned, task).score)


def test_one_end_token_is_not_taken_apart(model):
    """The tokenizer has "e" as a token, and not what is asked for."""
    with pytest.raises(SettingsError, match=r"end_ids is one text, expected a list of tokens; write \['<e>'\]"):
        jp.generate(model, "the", end_ids="<e>", max_new_tokens=2)
