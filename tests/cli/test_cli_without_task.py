"""Pruning needs no task: texts of a file will do, for every kind of model."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from jaxprune.errors import DataError
from jaxprune.tasks.calibration import Calibration
from tests.helpers.decoders import language_model

TEXTS = [
    f"the film was {word} and the {noun} was dull" for word in ("good", "bad", "fine") for noun in ("plot", "cast")
]


@pytest.fixture
def texts(tmp_path) -> Path:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    return tmp_path / "texts.txt"


def headless(source: str, folder: Path) -> Path:
    """The model of `source` without its head."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if "classifier" not in name}, folder / "model.safetensors"
    )
    return folder


@pytest.mark.parametrize("head", ["classification", "none"])
def test_texts_alone_prune(cli, inputs, texts, tmp_path, head):
    model = inputs.model if head == "classification" else headless(inputs.model, tmp_path / "model")
    words = ("--model", model, "--calibration-texts", texts, "--remove", 0.5, "--out", tmp_path / "small")
    run = cli.json("prune", *words)
    assert run.code == 0, run.err
    assert run.data["removed"]["flops"] >= 0.5 and run.data["task"] is None and "score" not in run.data
    assert "no task is named: neither the model nor the smaller one was scored." in run.data["warnings"]
    given = run.data["calibration"]
    assert (given["source"], given["count"], given["hash"]) == (str(texts), 6, Calibration.of_texts(TEXTS).hash)


def test_a_language_model_reads_running_text(cli, tmp_path):
    """As its task would: windows, drawn with the seed."""
    language_model(tmp_path / "model", "llama")
    (tmp_path / "texts.json").write_text(json.dumps([{"text": text} for text in TEXTS]))
    words = ("--model", tmp_path / "model", "--calibration-texts", tmp_path / "texts.json", "--seq-len", 8, "--seed", 3)
    words += ("--calibration-samples", 4, "--remove", 0.3, "--method", "magnitude")
    run = cli.json("prune", *words, "--out", tmp_path / "small")
    assert run.code == 0, run.err
    given = run.data["calibration"]
    assert (given["count"], given["tokens"], given["seed"]) == (4, 32, 3)
    running = Calibration.of_running_text(tmp_path / "texts.json", 4, 3, length=8)
    assert (given["source"], given["hash"]) == (running.source, running.hash)
    (tmp_path / "scored.txt").write_text("the film " * 20)
    task = ("--task", "text", "--data", tmp_path / "scored.txt", "--no-evaluate", "--out", tmp_path / "other")
    assert cli.json("prune", *words, *task).data["calibration"]["hash"] == given["hash"]


def test_plan_reads_texts_alone(cli, inputs, texts, monkeypatch):
    planned = []

    def plan(model, calibration, *_, **__):
        planned.append(calibration)
        raise DataError("enough.")

    monkeypatch.setattr("jaxprune.cli.plan.plan", plan)
    assert cli("plan", "--model", inputs.model, "--remove", 0.5, "--calibration-texts", texts).code == 2
    assert planned[0].hash == Calibration.of_texts(TEXTS).hash


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_methods_that_measure_no_texts_need_none(cli, inputs, texts, tmp_path, method):
    """And cut what they cut with texts; FLOPs are counted at as many tokens as the model reads, or as are asked for."""
    words = ("--model", inputs.model, "--remove", 0.5, "--method", method, "--cost", "params")
    alone = cli.json("prune", *words, "--out", tmp_path / "alone")
    assert alone.code == 0, alone.err
    given = cli.json("prune", *words, "--calibration-texts", texts, "--out", tmp_path / "given").data
    assert alone.data["layers"] == given["layers"] and alone.data["masked_vs_cut"] < 1e-5
    assert alone.data["calibration"]["source"] == f"none: {method} measures no texts, made-up token ids check the cut"
    assert alone.data["budget"]["length"] == 32 and not any("texts" in entry for entry in alone.data["warnings"])
    asked = cli.json("prune", *words, "--seq-len", 7, "--out", tmp_path / "asked").data
    assert asked["budget"]["length"] == 7


@pytest.mark.parametrize(
    "words, message",
    [
        (("--method", "magnitude", "--refit", "weights"), "there are no texts to calibrate on"),
        (("--method", "random", "--calibration-samples", 9), "--calibration-samples has no effect without texts"),
        (("--method", "magnitude", "--seq-len", 99), "texts of 99 tokens do not fit the model's 32 positions"),
        ((), "there are no texts to calibrate on; name a task, or a file of texts with --calibration-texts."),
        (("--calibration-texts", "TEXTS", "--data", "x"), "--data is for a task, and none is named"),
        (("--calibration-texts", "TEXTS", "--windows", 2), "--windows is for a task, and none is named"),
        (("--calibration-texts", "TEXTS", "--documents"), "--documents is for a task, and none is named"),
        (("--calibration-texts", "TEXTS", "--hub-rows", 2), "--hub-rows is for a task, and none is named"),
        (("--calibration-texts", "TEXTS", "--limit", 2), "--limit is for a task, and none is named"),
        (("--calibration-texts", "TEXTS", "--evaluate"), "--evaluate needs a task to score on"),
        (("--calibration-texts", "TEXTS.none"), "cannot be read: No such file"),
    ],
)
def test_what_needs_a_task_or_texts(cli, inputs, texts, tmp_path, words, message):
    words = [str(word).replace("TEXTS", str(texts)) for word in words]
    run = cli("prune", "--model", inputs.model, "--remove", 0.5, "--out", tmp_path / "small", *words)
    assert run.code == 2 and message in run.err and run.err.count("\n") == 1
    assert not (tmp_path / "small").exists()


def test_unlabelled_texts_prune(cli, inputs, tmp_path):
    """Training texts need no labels, scored ones do: that is said before the work."""
    data = tmp_path / "data"
    shutil.copytree(inputs.data, data)
    lines = [
        {"text": text, **label} for text, label in zip(TEXTS, [{}, {"label": -1}, {"label": None}] * 2, strict=True)
    ]
    (data / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ("--model", inputs.model, "--task", "text-classification", "--data", data, "--calibration-samples", 6)
    words += ("--remove", 0.5, "--method", "magnitude")
    run = cli.json("prune", *words, "--out", tmp_path / "small")
    assert run.code == 0 and run.data["examples"] == 16, run.err
    shutil.copy(data / "train.jsonl", data / "validation.jsonl")
    run = cli("prune", *words, "--out", tmp_path / "other")
    assert run.code == 2 and 'no labels in split "validation"' in run.err and "pass --no-evaluate." in run.err
    assert cli("prune", *words, "--out", tmp_path / "other", "--no-evaluate").code == 0
    run = cli("prune", *words, "--out", tmp_path / "third", "--no-evaluate", "--limit", 3)
    assert run.code == 2 and "--limit has no effect with --no-evaluate" in run.err
    run = cli("compare", *words[:6], "--remove", 0.5, "--out", tmp_path / "compared")
    assert run.code == 2 and 'no labels in split "validation"' in run.err
