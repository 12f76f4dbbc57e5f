import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxprune import tasks
from jaxprune.checkpoint import load
from jaxprune.cli.finetune import load_for
from jaxprune.errors import DataError
from tests.helpers import tiny

QUICK = ("--epochs", 1, "--batch-size", 32)


def words(inputs, method, out, *more):
    data = ("--task", "text-classification", "--data", inputs.data)
    return ("finetune", "--method", method, "--model", inputs.model, *data, "--out", out, *more)


@pytest.mark.parametrize(
    "method, more",
    [
        ("full", ("--mesh", "data=1", "--shard", "weights")),
        ("lora", ("--rank", 2)),
        (
            "prune-lora",
            ("--preset", "published", "--high-rank", 4, "--low-rank", 2, "--high-blocks", 1, "--samples", 16),
        ),
    ],
)
def test_a_method_leaves_one_folder_that_loads(cli, inputs, tmp_path, method, more):
    out, adapter = tmp_path / "tuned", tmp_path / "adapter"
    also = () if method == "full" else ("--adapter-out", adapter)
    run = cli.json(*words(inputs, method, out, *QUICK, *also, *more))
    assert run.code == 0, run.err
    asked = {
        "score",
        "metric",
        "trainable_parameters",
        "parameters",
        "seconds_per_epoch",
        "bytes",
        "disk_bytes",
        "seed",
        "warnings",
    }
    assert asked <= run.data.keys()
    assert adapter.exists() == (method != "full")
    assert (out / "importance.png").exists() == (method == "prune-lora")
    assert (run.data["trainable_parameters"] == run.data["parameters"]) == (method == "full")
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("tuned", "adapter")] == []
    scored = cli.json("evaluate", "--model", out, "--task", "text-classification", "--data", inputs.data)
    assert scored.data["score"] == run.data["score"]
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "step" in line] == list(range(1, run.data["epochs"][0]["steps"] + 1))
    if method == "prune-lora":
        assert sum(layer["heads"] for layer in run.data["layers"]) == 6
    again = cli(*words(inputs, method, out, *QUICK, *more))
    assert again.code == 2 and "exists and is not empty" in again.err


@pytest.mark.parametrize(
    "method, more, says",
    [
        ("lora", ("--rank", 0), "rank must be at least 1, got 0."),
        ("lora", ("--rank", 99), "rank of layers/0/attention/q must lie in 1 … 16, its width, got 99."),
        ("lora", ("--rank-pattern", "layer.1=4"), "pattern 'layer.1' matches no projection"),
        ("lora", ("--high-rank", 4), "--high-rank is not a setting of lora; leave it out."),
        ("lora", ("--preset", "published"), "lora has no preset 'published'; use one of default."),
        ("full", ("--trainable", "heads/*"), "pattern 'heads/*' matches no leaf of the model"),
        ("full", ("--adapter-out", "a"), "--adapter-out needs adapters"),
        ("lora", ("--adapter-out", "{tmp}/out/adapter"), "must lie apart"),
        ("lora", ("--adapter-out", "{tmp}/out"), "must lie apart"),
        ("full", ("--shard", "weights"), "shard (weights) has no effect without a mesh"),
        ("full", ("--mesh", "data=4096"), "--mesh data=4096 needs 4096 devices, there are"),
        ("full", ("--epochs", 0), "epochs must be at least 1, got 0."),
        ("full", ("--distill", 0.5), "distillation needs a teacher"),
        ("prune-lora", ("--remove-heads", 40), "--remove-heads must lie in [0, 1], got 40.0."),
        ("prune-lora", ("--device-limit", 1000), "a training step is predicted to need"),
        ("prune-lora", ("--trainable", "head/*"), "--trainable is for the method full"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(cli, inputs, tmp_path, method, more, says):
    more = [str(word).replace("{tmp}", str(tmp_path)) for word in more]
    run = cli(*words(inputs, method, tmp_path / "out", *more))
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith("jaxprune: error: ") and run.err.count("\n") == 1 and says in run.err
    assert list(tmp_path.iterdir()) == []


def test_texts_without_a_training_split_or_labels_are_refused(cli, inputs, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "validation.jsonl").write_text('{"text": "good", "label": 1}\n')
    data = ("--task", "text-classification", "--data", tmp_path / "data")
    run = cli("finetune", "--model", inputs.model, *data, "--out", tmp_path / "out")
    assert run.code == 2 and 'no examples in split "train"' in run.err
    (tmp_path / "data" / "train.jsonl").write_text('{"text": "good", "label": 1}\n{"text": "bad"}\n')
    run = cli("finetune", "--model", inputs.model, *data, "--out", tmp_path / "out")
    assert run.code == 2 and "train text 1 has no label" in run.err
    (tmp_path / "data" / "validation.jsonl").unlink()
    (tmp_path / "data" / "train.jsonl").write_text('{"text": "good", "label": 1}\n{"text": "bad", "label": 0}\n')
    run = cli("finetune", "--model", inputs.model, *data, "--out", tmp_path / "out")
    assert run.code == 2 and 'no examples in split "validation"' in run.err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_a_fitting_head_gets_a_new_one(cli, inputs, tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        rows = [json.dumps({"text": text, "label": text}) for text in ("good", "bad", "fine") for _ in range(4)]
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    data = ("--task", "text-classification", "--data", tmp_path / "data")
    run = cli.json("finetune", "--model", inputs.model, *data, "--out", tmp_path / "out", "--epochs", 1)
    assert run.code == 0, run.err
    manifest = json.loads((tmp_path / "out" / "jaxprune.json").read_text())
    assert manifest["architecture"]["labels"] == ["bad", "fine", "good"]
    assert not any("fine-tune first" in warning for warning in run.data["warnings"])
    assert any("does not fit" in warning and "a new one took its place" in warning for warning in run.data["warnings"])


def test_a_head_that_reads_whole_numbers_as_values_stays(tmp_path):
    """The head says regression, so it trains as one; what could be yes or no is asked, not a reason for a new head."""
    config = tiny.config("bert", id2label={"0": "LABEL_0"})
    folder = str(tiny.write(tmp_path / "model", config, tiny.tensors(config)))
    rows = [json.dumps({"text": "good", "label": label}) for label in (1, 3, 5)]
    (tmp_path / "stars.jsonl").write_text("\n".join(rows))
    (tmp_path / "yes.jsonl").write_text(json.dumps({"text": "good", "label": 1}))
    given = argparse.Namespace(model=folder, seed=0, revision=None, ignore_config_key=[])
    model = load_for(tasks.folder(tmp_path / "stars.jsonl"), given)
    own = load(folder)
    assert model.architecture.problem == "regression" and model.provenance.warnings == own.provenance.warnings
    np.testing.assert_array_equal(model.params["head"]["kernel"], own.params["head"]["kernel"])
    with pytest.raises(DataError, match="labels 0 and 1 can be values or no and yes to a model with one output"):
        load_for(tasks.folder(tmp_path / "yes.jsonl"), given)


@pytest.mark.parametrize("out", [".", "/", ""])
def test_an_output_without_a_name_is_refused(cli, inputs, out):
    run = cli(*words(inputs, "full", out))
    assert run.code == 2 and "is no name for a new folder" in run.err and run.err.count("\n") == 1


@pytest.mark.slow
def test_an_interrupted_run_resumes(inputs, tmp_path):
    """A process of its own is told to stop in the middle of its training; --resume ends as if it had not been."""
    out = tmp_path / "tuned"
    argv = [str(word) for word in words(inputs, "full", out, "--epochs", 12, "--batch-size", 4, "--json")]
    command = [sys.executable, "-m", "jaxprune.cli.main", *argv]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root)
    log = tmp_path / "tuned.run" / "log.jsonl"
    while process.poll() is None and (not log.exists() or log.read_text().count("\n") < 20):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert "interrupted" in json.loads(stdout)["error"] and "--resume" in json.loads(stdout)["error"]
    assert not out.exists()
    stopped = [json.loads(line)["step"] for line in log.read_text().splitlines() if "step" in json.loads(line)]
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if "score" in line]
    assert len(epochs) == 12
    assert [line["step"] for line in lines if "step" in line] == list(range(1, 12 * epochs[0]["steps"] + 1))
    assert stopped == list(range(1, len(stopped) + 1))
    assert not (tmp_path / "tuned.run").exists()


def test_token_classification_from_an_encoder_to_an_exported_folder(cli, inputs, tmp_path):
    rows = [{"tokens": ["the", "film", "was", "good"], "tags": ["O", "B-X", "O", "O"]}] * 24
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "validation"):
        (data / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task, tuned, small = ("--task", "token-classification", "--data", data), tmp_path / "tuned", tmp_path / "small"
    made = cli.json("finetune", "--method", "full", "--model", inputs.model, *task, "--out", tuned, "--epochs", 1)
    assert made.code == 0 and made.data["metric"] == "f1", made.err
    assert load(tuned).architecture.labels == ("B-X", "O")
    pruned = cli("prune", "--model", tuned, *task, "--remove", 0.3, "--calibration-samples", 24, "--out", small)
    assert pruned.code == 0, pruned.err
    scored = cli.json("evaluate", "--model", small, *task)
    assert list(scored.data["metrics"]) == ["f1", "precision", "recall", "accuracy"]
    exported = cli("export", "--model", small, "--out", tmp_path / "hf", "--fill-zeros")
    assert exported.code == 0, exported.err
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"] and config["id2label"] == {"0": "B-X", "1": "O"}
    again = cli.json("evaluate", "--model", tmp_path / "hf", *task)
    assert again.data["metrics"] == pytest.approx(scored.data["metrics"])
