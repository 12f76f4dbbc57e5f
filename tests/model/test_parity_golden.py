"""Logits against files that experiments/make_golden.py wrote from transformers on torch; tests/parity compares live."""

from pathlib import Path

import numpy as np
import pytest

from jaxprune.checkpoint import load
from jaxprune.model import logits
from tests.helpers.tiny import PAIRS
from tests.parity.reference import compared

ROOT = Path(__file__).parent.parent / "golden"
# Folders that an earlier release saved are for tests/checkpoint.
GOLDEN = sorted(path.parent for path in ROOT.glob("*/expected.npz") if not path.parent.name.startswith("saved-"))


def test_every_family_has_golden_files():
    assert {folder.name for folder in GOLDEN} == {f"{family}-{head}" for family, head in PAIRS}


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_logits_match_transformers(folder):
    model = load(folder)
    arrays = np.load(folder / "expected.npz")
    names = sorted({key.split("/")[0] for key in arrays})
    assert {"full", "left", "right"} <= set(names) and ("types" in names or model.architecture.token_types == 0)
    for name in names:
        case = {key.split("/")[1]: arrays[key] for key in arrays if key.startswith(f"{name}/")}
        expected = case.pop("logits")
        found = np.asarray(logits(model, **case))
        if expected.ndim == 3:
            seen = compared(case, model.architecture.family)
            found, expected = found[seen], expected[seen]
        # float32, two layers: the largest difference seen is below 5e-6.
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5, err_msg=name)
