"""Logits against files that experiments/make_golden.py wrote from transformers on torch; tests/parity compares live."""

from pathlib import Path

import numpy as np
import pytest

from jaxprune.checkpoint import load
from jaxprune.model import logits

GOLDEN = sorted(path.parent for path in (Path(__file__).parent.parent / "golden").glob("*/expected.npz"))


def test_every_family_has_golden_files():
    heads = ("classification", "none", "question_answering")
    expected = {f"{family}-{head}" for family in ("bert", "distilbert", "roberta") for head in heads}
    assert {folder.name for folder in GOLDEN} == expected


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_logits_match_transformers(folder):
    model = load(folder)
    arrays = np.load(folder / "expected.npz")
    names = sorted({key.split("/")[0] for key in arrays})
    assert {"full", "left", "right"} <= set(names) and ("types" in names or "distilbert" in folder.name)
    for name in names:
        case = {key.split("/")[1]: arrays[key] for key in arrays if key.startswith(f"{name}/")}
        expected = case.pop("logits")
        # float32, two layers: the largest difference seen is below 5e-6.
        np.testing.assert_allclose(logits(model, **case), expected, rtol=0, atol=2e-5, err_msg=name)
