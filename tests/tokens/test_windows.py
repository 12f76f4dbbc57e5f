"""Running text: windows, perplexity, calibration."""

import json

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError
from jaxprune.tasks.example import Example
from jaxprune.tasks.running_text import RunningText
from jaxprune.tokens.tokenizer import Tokenizer
from jaxprune.tokens.windows import encode_calibration, windows_of
from tests.pruning.test_decoders import language_model, model as model, task as task  # fixtures, too


def test_perplexity_is_that_of_windows_scored_one_by_one(model, task):
    ids = list(windows_of(Tokenizer.of(model), task.validation, 32, "here"))
    assert len(ids) == 300 // 32
    losses = []
    for window in ids:
        logits = np.asarray(jp.logits(model, window[None])[0], np.float64)
        logits -= np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
        losses += [-logits[at, window[at + 1]] for at in range(31)]
    found = jp.evaluate(model, task)
    assert found.score == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)
    assert (found.metric, found.examples, found.tokens) == ("perplexity", 9, 9 * 32)
    first = jp.evaluate(model, task, limit=2)
    assert first.score == pytest.approx(np.exp(np.mean(losses[:62])), rel=1e-5) and first.examples == 2


def test_files_are_read_as_they_stand_or_line_by_line(tmp_path):
    (tmp_path / "a.txt").write_text(" = Title = \n\n the film \n")
    assert RunningText.of(tmp_path / "a.txt")[0].text == " = Title = \n\n the film \n"
    lines = [json.dumps({"text": "the film"}), json.dumps({"text": "a book"})]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    assert RunningText.of(tmp_path / "b.jsonl")[0].text == "the film\n\na book"


def test_calibration_draws_windows_without_overlap(model, task):
    tokenizer = Tokenizer.of(model)
    encoded = encode_calibration(tokenizer, task.calibration(5, seed=3))
    every = list(windows_of(tokenizer, task.train, 32, "here"))
    rows = np.random.RandomState(3).choice(len(every), 5, replace=False)
    assert [ids.tolist() for ids in encoded.ids] == [every[row].tolist() for row in rows]
    assert len({tuple(ids.tolist()) for ids in encoded.ids}) == 5


def test_shared_lines_and_little_text_are_doubts(tmp_path):
    line = "the film was very good and the book was not but the plot was cold and the cast is dull"
    (tmp_path / "scored.txt").write_text(f"{line}\na warm book\n")
    (tmp_path / "other.txt").write_text(f"who\n{line}\n")
    warnings = (
        jp.tasks.text(tmp_path / "scored.txt", calibration=tmp_path / "other.txt", length=8).calibration(2).warnings
    )
    assert "only 16 calibration tokens" in warnings[0]
    assert "1 lines of the calibration text are in the evaluation text too" in warnings[1]


def test_a_text_to_train_on_and_another_to_calibrate_on(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"the film {name} " * 99)
    a, b, c = (tmp_path / f"{name}.txt" for name in "abc")
    task = jp.tasks.text(a, train=[b, c], length=8)
    assert task.train[0].text == b.read_text() + "\n\n" + c.read_text() and task.source == f"{a}; train: {b}, {c}"
    assert task.calibration(4).examples is task.train
    task = jp.tasks.text(a, train=b, calibration=c, length=8)
    assert task.calibration(4).examples[0].text == c.read_text() and task.train[0].text == b.read_text()
    assert jp.tasks.text(a, calibration=c, length=8).train[0].text == c.read_text()  # also trains where that is all
    with pytest.raises(DataError, match="a.txt is named to train on and to score; name another one"):
        jp.tasks.text([a, b], train=[c, a], length=8)
    with pytest.raises(DataError, match="b.txt is named twice"):
        jp.tasks.text(a, train=[b, b], length=8)


def test_bad_input_is_one_line(tmp_path, model, task):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "short.txt").write_text("the film")
    for arguments, message in (
        ((tmp_path / "none.txt",), "is not a file"),
        ((tmp_path,), "is not a file"),
        ((tmp_path / "empty.txt",), "holds no text"),
    ):
        with pytest.raises(DataError, match=message):
            jp.tasks.text(*arguments)
    with pytest.raises(DataError, match="length is 1, expected at least 2"):
        jp.tasks.text(tmp_path / "short.txt", length=1)
    with pytest.raises(DataError, match="windows is 0, expected at least 1"):
        jp.tasks.text(tmp_path / "short.txt", windows=0)
    with pytest.raises(DataError, match="has 2 tokens, less than one window of 8"):
        jp.evaluate(model, jp.tasks.text(tmp_path / "short.txt", length=8))
    with pytest.raises(DataError, match="windows of 65 tokens do not fit the model's 64 positions"):
        jp.evaluate(model, jp.tasks.text(tmp_path / "short.txt", length=65))
    with pytest.raises(DataError, match="29 calibration sequences, but .* has 28 of 32 tokens"):
        jp.kprune(model, task.calibration(29), jp.Budget(0.2))
    with pytest.raises(DataError, match="no training texts to calibrate on; pass calibration=FILE"):
        jp.tasks.text(tmp_path / "short.txt", length=2).calibration(1)


def test_a_foreign_tokenizer_is_refused(tmp_path, model):
    small = language_model(tmp_path / "model", "llama")
    fewer = small.replace(architecture=type(small.architecture)(**{**vars(small.architecture), "vocab": 8}))
    with pytest.raises(DataError, match="the text has the token 'when', id 25, and the model's embedding has 8 rows"):
        list(windows_of(Tokenizer.of(fewer), (Example("the when", None, None),), 2, "here"))
