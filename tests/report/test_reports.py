import csv
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import jaxprune as jp
from jaxprune.assets import demo_data_path, demo_model_path
from jaxprune.errors import BudgetError, OutputError
from jaxprune.jsonio import dumps, write_csv, write_json
from jaxprune.model import Architecture, LayerSizes
from jaxprune.pruning.budget import Budget
from jaxprune.report.compare import Comparison, Result
from jaxprune.report.plots import comparison_plot
from jaxprune.report.progress import progress
from jaxprune.report.tables import comparison_table, layers_table, si


def result(method, remove, score, seed=0, **settings):
    return Result(
        method=method,
        seed=seed,
        remove=remove,
        **settings,
        removed_flops=remove + 0.001,
        removed_params=remove,
        score=score,
        metric="accuracy",
        masked_vs_cut=1e-6,
        seconds=2.0,
        dense_forwards=6.0,
        peak_bytes=1000,
    )


COMPARISON = Comparison(
    task="sst2",
    metric="accuracy",
    dense_score=0.9,
    examples=100,
    calibration_samples=16,
    results=(
        result("kprune", 0.4, 0.88),
        result("kprune", 0.8, 0.80),
        result("kprune", 0.4, 0.86, seed=1),
        result("kprune", 0.8, 0.84, seed=1),
        result("random", 0.4, 0.70),
    ),
)


def text(table):
    stream = io.StringIO()
    Console(file=stream, width=120).print(table)
    return stream.getvalue()


def test_comparison_table_shows_means_and_spreads():
    shown = text(comparison_table(COMPARISON))
    assert "dense 0.9000" in shown
    assert "0.8700 ± 0.0100" in shown and "0.8200 ± 0.0200" in shown
    assert "4.0" in shown  # two budgets of 2 s, mean over seeds
    assert "0.7000" in shown


UNIFORM: dict[str, Any] = {"uniform": True, "keep_heads": True}
ONE_SHARE = replace(COMPARISON, results=(result("random", 0.6, 0.9), result("random", 0.6, 0.8, **UNIFORM)))


def test_two_budgets_of_one_share_stay_two():
    plain, even = Budget(0.6), Budget(0.6, **UNIFORM)
    assert ONE_SHARE.budgets == (plain, even)
    assert [ONE_SHARE.mean_score("random", budget) for budget in (plain, even)] == [0.9, 0.8]
    with pytest.raises(BudgetError, match=r"2 budgets remove 0\.6; pass one of them: Budget\(remove=0\.6, "):
        ONE_SHARE.mean_score("random", 0.6)
    assert COMPARISON.mean_score("kprune", 0.4) == pytest.approx(0.87)
    shown = text(comparison_table(ONE_SHARE))
    assert "uniform=False" in shown and "keep_heads=True" in shown and "±" not in shown
    assert "0.9000" in shown and "0.8000" in shown and "0.8500" not in shown
    assert "uniform" not in text(comparison_table(COMPARISON))


def test_compare_notes_every_setting_of_a_budget():
    model, task = jp.load(demo_model_path()), jp.tasks.folder(demo_data_path())
    budgets = (Budget(0.6), Budget(0.6, "params", 16, 8, **UNIFORM))
    assert jp.compare(model, task, budgets, ["magnitude"], calibration=8, limit=8).budgets == budgets


@pytest.mark.parametrize(
    ("comparison", "labels"),
    [
        (COMPARISON, ["kprune", "random"]),
        (ONE_SHARE, ["random, uniform=False, keep_heads=False", "random, uniform=True, keep_heads=True"]),
    ],
)
def test_plot_has_a_line_for_what_is_drawn_apart(comparison, labels, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn, errorbar = {}, Axes.errorbar

    def noted(self, x, y, **settings):
        drawn[settings["label"]] = len(y)
        return errorbar(self, x, y, **settings)

    monkeypatch.setattr(Axes, "errorbar", noted)
    comparison_plot(comparison, tmp_path / "compare.png")
    assert list(drawn) == labels
    assert sum(drawn.values()) == (2 if comparison is ONE_SHARE else 3)


def test_layers_table_shows_what_is_left():
    sizes = [LayerSizes(groups=4, neurons=64), LayerSizes(groups=4, neurons=64)]
    dense = Architecture(family="bert", vocab=9, hidden=32, head_width=8, layers=tuple(sizes), max_positions=16)
    pruned = dense.with_layers((LayerSizes(groups=2, neurons=32), LayerSizes(groups=0, neurons=0)))
    shown = text(layers_table(pruned, 16, dense))
    assert "2 of 4" in shown and "32 of 64" in shown and "50.0 %" in shown and "0.0 %" in shown


def test_plot_is_written_whole(tmp_path):
    path = comparison_plot(COMPARISON, tmp_path / "new" / "compare.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == ["compare.png"]


def test_csv_and_json_say_the_same(tmp_path):
    rows = [{"method": "kprune", "score": np.float32(0.5)}, {"method": "random", "score": None, "note": "a, b"}]
    with write_csv(tmp_path / "rows.csv", rows).open(newline="") as file:
        read = list(csv.DictReader(file))
    assert read[0] == {"method": "kprune", "score": "0.5", "note": ""}
    assert read[1]["note"] == "a, b"
    assert json.loads(write_json(tmp_path / "rows.json", rows).read_text())[0] == {"method": "kprune", "score": 0.5}


def test_json_is_valid_whatever_comes():
    odd = {
        "nan": float("nan"),
        "inf": np.float32("inf"),
        "array": np.arange(2),
        3: (1, 2),
        "set": {1},
        "b": np.bool_(1),
    }
    assert json.loads(dumps(odd)) == {"nan": None, "inf": None, "array": [0, 1], "3": [1, 2], "set": "{1}", "b": True}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="rows.json cannot be written"):
        write_json(tmp_path / "file" / "rows.json", [])


def test_progress_is_quiet_when_stderr_is_no_terminal(capfd):
    with progress("kprune") as on_step:
        on_step({"phase": "measure", "done": 1, "of": 2})
        on_step({"phase": "refit", "done": 1, "of": 2})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "number, shown",
    [(1234567, "1.23 MB"), (12, "12 B"), (5e9, "5 GB"), (2.5e13, "25 TB"), (4e15, "4 PB"), (0, "0 B")]
    + [(999.4, "999 B"), (999.6, "1 kB"), (999_999, "1 MB"), (999_700_000, "1 GB"), (-999.6, "-1 kB")],
)
def test_si(number, shown):
    assert si(number, "B") == shown
