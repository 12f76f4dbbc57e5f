import csv
import json

import pytest

import jaxprune as jp
from jaxprune.cli.bench import dense_source, shape
from jaxprune.errors import CheckpointError, SettingsError


def task(inputs):
    return ("--model", inputs.model, "--task", "text-classification", "--data", inputs.data)


@pytest.fixture(scope="module")
def small(inputs, tmp_path_factory):
    """A folder pruned at random: enough for the commands that read one."""
    from jaxprune.cli.main import main

    out = tmp_path_factory.mktemp("pruned") / "small"
    words = ("--method", "random", "--remove", "0.5", "--cost", "params", "--calibration-samples", "16")
    words += ("--no-evaluate",)
    assert main(["prune", *task(inputs), *words, "--out", str(out)]) == 0
    return out


def test_evaluate_scores_the_split_that_is_named(cli, inputs, monkeypatch):
    run = cli.json("evaluate", *task(inputs), "--split", "train")
    assert (run.code, run.data["split"], run.data["examples"]) == (0, "train", 64)
    assert cli.json("evaluate", *task(inputs)).data["split"] == "validation"
    monkeypatch.setattr("jaxprune.cli.flags.read", lambda *_, **__: pytest.fail("the model was read"))
    run = cli("evaluate", *task(inputs), "--split", "test")
    assert run.code == 2 and 'no examples in split "test"; labelled are train, validation.' in run.err


def test_compare_writes_table_json_and_plot(cli, inputs, tmp_path):
    words = ("--methods", "magnitude", "random", "--remove", 0.3, "--seeds", 0, 1, "--calibration-samples", 16)
    run = cli.json("compare", *task(inputs), *words, "--out", tmp_path)
    assert run.code == 0, run.err
    assert len(run.data["results"]) == 2 * 2
    with (tmp_path / "compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows[:2]] == ["magnitude", "random"]
    assert [float(row["score"]) for row in rows] == [result["score"] for result in run.data["results"]]
    assert json.loads((tmp_path / "compare.json").read_text())["dense_score"] == run.data["dense_score"]
    assert (tmp_path / "compare.png").stat().st_size > 10_000
    again = cli("compare", *task(inputs), *words, "--out", tmp_path)
    assert again.code == 2 and "--overwrite" in again.err


def test_compare_asks_for_a_place_that_can_be_written_before_the_work(cli, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxprune.cli.flags.read", lambda *_, **__: pytest.fail("the work began"))
    (tmp_path / "file").write_text("x")
    run = cli("compare", *task(inputs), "--remove", 0.5, "--out", tmp_path / "file" / "out")
    assert run.code == 2 and f"{tmp_path / 'file'} cannot be written" in run.err


def test_plan_with_a_task_counts_its_tokens(cli, inputs):
    run = cli.json("plan", *task(inputs), "--remove", 0.5, "--calibration-samples", 16)
    assert run.code == 0, run.err
    calibration = run.data["calibration"]
    assert calibration["texts"] == 16 and 16 * 5 <= calibration["tokens"] <= 16 * 32
    assert run.data["pruned"]["flops"] < run.data["dense"]["flops"]


def test_inspect_shows_sizes_and_record(cli, inputs, small):
    dense = cli.json("inspect", "--model", inputs.model).data
    assert dense["layers"] == [{"groups": 4, "heads": 4, "neurons": 24}] * 2
    assert dense["record"] is None
    pruned = cli.json("inspect", "--model", small).data
    assert pruned["prunable_parameters"] <= dense["prunable_parameters"] / 2
    assert pruned["record"]["method"] == "random"
    shown = cli("inspect", "--model", small).out
    assert "random" in shown and " of 4" in shown and " of 24" in shown and "left" in shown
    assert "left" not in cli("inspect", "--model", inputs.model).out


def test_inspect_lists_every_warning_once(cli, small):
    run = cli.json("inspect", "--model", small)
    assert any("only 16 calibration texts" in warning for warning in run.data["warnings"])
    assert len(run.data["warnings"]) == len(set(run.data["warnings"])) == run.err.count("jaxprune: warning: ")


def test_export_writes_uneven_layers_and_fills_them_up_when_asked(cli, inputs, small, tmp_path):
    run = cli("export", "--model", small, "--out", tmp_path / "uneven")
    assert run.code == 0 and "modeling_pruned.py builds it in transformers, with trust_remote_code=True" in run.out
    assert (
        cli.json("inspect", "--model", tmp_path / "uneven").data["layers"]
        == (cli.json("inspect", "--model", small).data["layers"])
    )
    out = tmp_path / "out"
    words = ("export", "--model", small, "--format", "hf", "--out", out)
    run = cli.json(*words, "--fill-zeros", "--dtype", "bfloat16")
    assert run.code == 0, run.err
    assert run.data["config"]["architectures"] == ["BertForSequenceClassification"]
    assert run.data["bytes"] == cli.json("inspect", "--model", inputs.model).data["bytes"] / 2
    assert (out / "tokenizer.json").exists()
    assert cli(*words, "--fill-zeros", "--overwrite").out.startswith(f"{out}\n")  # not broken at the table's width


def test_bench_finds_the_dense_model_by_itself(cli, small):
    run = cli.json("bench", "--model", small, "--shapes", "2x16", "1x8", "--repeats", 2)
    assert run.code == 0, run.err
    assert [(row["rows"], row["length"]) for row in run.data["results"]] == [(2, 16), (1, 8)]
    assert all(row["flops_ratio"] > 1 for row in run.data["results"])


def test_bench_asks_for_a_dense_model_that_is_gone(tmp_path):
    with pytest.raises(CheckpointError, match="name it with --dense"):
        dense_source({"source": str(tmp_path / "gone")})
    with pytest.raises(CheckpointError, match="not recorded"):
        dense_source({})
    assert dense_source({"source": str(tmp_path)}) == (str(tmp_path), None)
    hub = {"revision": "main", "commit": "0123"}
    assert dense_source({"source": "someone/tiny", "hub": hub}) == ("someone/tiny", "0123")
    assert shape("32x128") == (32, 128)
    with pytest.raises(SettingsError, match="expected ROWSxLENGTH"):
        shape("32")


@pytest.mark.slow
def test_demo_at_a_tiny_size(cli, tmp_path, monkeypatch):
    # `make demo` runs it whole; most of its time goes into compiling programs for every method and budget.
    shown = []

    def small(**given):
        shown.append(jp.demo(remove=(0.6,), methods=("kprune", "random"), **given))
        return shown[-1]

    monkeypatch.setattr("jaxprune.cli.demo.demo", small)
    run = cli.json("demo", "--out", tmp_path, "--calibration-samples", 64, "--limit", 64, "--repeats", 2)
    assert run.code == 0, run.err
    assert [result["method"] for result in run.data["results"]] == ["kprune", "random"]
    assert [row["rows"] for row in run.data["bench"]] == [32, 1]
    assert (tmp_path / "compare.png").exists()
    # The same from Python.
    assert json.loads(json.dumps(shown[0].as_json())) == {k: run.data[k] for k in run.data if k != "files"}
    assert [(row["method"], row["remove"]) for row in shown[0].rows] == [("kprune", 0.6), ("random", 0.6)]
    assert shown[0].rows[0]["score"] > shown[0].rows[1]["score"]


def test_a_demo_of_nothing():
    with pytest.raises(jp.JaxpruneError, match="nothing to show"):
        jp.demo(methods=())
