"""Calibration texts from a file of one's own."""

from argparse import ArgumentParser, Namespace
from types import SimpleNamespace

import numpy as np
import pytest

from jaxprune.cli import flags
from jaxprune.errors import DataError
from jaxprune.tasks.example import Example

SCORED = (Example("  TEXT 3", None, 0),)
TASK = SimpleNamespace(
    name="sst2",
    kind="single_label",
    max_length=32,
    strict_length=True,
    is_images=False,
    validation=SCORED,
    calibration=lambda count, seed: (count, seed),
)


def draw(file, count: int | None = 3, seed=0):
    return flags.calibration(
        Namespace(calibration_samples=count, seed=seed, calibration_texts=file and str(file)), TASK
    )


def test_without_a_file_the_task_draws():
    assert draw(None, 7, 1) == (7, 1)


def test_without_a_count_running_text_draws_fewer():
    assert draw(None, None) == (512, 0)
    text = SimpleNamespace(name="text", kind="language", calibration=lambda count, seed: (count, seed))
    parser = ArgumentParser()
    flags.add_calibration(parser)
    arguments = parser.parse_args([])
    arguments.seed = 0
    assert flags.calibration(arguments, text) == (16, 0)


def test_rows_are_drawn_as_a_task_draws_them(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"text {number}\n\n" for number in range(10)), encoding="utf-8")
    expected = [f"text {row}" for row in np.random.RandomState(5).choice(10, 4, replace=False)]
    found = draw(file, 4, 5)
    assert [example.text for example in found.examples] == expected
    assert found.max_length == 32 and found.source == str(file)
    assert found.seed == 5
    whole = draw(file, 20)
    assert [example.text for example in whole.examples] == [f"text {number}" for number in range(10)]
    assert whole.seed is None and "has 10 texts, fewer than 20: all of them" in whole.warnings[1]
    assert "1 of 10 calibration texts are evaluation texts too" in whole.warnings[2]


def test_a_tab_divides_pairs(tmp_path):
    file = tmp_path / "pairs.txt"
    file.write_text("a\tb\nc\td\n", encoding="utf-8")
    assert [(example.text, example.pair) for example in draw(file).examples] == [("a", "b"), ("c", "d")]
    file.write_text("a\tb\nc\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2 has one text, the first two; make them alike"):
        draw(file)


@pytest.mark.parametrize(
    "content, says", [(b"", "holds no texts"), (b"caf\xe9\n", "line 1: not UTF-8 \\(byte 0xe9\\)")]
)
def test_a_file_that_does_not_serve_is_named(tmp_path, content, says):
    (tmp_path / "texts.txt").write_bytes(content)
    with pytest.raises(DataError, match=says):
        draw(tmp_path / "texts.txt")
    with pytest.raises(DataError, match="cannot be read"):
        draw(tmp_path / "missing.txt")
