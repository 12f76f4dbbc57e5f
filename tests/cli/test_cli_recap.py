import json

import pytest

QUICK = ("--rounds", 2, "--batch-size", 32, "--samples", 32, "--outer", "frozen", "--dropout", 0.0)


def words(inputs, out, *more):
    data = ("--task", "text-classification", "--data", inputs.data)
    return ("recap", "--model", inputs.model, *data, "--out", out, *more)


def test_recap_leaves_one_folder_that_loads(cli, inputs, tmp_path):
    out, full = tmp_path / "small", tmp_path / "full"
    run = cli.json(*words(inputs, out, *QUICK, "--remove", 0.4, "--freeze", 0.5, "--seed", 1, "--full-out", full))
    assert run.code == 0, run.err
    assert len(run.data["rounds"]) == 2 and run.data["seed"] == 1
    assert set(run.data["rounds"][0]["phases"]) == set(run.data["device_bytes"]["measured"])
    assert run.data["masked_vs_cut"] < 1e-5 and 0.3 < run.data["removed"]["params"] < 0.6
    assert 0 < run.data["disk_bytes"] < run.data["source_disk_bytes"]
    assert (out / "rounds.png").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["full", "small"]
    data = ("--task", "text-classification", "--data", inputs.data)
    assert cli.json("evaluate", "--model", out, *data).data["score"] == run.data["score"]
    assert cli.json("inspect", "--model", full).code == 0
    shown = cli("inspect", "--model", out).out
    assert "% of params" in shown and "of length" not in shown
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1]
    again = cli(*words(inputs, out, *QUICK))
    assert again.code == 2 and "exists and is not empty" in again.err
    again = cli(*words(inputs, out, *QUICK), "--resume")
    assert again.code == 2 and "small is complete: no run is left to go on with" in again.err


@pytest.mark.parametrize(
    "more, says",
    [
        (("--remove", 1.0), "remove must lie in [0, 1), got 1.0."),
        (("--freeze", -0.5), "freeze must lie in [0, 1), got -0.5."),
        (("--remove", 0.9), "remove 0.9 is above the cap"),
        (("--rounds", 0), "rounds must be at least 1, got 0."),
        (("--device", "cpu:64"), "device 'cpu:64' was asked, but there are"),
        (("--preset", "mine"), "Recap has no preset 'mine'; use one of default, published-bert-cola"),
        (("--device-limit", 1000), ", the limit is 1,000"),
        (("--device-limit", "1.5kib"), ", the limit is 1,536"),
        (
            ("--device-limit", "all"),
            "'all' is no number of bytes; write 8000000000, 8GB or 7.5GiB; see jaxprune recap --help.",
        ),
        (("--shard", "weights"), "shard (weights) has no effect without a mesh"),
        (("--mesh", "data=1", "--device", "cpu:0"), "device cpu:0 is one device, and a mesh has its own"),
        (("--mesh", "data=1", "--shard", "weights", "--device-limit", 1000), "the limit is 1,000"),
        (("--epochs", 3), "unrecognized arguments: --epochs 3"),
    ],
)
def test_bad_input_is_one_line(cli, inputs, tmp_path, more, says):
    run = cli(*words(inputs, tmp_path / "out", "--samples", 16, *more))
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith("jaxprune: error: ") and run.err.count("\n") == 1 and says in run.err
    assert not (tmp_path / "out").exists()


def test_nothing_to_resume_is_said(cli, inputs, tmp_path):
    run = cli(*words(inputs, tmp_path / "out", "--samples", 16, "--device-limit", 1000, "--resume"))
    assert run.code == 2 and "out.run holds no state to go on from: the run starts anew." in run.err.splitlines()[0]


def test_an_interrupted_run_is_refused_without_resume(cli, inputs, tmp_path, monkeypatch):
    from jaxprune.finetuning.recap import rounds

    real, calls = rounds.evaluate, []

    def stop(*arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(rounds, "evaluate", stop)
    run = cli(*words(inputs, tmp_path / "out", *QUICK))
    assert run.code == 130 and "the state after round 1 is in" in run.err and "Go on with --resume." in run.err
    again = cli(*words(inputs, tmp_path / "out", *QUICK))
    assert again.code == 2 and "holds an interrupted run; go on with --resume" in again.err
    done = cli.json(*words(inputs, tmp_path / "out", *QUICK, "--resume"))
    assert done.code == 0 and len(done.data["rounds"]) == 2 and not (tmp_path / "out.run").exists()


def test_where_nothing_is_kept_there_is_nothing_to_go_on_with(cli, inputs, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxprune.finetuning.recap.method.one_round", stop)
    run = cli(*words(inputs, tmp_path / "out", *QUICK))
    assert run.code == 130 and "no round was complete, so nothing is kept" in run.err and "--resume" not in run.err
