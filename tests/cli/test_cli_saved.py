"""Commands save in the checkpoint's own type, and score what they save."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxprune as jp
from jaxprune.evaluation import evaluate as scoring

PRUNE = ("prune", "--remove", 0.5, "--calibration-samples", 32)
FINETUNE = ("finetune", "--epochs", 1, "--batch-size", 32, "--dropout", 0.0)
RECAP = ("recap", "--rounds", 1, "--batch-size", 32, "--samples", 32, "--outer", "frozen", "--dropout", 0.0)


@pytest.fixture(scope="module")
def half(inputs, tmp_path_factory) -> SimpleNamespace:
    """`inputs` with the weights in float16."""
    folder = tmp_path_factory.mktemp("half") / "model"
    shutil.copytree(inputs.model, folder)
    tensors = {name: array.astype(np.float16) for name, array in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return SimpleNamespace(model=str(folder), data=inputs.data)


@pytest.mark.parametrize("command", [PRUNE, FINETUNE, RECAP], ids=lambda words: words[0])
def test_a_folder_in_the_checkpoints_type_is_scored_as_it_is_read_back(cli, half, tmp_path, monkeypatch, command):
    scored, evaluate = [], scoring.evaluate

    def spy(model, *args, **named):
        found = evaluate(model, *args, **named)
        scored.append((model, found))
        return found

    for where in ("prune", "outcome"):
        monkeypatch.setattr(f"jaxprune.cli.{where}.evaluate", spy)
    data = ("--model", half.model, "--task", "text-classification", "--data", half.data)
    run = cli.json(command[0], *data, *command[1:], "--out", tmp_path / "small")
    assert run.code == 0, run.err
    back = jp.load(tmp_path / "small")
    model, found = scored[-1]
    jax.tree.map(np.testing.assert_array_equal, model.params, back.params)
    assert run.data["score"] == found.score and run.data["saved_dtype"] == "float16"
    assert {array.dtype.name for array in load_file(tmp_path / "small" / "model.safetensors").values()} == {"float16"}
    assert run.data["disk_bytes"] <= 1.1 * run.data["source_disk_bytes"]  # headers differ: these models are tiny
    record = json.loads((tmp_path / "small" / "jaxprune.json").read_text())
    assert record["dtype"] == "float16"
    noted = record["scores"]["pruned"] if command is PRUNE else record["training"]["as_saved"]["score"]
    assert noted == found.score
    if command is not FINETUNE:
        return  # once is enough
    exact = cli.json(command[0], *data, *command[1:], "--out", tmp_path / "full", "--save-dtype", "float32")
    assert exact.data["saved_dtype"] == "float32" and exact.data["disk_bytes"] > run.data["disk_bytes"]
    assert "as_saved" not in json.loads((tmp_path / "full" / "jaxprune.json").read_text()).get("training", {})


def test_an_export_has_the_checkpoints_type(cli, half, tmp_path):
    run = cli.json("export", "--model", half.model, "--out", tmp_path / "hf")
    assert run.data["dtype"] == run.data["config"]["dtype"] == "float16"
    assert run.data["bytes"] == sum(
        array.nbytes for array in load_file(Path(tmp_path / "hf/model.safetensors")).values()
    )
    shown = cli.json("inspect", "--model", half.model).data
    assert shown["dtype"] == "float16"
