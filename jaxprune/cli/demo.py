"""Prune the small model that comes with the package with every method, and show what it costs and gains."""

import argparse
from pathlib import Path
from typing import Any

from .. import tasks
from ..assets import demo_data_path, demo_model_path
from ..checkpoint import check_writable, load
from ..model import Model
from ..pruning.budget import Budget
from ..report.bench import SHAPES, bench
from ..report.compare import Result, compare
from ..report.progress import progress
from ..report.tables import bench_table, comparison_table
from .compare import write_comparison
from .outcome import Outcome

REMOVE = (0.4, 0.6, 0.8)
TIMED = 0.6  # the budget at which dense and pruned are timed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("build/demo"), metavar="FOLDER", help="(build/demo)")
    parser.add_argument("--calibration-samples", type=int, default=512, metavar="N", help="texts to measure on (512)")
    parser.add_argument("--limit", type=int, metavar="N", help="score the first N texts only")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="turns of timing (10)")


def run(arguments: argparse.Namespace) -> Outcome:
    check_writable(arguments.out)
    model = load(str(demo_model_path()))
    task = tasks.load("text-classification", str(demo_data_path()))
    kept: dict[str, Model] = {}

    def keep(result: Result, pruned: Model) -> None:
        if result.method == "kprune" and result.remove == TIMED:
            kept["timed"] = pruned

    with progress("demo", arguments.quiet) as on_step:
        comparison = compare(
            model,
            task,
            [Budget(remove) for remove in REMOVE],
            calibration=arguments.calibration_samples,
            limit=arguments.limit,
            on_step=on_step,
            on_model=keep,
        )
    timings = [bench(model, kept["timed"], rows=r, length=n, repeats=arguments.repeats) for r, n in _shapes(model)]
    files = write_comparison(comparison, arguments.out)
    data: dict[str, Any] = {**comparison.as_json(), "bench": [row.as_json() for row in timings], "files": files}
    words = [row.verdict for row in timings] + [f"wrote {file}" for file in files]
    return Outcome(data, (comparison_table(comparison), bench_table(timings), *words))


def _shapes(model: Model) -> list[tuple[int, int]]:
    """The shapes of `bench`, cut to the positions the small model has."""
    return [(rows, min(length, model.architecture.max_positions)) for rows, length in SHAPES]
