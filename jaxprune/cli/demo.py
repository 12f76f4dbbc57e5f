"""Prune the small model that comes with the package with every method, and show what it costs and gains."""

import argparse
from pathlib import Path

from ..checkpoint import check_writable
from ..report.demo import demo
from ..report.progress import progress
from ..report.tables import bench_table, comparison_table
from .compare import write_comparison
from .outcome import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("build/demo"), metavar="FOLDER", help="(build/demo)")
    parser.add_argument("--calibration-samples", type=int, default=512, metavar="N", help="texts to measure on (512)")
    parser.add_argument("--limit", type=int, metavar="N", help="score the first N texts only")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="turns of timing (10)")


def run(arguments: argparse.Namespace) -> Outcome:
    check_writable(arguments.out)
    with progress("demo", arguments.quiet) as on_step:
        shown = demo(
            count=arguments.calibration_samples, limit=arguments.limit, repeats=arguments.repeats, on_step=on_step
        )
    files = write_comparison(shown.comparison, arguments.out)
    words = [row["verdict"] for row in shown.timings] + [f"wrote {file}" for file in files]
    return Outcome(
        {**shown.as_json(), "files": files},
        (comparison_table(shown.comparison), bench_table(shown.timings), *words),
    )
