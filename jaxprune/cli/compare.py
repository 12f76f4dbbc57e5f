"""Compare methods at several budgets: a table, CSV, JSON and a plot."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

from ..checkpoint import check_writable
from ..errors import OutputError, SettingsError
from ..jsonio import write_csv, write_json
from ..pruning.by_name import method_of
from ..pruning.method import Method
from ..report.compare import COMPARED, Comparison, compare
from ..report.plots import comparison_plot
from ..report.progress import progress
from ..report.tables import comparison_table
from . import flags
from .outcome import Outcome

FILES = ("compare.csv", "compare.json", "compare.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    flags.add_task(parser)
    parser.add_argument(
        "--methods", nargs="+", default=list(COMPARED), metavar="NAME[:PRESET]", help="such as kprune kprune:published"
    )
    flags.add_budget(parser, several=True)
    flags.add_calibration(parser)
    parser.add_argument("--seeds", nargs="+", type=flags.seed, default=[0], metavar="N", help="a run for each (0)")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help=f"gets {', '.join(FILES)}")
    parser.add_argument("--overwrite", action="store_true", help="replace those files")
    flags.add_limit(parser)


def run(arguments: argparse.Namespace) -> Outcome:
    budgets = flags.budgets(arguments)
    methods = {name: method_of(name) for name in arguments.methods}
    check_once(arguments.methods, arguments.seeds, methods)
    check_files(arguments.out, arguments.overwrite)
    task = flags.task(arguments)
    task.split("validation")  # known to be there, with labels, before the model is read
    model = flags.load(arguments)
    for budget in budgets:
        budget.allowed(model.architecture, budget.length or task.max_length)
    with progress("compare", arguments.quiet) as on_step:
        comparison = compare(
            model,
            task,
            budgets,
            methods,
            calibration=lambda seed: flags.calibration(arguments, task, seed),
            seeds=arguments.seeds,
            limit=arguments.limit,
            on_step=on_step,
        )
    files = write_comparison(comparison, arguments.out)
    data = {"model": arguments.model, **comparison.as_json(), "files": files}
    return Outcome(data, (comparison_table(comparison), *(f"wrote {file}" for file in files)))


def check_once(names: Sequence[str], seeds: Sequence[int], methods: Mapping[str, Method]) -> None:
    """Raises `SettingsError` for a method or a seed that is there twice."""
    for flag, values in (("--methods", names), ("--seeds", seeds)):
        if twice := [value for value in values if values.count(value) > 1]:
            raise SettingsError(f"{flag} names {twice[0]} twice; name each once.")
    for one, other in combinations(methods, 2):
        if methods[one] == methods[other]:
            raise SettingsError(f"--methods names {one} and {other}, which are the same; leave one of them out.")


def check_files(folder: Path, overwrite: bool) -> None:
    """Raises `OutputError` where a file of ours is there already, or where the folder is none or cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is not a folder; choose another --out.")
    there = [name for name in FILES if (folder / name).exists()]
    if there and not overwrite:
        raise OutputError(f"{folder} has {', '.join(there)} already; choose another --out, or pass --overwrite.")
    check_writable(folder)


def write_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    csv, json, png = (folder / name for name in FILES)
    rows = [{"task": comparison.task, **asdict(result)} for result in comparison.results]
    return [write_csv(csv, rows), write_json(json, comparison.as_json()), comparison_plot(comparison, png)]
