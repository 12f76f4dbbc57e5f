"""Time a pruned model against the dense one: in turns, in one run, compilation apart."""

import argparse
import re
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, SettingsError
from ..report.bench import RUNTIMES, SHAPES, bench, generation_bench
from ..report.tables import bench_table, generation_table
from . import flags
from .outcome import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    parser.add_argument(
        "--dense", metavar="PATH_OR_HUB_ID", help="what to compare with (default: what it was cut from)"
    )
    parser.add_argument(
        "--shapes", nargs="+", metavar="ROWSxLENGTH", help=f"({' '.join(f'{r}x{n}' for r, n in SHAPES)})"
    )
    parser.add_argument(
        "--generate", nargs="+", type=int, metavar="BATCH", help="time generation of such batches instead (1 8)"
    )
    parser.add_argument(
        "--runtime",
        choices=tuple(RUNTIMES),
        default="jax",
        help="what runs both models; others than jax on the CPU (jax)",
    )
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="turns to take the median of (20)")


def run(arguments: argparse.Namespace) -> Outcome:
    shapes = SHAPES if arguments.shapes is None else [shape(text) for text in arguments.shapes]
    if arguments.generate and arguments.runtime != "jax":
        raise SettingsError(f"--generate times JAX alone; leave --runtime {arguments.runtime} out, or --generate.")
    if arguments.generate and arguments.shapes is not None:
        raise SettingsError("--shapes has no effect with --generate, which takes batches; leave one of them out.")
    pruned = flags.load(arguments)
    name, revision = (arguments.dense, None) if arguments.dense else dense_source(pruned.provenance.record)
    ignored = arguments.ignore_config_key or pruned.provenance.record.get("ignored_config_keys", [])
    dense = flags.load(arguments, name, revision=revision, ignore_config_keys=ignored)
    if arguments.generate:
        rows = [generation_bench(dense, pruned, batch=batch, repeats=arguments.repeats) for batch in arguments.generate]
        data = {"model": arguments.model, "dense": name, "results": [row.as_json() for row in rows], "warnings": []}
        return Outcome(data, (generation_table(rows),))
    rows = [
        bench(dense, pruned, rows=r, length=n, repeats=arguments.repeats, runtime=arguments.runtime) for r, n in shapes
    ]
    data = {"model": arguments.model, "dense": name, "results": [row.as_json() for row in rows], "warnings": []}
    return Outcome(data, (bench_table(rows), *(row.verdict for row in rows)))


def shape(text: str) -> tuple[int, int]:
    """(rows, length) from 32x128."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise SettingsError(f"--shapes {text}: expected ROWSxLENGTH, such as 32x128.")
    return int(match[1]), int(match[2])


def dense_source(record: dict[str, Any]) -> tuple[str, str | None]:
    """The folder, or hub id and revision, that a pruned model was cut from, as its record says.

    Raises `CheckpointError` where nothing is recorded, or a folder that is not there.
    """
    source, hub = record.get("source"), record.get("hub")
    if isinstance(source, str) and isinstance(hub, dict):
        return source, hub.get("commit") or hub.get("revision")
    if not isinstance(source, str) or not Path(source).exists():
        raise CheckpointError(f"the dense model ({source or 'not recorded'}) is not at hand; name it with --dense.")
    return source, None
