"""experiments/digits.py: the images it splits, the model it starts from, the page it writes."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")

import jaxprune as jp
from experiments import digits


def test_every_image_is_in_one_split_and_the_model_reads_it(tmp_path):
    splits = digits.digits()
    assert {split: len(labels) for split, (_, labels) in splits.items()} == digits.SPLITS
    pixels = np.concatenate([images for images, _ in splits.values()])
    assert pixels.dtype == np.uint8 and pixels.shape == (1797, 8, 8) and pixels.max() == 255
    assert len(np.unique(pixels.reshape(1797, -1), axis=0)) == 1797
    task = digits.write_task(tmp_path / "five", below=5)
    assert task.labels == ("0", "1", "2", "3", "4")
    model = jp.load(digits.write_model(tmp_path / "model", 10, seed=0))
    assert model.architecture.patches is not None and model.architecture.patches.tokens == 17
    assert not jp.predict(model, [task.validation[0].image.pixels]).warnings


def test_the_page_is_made_of_the_committed_lines(tmp_path):
    results = Path(digits.__file__).parent / "results"
    file = tmp_path / "digits.jsonl"
    file.write_text((results / "digits.jsonl").read_text())
    digits.table(Namespace(file=file))
    assert file.with_suffix(".md").read_text() == (results / "digits.md").read_text()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["section"] for row in rows} == {"choose dense", "dense", "prune", "choose tune", "tune"}
    assert not any("test" in row for row in rows if row["section"].startswith("choose"))
