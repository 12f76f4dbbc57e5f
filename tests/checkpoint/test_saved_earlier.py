"""Folders that earlier versions saved still load, and say what they said.

`saved-0.1.0` was written by the first commit of 0.1.0 (67430fa), `saved-0.1.0-last` by its last (028b120), each by

    jaxprune prune --model source --task text-classification --data data --remove 0.5 --calibration-samples 64 --seed 0

on the model and texts of tests/cli/conftest.py; `expected.npz` holds the logits that this version then gave.
"""

from pathlib import Path

import numpy as np
import pytest

import jaxprune as jp

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = sorted(GOLDEN.glob("saved-*"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_of_an_earlier_version_gives_the_logits_it_gave(folder):
    assert len(FOLDERS) == 2
    model, expected = jp.load(folder), np.load(folder / "expected.npz")
    assert model.provenance.record["versions"]["jaxprune"] == "0.1.0"
    logits = np.asarray(jp.logits(model, expected["input_ids"], expected["attention_mask"]))
    # The same numbers in the same order; another CPU may round otherwise.
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_is_saved_again_with_its_record_and_tokenizer(folder, tmp_path):
    model = jp.load(folder)
    again = jp.load(jp.save(model, tmp_path / "again"))
    assert again.architecture == model.architecture
    for entry in ("method", "budget", "removed", "kept", "scores"):
        assert again.provenance.record[entry] == model.provenance.record[entry]
