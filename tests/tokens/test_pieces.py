"""Running text of any size: read and tokenised piece by piece, to what the whole would give."""

import gzip
import json
import os
import sys
import threading

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer as Fast, models, normalizers, pre_tokenizers, trainers

import jaxprune as jp
from jaxprune.checkpoint.tokenizer_files import TokenizerRead
from jaxprune.errors import DataError
from jaxprune.report.plan import plan
from jaxprune.tasks import file_text
from jaxprune.tasks.calibration import Calibration
from jaxprune.tasks.example import Example
from jaxprune.tasks.jsonl import read_rows
from jaxprune.tokens import pieces, windows as text
from jaxprune.tokens.pieces import PIECE, ids_of, token_ids
from jaxprune.tokens.tokenizer import Tokenizer
from jaxprune.tokens.windows import encode_calibration
from tests.pruning.test_decoders import model as model, task as task  # fixtures, too

PROSE = (
    "The film wasn't good -- it's 12,000.50 times  longer;\n\n\n the book's plot...\nwas (very) dull.\r\n\tAnd cold?\n"
)
CHINESE = "这是一个测试，我们写一些没有空格的文字。今天天气很好！数字是123和4567。\n"
HINDI = "यह एक परीक्षण है। हम कुछ लिखते हैं, café naïve.\n"
LLAMA3 = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = pre_tokenizers.ByteLevel
# How the families that we read divide a text into words.
WORDS = {
    "gpt2": (None, BYTES(add_prefix_space=False)),
    "with a space before": (None, BYTES(add_prefix_space=True)),
    "llama3": (
        normalizers.NFC(),
        pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), BYTES(add_prefix_space=False, use_regex=False)]
        ),
    ),
    "mistral": (None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "llama2": (normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None),
    "bert": (normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()),
}


def trained(words: str) -> Tokenizer:
    """A tokenizer that divides texts as a family's does."""
    backend = Fast(models.BPE(unk_token="<unk>", fuse_unk=True))
    backend.normalizer, division = WORDS[words]
    # "llama2" trains on words: its file divides nothing, and leaves it to the merges that none crosses a space.
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never") if division is None else division
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>"], show_progress=False)
    backend.train_from_iterator([PROSE, CHINESE, HINDI] * 3, trainer)
    if division is None:
        backend.pre_tokenizer = None  # type: ignore[assignment]
    return Tokenizer(TokenizerRead(backend, words, cut_left=False, types=False, replaced=()))


def assert_equal_to_the_whole(tokenizer: Tokenizer, whole: str, size: int) -> None:
    """Pieces of chunks that end anywhere have the ids of the whole, and are many."""
    chunks = [whole[at : at + 777] for at in range(0, len(whole), 777)]
    cut = list(pieces.pieces(tokenizer, chunks))
    assert "".join(piece.text for piece in cut) == whole
    assert max(len(piece.text) for piece in cut) < 3 * size
    np.testing.assert_array_equal(np.concatenate(ids_of(tokenizer, cut)), tokenizer.plain(whole))


@pytest.mark.parametrize("words", WORDS)
def test_pieces_have_the_token_ids_of_the_whole(words, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 1000)
    tokenizer, random = trained(words), np.random.RandomState(0)
    mixed = "".join(random.choice([PROSE, CHINESE, HINDI], 100))
    for whole in (PROSE * 80, CHINESE * 200, CHINESE.strip() * 200, HINDI * 150, mixed):
        assert_equal_to_the_whole(tokenizer, whole, 1000)


@pytest.mark.parametrize("name", ["smollm2-135m", "minilm-sst2"])
def test_pieces_have_the_token_ids_of_the_whole_by_published_tokenizers(name, monkeypatch, shared, real_model):
    monkeypatch.setattr(pieces, "PIECE", 5000)
    wiki = shared("data/text/wikitext2/test.txt").read_text()[:150_000]
    assert_equal_to_the_whole(Tokenizer.of(real_model(name)), wiki, 5000)


def test_a_text_without_a_place_to_cut_stays_whole(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 1000)
    (piece,) = pieces.pieces(trained("gpt2"), ["good" * 500] * 8)
    assert len(piece.text) == 16_000


def test_no_more_than_a_few_pieces_are_held_at_a_time(model, monkeypatch, tmp_path):
    file, sizes = tmp_path / "long.txt", []
    file.write_text("the film was very good and the plot is dull\n" * 30_000)  # 1.3 MB
    plain = Tokenizer.plain_batch
    monkeypatch.setattr(
        Tokenizer, "plain_batch", lambda self, texts: sizes.append(sum(map(len, texts))) or plain(self, texts)
    )
    monkeypatch.setattr(file_text, "READ_BYTES", 2**16)
    tokens = sum(len(ids) for ids in token_ids(Tokenizer.of(model), jp.tasks.text(file).validation))
    assert tokens == 300_000
    assert max(sizes) < (pieces.TOGETHER + 1) * PIECE


# --- calibration


@pytest.fixture
def long_text(tmp_path):
    """A task whose texts have 40,000 different words."""
    words = np.random.RandomState(0).choice("the a film book plot cast good bad fine dull".split(), 40_000)
    (tmp_path / "long.txt").write_text(" ".join(words))
    return jp.tasks.text(tmp_path / "long.txt", calibration=tmp_path / "long.txt", length=32)


def test_windows_of_a_long_text_are_drawn_without_tokenising_all_of_it(model, long_text, monkeypatch):
    tokenizer, calibration = Tokenizer.of(model), long_text.calibration(6, seed=1)
    whole = tokenizer.plain(long_text.train[0].text)
    monkeypatch.setattr(text, "WHOLE", 100_000)
    read = []
    plain = Tokenizer.plain_batch
    monkeypatch.setattr(
        Tokenizer, "plain_batch", lambda self, texts: read.append(sum(map(len, texts))) or plain(self, texts)
    )
    found = encode_calibration(tokenizer, calibration)
    assert sum(read) < 30_000 < len(whole)
    again = encode_calibration(tokenizer, calibration)
    assert [ids.tolist() for ids in found.ids] == [ids.tolist() for ids in again.ids]
    # Each is a stretch of the text's own tokens, and no two are of one place.
    windows = np.lib.stride_tricks.sliding_window_view(whole, 32)
    places = [np.flatnonzero((windows == ids).all(axis=1)) for ids in found.ids]
    assert all(len(place) == 1 for place in places)
    assert min(np.diff(sorted(int(place[0]) for place in places))) >= 32
    other = encode_calibration(tokenizer, long_text.calibration(6, seed=2))
    assert not np.array_equal(other.ids[0], found.ids[0])


def test_a_long_text_with_too_few_stretches_is_drawn_from_as_a_short_one(model, long_text, monkeypatch):
    tokenizer, calibration = Tokenizer.of(model), long_text.calibration(900)
    expected = encode_calibration(tokenizer, calibration)
    monkeypatch.setattr(text, "WHOLE", 100_000)
    found = encode_calibration(tokenizer, calibration)
    assert [ids.tolist() for ids in found.ids] == [ids.tolist() for ids in expected.ids]
    with pytest.raises(DataError, match="1251 calibration sequences, but .* has 1250 of 32 tokens"):
        encode_calibration(tokenizer, long_text.calibration(1251))


def test_the_hash_of_a_file_is_that_of_its_text(tmp_path, monkeypatch):
    monkeypatch.setattr(file_text, "READ_BYTES", 7)
    content = 'say "good"\n\tcafé \\ 这是 \x7f\u2028\r\n' * 5
    (tmp_path / "a.txt").write_text(content, newline="")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": part}) for part in content.split(" ")))
    for file, whole in (("a.txt", content), ("a.jsonl", "\n\n".join(content.split(" ")))):
        found = jp.tasks.text(tmp_path / file, calibration=tmp_path / file).calibration(1)
        assert found.hash == Calibration((Example(whole, None, None),), "here", windows=1).hash


def test_a_plan_reads_no_more_windows_than_are_drawn(model, long_text, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 2000)
    monkeypatch.setattr(file_text, "READ_BYTES", 2000)
    read, ids_of_pieces = [], pieces.ids_of
    monkeypatch.setattr(
        pieces, "ids_of", lambda tokenizer, parts: read.append(parts) or ids_of_pieces(tokenizer, parts)
    )
    result = plan(model, long_text.calibration(6), jp.Budget(0.3))
    assert (result.calibration.texts, result.calibration.tokens) == (6, 6 * 32)
    assert len(read) == 1  # the first pieces hold them
    with pytest.raises(DataError, match="1251 calibration sequences"):
        plan(model, long_text.calibration(1251), jp.Budget(0.3))


# --- evaluation


def test_a_text_is_tokenised_as_far_as_it_is_scored(model, long_text, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 2000)
    monkeypatch.setattr(file_text, "READ_BYTES", 2000)
    events = []
    found = jp.evaluate(model, long_text, limit=4, on_step=events.append)
    assert found.examples == 4 and found.score == jp.evaluate(model, long_text, limit=4).score
    told = [event for event in events if event["phase"] == "tokenise"]
    assert 0 < told[-1]["done"] < told[-1]["of"] / 5
    assert events[0] == told[0]  # before anything is scored
    assert [event for event in events if event["phase"] == "score"][-1] == {"phase": "score", "done": 4, "of": 4}


def test_groups_of_windows_score_as_all_at_once(model, task, monkeypatch, compilations):
    expected = jp.evaluate(model, task)
    assert expected.host_peak_bytes is None or expected.host_peak_bytes > 2**20
    monkeypatch.setattr(
        sys.modules["jaxprune.evaluation.perplexity"], "GROUP", 100
    )  # four windows of 32 tokens, nine in all
    with compilations() as seen:
        found = jp.evaluate(model, task)
    assert found.score == pytest.approx(expected.score, rel=1e-6)
    assert (found.examples, found.tokens) == (expected.examples, expected.tokens)
    assert len(seen) <= 2  # the rows of the first group, and its last row where it is not full


def test_calibration_says_how_far_it_is_and_what_the_process_took(model, task):
    events = []
    pruned = jp.magnitude(model, task.calibration(8), jp.Budget(0.2), on_step=events.append)
    assert events[0]["phase"] == "tokenise" and events[0]["done"] > 0
    record = pruned.provenance.record
    assert record["host_peak_bytes"] is None or record["host_peak_bytes"] > record["peak_bytes"]


# --- files in parts


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_a_file_in_parts_is_the_file(chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(file_text, "READ_BYTES", chunk)
    (tmp_path / "a.txt").write_bytes("\ufeffcafé\r\n 这是\n\n".encode())
    assert "".join(file_text.decoded(tmp_path / "a.txt")) == "café\r\n 这是\n\n" == file_text.decode(tmp_path / "a.txt")
    (tmp_path / "a.jsonl").write_text('{"text": "a\u2028b"}\n\n{"text": "c"}')
    assert [row.where[-6:] for row in read_rows(tmp_path / "a.jsonl")] == ["line 1", "line 3"]
    for bad, line in ((b"a\ncaf\xe9\nb", 2), (b"\xc3", 1), (b"a\n\n\xe8\xbf", 3)):
        (tmp_path / "b.txt").write_bytes(bad)
        with pytest.raises(DataError, match=f"line {line}: not UTF-8"):
            file_text.decode(tmp_path / "b.txt")


def test_a_pipe_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("the film",))
    writer.start()
    task = jp.tasks.text(tmp_path / "pipe")
    writer.join()
    assert task.validation[0].text == "the film" == task.validation[0].text


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.json", "a.json.gz"])
def test_gzip_and_arrays_are_read_in_parts_too(name, tmp_path, monkeypatch):
    monkeypatch.setattr(file_text, "READ_BYTES", 5)
    texts = ["the film", "café 这是"]
    lines = texts if ".txt" in name else [json.dumps({"text": entry}) for entry in texts]
    content = f"[{','.join(lines)}]" if ".json." in f"{name}." else "\n".join(lines)
    write = gzip.compress if name.endswith("gz") else bytes
    (tmp_path / name).write_bytes(write(content.encode()))
    found = jp.tasks.text(tmp_path / name).validation
    assert found[0].text == ("\n" if ".txt" in name else "\n\n").join(texts)
