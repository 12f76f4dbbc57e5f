import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

ASKED = ("removed", "dense_score", "score", "metric", "masked_vs_cut", "seconds", "dense_forwards", "peak_bytes")


def task(inputs):
    return ("--model", inputs.model, "--task", "text-classification", "--data", inputs.data)


def test_prune_then_evaluate(cli, inputs, tmp_path):
    """One object on stdout with what was asked; the folder scores the same when it is loaded again."""
    out = tmp_path / "small"
    run = cli.json("prune", *task(inputs), "--remove", 0.5, "--calibration-samples", 32, "--out", out)
    assert run.code == 0, run.err
    assert set(ASKED) <= set(run.data)
    assert 0.5 <= run.data["removed"]["flops"] < 0.6
    assert run.data["masked_vs_cut"] < 1e-5
    assert run.data["calibration"]["count"] == 32
    scored = cli.json("evaluate", "--model", out, "--task", "text-classification", "--data", inputs.data)
    assert scored.data["score"] == run.data["score"]
    assert scored.data["examples"] == run.data["examples"] == 16
    assert scored.data["tokens_per_second"] > 0
    manifest = json.loads((out / "jaxprune.json").read_text())
    assert run.data["score"] in _numbers(manifest) and run.data["dense_score"] in _numbers(manifest)


def test_streamed_bfloat16_weights(cli, inputs, tmp_path):
    """The same units, and a folder of half the bytes, whether weights are streamed or not."""
    found = {}
    for words in (("--dtype", "bfloat16"), ("--dtype", "bfloat16", "--stream"), ("--mesh", "data=1")):
        out = tmp_path / "-".join(words)
        run = cli.json("prune", *task(inputs), "--remove", 0.5, "--calibration-samples", 32, "--out", out, *words)
        assert run.code == 0, run.err
        found[words] = load_file(out / "model.safetensors"), run.data["score"], run.data["layers"]
    whole, streamed, mesh = found.values()
    assert whole[1:] == streamed[1:]
    for name, tensor in whole[0].items():
        np.testing.assert_array_equal(tensor, streamed[0][name])
        assert (tensor.dtype.name, mesh[0][name].dtype.name) == ("bfloat16", "float32")
    scored = cli.json("evaluate", *task(inputs)[2:], "--model", out, "--stream")
    assert scored.data["score"] == mesh[1]


def test_the_saved_folder_in_half_precision(cli, inputs, tmp_path):
    words = (*task(inputs), "--method", "magnitude", "--remove", 0.5, "--calibration-samples", 32)
    run = cli.json("prune", *words, "--save-dtype", "float16", "--out", tmp_path / "half")
    assert run.code == 0, run.err
    assert {array.dtype.name for array in load_file(tmp_path / "half" / "model.safetensors").values()} == {"float16"}
    size = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert run.data["disk_bytes"] == size < run.data["source_disk_bytes"] / 2
    scored = cli.json("evaluate", *task(inputs)[2:], "--model", tmp_path / "half")
    assert scored.code == 0 and abs(scored.data["score"] - run.data["score"]) < 0.2
    shown = cli.json("inspect", "--model", tmp_path / "half").data
    assert (shown["record"]["dtype"], shown["disk_bytes"]) == ("float16", size)


def test_several_budgets_share_one_measuring_pass(cli, inputs, tmp_path):
    out = tmp_path / "sizes"
    words = ("--remove", 0.3, 0.6, "--calibration-samples", 32, "--no-evaluate", "--out", out)
    run = cli.json("prune", *task(inputs), "--method", "kprune", *words)
    assert run.code == 0, run.err
    assert sorted(path.name for path in out.iterdir()) == ["remove-0.30", "remove-0.60"]
    first, second = run.data["runs"]
    assert first["removed"]["flops"] < second["removed"]["flops"]
    assert second["reused"]
    assert "score" not in first and run.data["dense_score"] is None


def test_a_person_gets_tables_and_no_json(cli, inputs, tmp_path):
    words = ("--method", "magnitude", "--remove", 0.5, "--calibration-samples", 32, "--out", tmp_path / "small")
    run = cli("prune", *task(inputs), *words)
    assert run.code == 0, run.err
    assert "of 4" in run.out and "of 24" in run.out
    assert "weights on disk" in run.out and "(the checkpoint:" in run.out
    assert "{" not in run.out


def test_an_existing_folder_is_refused_before_the_work(cli, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxprune.tasks.load", lambda *_: pytest.fail("work began"))
    words = ("--remove", 0.5, "--out", tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    run = cli("prune", *task(inputs), *words)
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith(f"jaxprune: error: {tmp_path} exists") and run.err.count("\n") == 1
    run = cli("prune", *task(inputs), *words, "--overwrite")
    assert run.code == 2 and "was not written by jaxprune" in run.err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwrite_replaces_a_folder_of_ours(cli, inputs, tmp_path):
    out = tmp_path / "small"
    words = ("--method", "random", "--calibration-samples", 32, "--no-evaluate", "--out", out)
    assert cli("prune", *task(inputs), *words, "--remove", 0.5).code == 0
    before = (out / "jaxprune.json").read_text()
    assert cli("prune", *task(inputs), *words, "--remove", 0.7, "--overwrite").code == 0
    assert (out / "jaxprune.json").read_text() != before


def test_stdout_is_one_object_in_a_process_of_its_own(inputs, tmp_path):
    command = [sys.executable, "-m", "jaxprune.cli.main", "prune", *task(inputs), "--json", "--method", "random"]
    command += ["--remove", "0.5", "--calibration-samples", "16", "--out", str(tmp_path / "small")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["out"] == str(tmp_path / "small")
    assert done.stdout.count("\n") == 1


def test_an_interrupted_run_goes_on_from_what_it_measured(cli, inputs, tmp_path, monkeypatch):
    from jaxprune.pruning.run import Run

    words = ("prune", *task(inputs), "--remove", 0.5, "--calibration-samples", 16, "--no-evaluate", "--out")
    expected = cli.json(*words, tmp_path / "plain").data

    def finish(*given, **settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", finish)
        stopped = cli(*words, tmp_path / "small")
    assert stopped.code == 130 and "Go on with --resume." in stopped.err
    assert not (tmp_path / "small").exists() and (tmp_path / "small.run").is_dir()
    assert "holds what an interrupted run measured; go on with --resume" in cli(*words, tmp_path / "small").err
    found = cli.json(*words, tmp_path / "small", "--resume").data
    assert found["layers"] == expected["layers"] and found["reused"] == ["measurement of a run that was stopped"]
    assert not (tmp_path / "small.run").exists()


def test_resume_without_anything_to_go_on_from(cli, inputs, tmp_path):
    words = ("prune", *task(inputs), "--remove", 0.5, "--calibration-samples", 16, "--no-evaluate", "--resume", "--out")
    refused = cli(*words, tmp_path / "small", "--method", "magnitude")
    assert refused.code == 2 and "magnitude has no measurement to go on from" in refused.err
    told = cli(*words, tmp_path / "small")
    assert told.code == 0 and "holds nothing to go on from: the run starts anew" in told.err


def test_several_models_do_not_go_into_the_folder_of_one(cli, inputs, tmp_path):
    words = ("prune", *task(inputs), "--method", "random", "--calibration-samples", 32, "--no-evaluate")
    assert cli(*words, "--out", tmp_path / "small", "--remove", 0.5).code == 0
    refused = cli(*words, "--out", tmp_path / "small", "--remove", 0.5, 0.6)
    assert refused.code == 2 and "holds a model; name another folder for 2 of them" in refused.err


def _numbers(tree):
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [n for child in tree for n in _numbers(child)] if isinstance(tree, list) else [tree]
