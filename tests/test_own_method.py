"""The method that docs/own-method.md writes from the parts in jaxprune/prune."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.assets import demo_model_path
from jaxprune.model.padded import plain_batch

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "own_method.py"


@pytest.fixture(scope="module")
def own_method():
    spec = importlib.util.spec_from_file_location("own_method", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_documentation_shows_the_script_as_it_is():
    page = (ROOT / "docs" / "own-method.md").read_text(encoding="utf-8")
    block = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    script = SCRIPT.read_text(encoding="utf-8")
    method = script.split("# --- the method\n")[1].split("# --- the script\n")[0]
    assert block.strip() == method.strip()
    assert sum(bool(line.strip()) for line in block.splitlines()) <= 30


def test_a_neuron_that_never_fires_has_no_activity_and_padding_counts_for_none(own_method):
    model = jp.load(demo_model_path())
    model.params["layers"][1]["feed_forward"]["up"] = {
        name: leaf.at[..., 3].set(0) for name, leaf in model.params["layers"][1]["feed_forward"]["up"].items()
    }
    ids, architecture = np.arange(12).reshape(2, 6) + 5, model.architecture
    padded, mask = np.pad(ids, ((0, 0), (0, 2))), np.pad(np.ones_like(ids), ((0, 0), (0, 2)))
    scores = own_method.activity(model.params, plain_batch(architecture, ids), architecture=architecture)
    assert [len(units) for units in scores] == [8, 512] * 4
    assert np.flatnonzero(np.asarray(scores[3]) == 0).tolist() == [3]
    again = own_method.activity(model.params, plain_batch(architecture, padded, mask), architecture=architecture)
    for one, other in zip(scores, again, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_script_prunes_the_demo_model(own_method, tmp_path, capsys, monkeypatch):
    words = ["--remove", "0.4", "--calibration-samples", "64", "--limit", "64", "--out", str(tmp_path / "small")]
    monkeypatch.setattr("sys.argv", ["own_method.py", *words])
    own_method.main()
    scores = dict(re.findall(r"(\w+): accuracy ([\d.]+) on 64 texts", capsys.readouterr().out))
    assert float(scores["pruned"]) > 0.5 < float(scores["dense"])  # chance is 1 in 77
    small = jp.load(tmp_path / "small")
    assert small.provenance.record["method"] == "activity"
    assert small.provenance.record["removed"]["flops"] >= 0.4
    assert small.provenance.record["masked_vs_cut"] < 1e-5
