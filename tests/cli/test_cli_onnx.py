"""A model out of JAX on the command line: exported, scored, predicting and timed by onnxruntime."""

import pytest

pytest.importorskip("onnx", reason="ONNX files need the package onnx")
pytest.importorskip("onnxruntime", reason="ONNX files are run by onnxruntime")

from jaxprune.cli.main import main


@pytest.fixture(scope="module")
def folders(inputs, tmp_path_factory):
    """A pruned folder, and what was exported of it."""
    root = tmp_path_factory.mktemp("onnx")
    words = ("--task", "text-classification", "--data", inputs.data, "--method", "random", "--remove", "0.5")
    words += ("--cost", "params", "--calibration-samples", "16", "--no-evaluate", "--quiet", "--out", root / "small")
    assert main([*map(str, ("prune", "--model", inputs.model, *words))]) == 0
    words = ("--model", root / "small", "--format", "onnx", "--int8", "--out", root / "onnx")
    assert main([*map(str, ("export", *words))]) == 0
    return root


def test_the_file_scores_and_predicts_as_the_folder_does(cli, inputs, folders, tmp_path):
    task = ("--task", "text-classification", "--data", inputs.data)
    ours = cli.json("evaluate", "--model", folders / "small", *task).data
    theirs = cli.json("evaluate", "--model", folders / "onnx", *task, "--runtime", "onnxruntime").data
    assert theirs["metrics"] == ours["metrics"] and (ours["runtime"], theirs["runtime"]) == ("jax", "onnxruntime")
    eight = cli.json("evaluate", "--model", folders / "onnx", *task, "--runtime", "onnxruntime-int8")
    assert eight.code == 0 and eight.data["examples"] == ours["examples"]
    said = [
        cli("predict", "--model", folders / name, "--text", "the film was good", "--runtime", runtime).out
        for name, runtime in (("small", "jax"), ("onnx", "onnxruntime"))
    ]
    assert said[0].partition(" ")[0] == said[1].partition(" ")[0]


def test_both_models_are_timed_in_a_runtime(cli, folders):
    for runtime in ("onnxruntime", "onnxruntime-int8"):
        words = ("--model", folders / "small", "--shapes", "2x8", "--repeats", 2, "--runtime", runtime)
        (row,) = cli.json("bench", *words).data["results"]
        assert (row["runtime"], row["device"]) == (runtime, "cpu") and row["dense_seconds"] > 0 < row["speedup"]


def test_what_does_not_go_together_is_named(cli, inputs, folders):
    task = ("--task", "text-classification", "--data", inputs.data)
    for words, says in (
        (
            ("evaluate", "--model", folders / "small", *task, "--runtime", "onnxruntime"),
            "jaxprune_export.json is missing",
        ),
        (
            ("evaluate", "--model", folders / "onnx", *task, "--runtime", "onnxruntime", "--stream"),
            "--stream and --dtype have no effect with --runtime onnxruntime",
        ),
        (
            ("predict", "--model", folders / "onnx", "--text", "a film", "--runtime", "onnxruntime", "--revision", "x"),
            "--revision has no effect with --runtime onnxruntime; leave it out.",
        ),
        (
            ("evaluate", "--model", folders / "onnx", *task, "--runtime", "onnxruntime", "--ignore-config-key", "x"),
            "--ignore-config-key has no effect with --runtime onnxruntime; leave it out.",
        ),
        (("bench", "--model", folders / "small", "--generate", 1, "--runtime", "onnxruntime"), "--generate times JAX"),
        (("export", "--model", folders / "small", "--int8", "--out", "x"), "int8 (True) has no effect with format"),
        (("export", "--model", folders / "small", "--generation", "--out", "x"), "generation (True) has no effect"),
    ):
        run = cli(*words)
        assert run.code == 2 and says in run.err, run.err
