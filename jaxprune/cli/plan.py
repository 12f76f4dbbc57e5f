"""Predict FLOPs, parameters, bytes and seconds of a pruning run before it starts."""

import argparse
from collections.abc import Sequence

from ..pruning.by_name import METHODS
from ..pruning.method import seeded
from ..report.plan import plan
from ..report.tables import facts_table, si
from . import flags
from .outcome import Outcome


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str] = ()) -> None:
    """`words` are those of the command line: a method of another package that they name adds flags of its own."""
    flags.add_model(parser)
    flags.add_task(parser, required=False)
    flags.add_method(parser)
    flags.add_budget(parser, several=True)
    flags.add_calibration(parser)
    flags.add_storage(parser)
    flags.add_placement(parser)
    parser.add_argument("--seed", type=flags.seed, default=0, help="draws the calibration texts, seeds the method (0)")
    flags.add_settings(parser, {**METHODS, **flags.foreign_method(words)})


def run(arguments: argparse.Namespace) -> Outcome:
    budgets, chosen = flags.budgets(arguments), seeded(flags.chosen_method(arguments), arguments.seed)
    task, where = flags.task(arguments), flags.placement(arguments)
    model = flags.load(arguments, dtype=arguments.dtype, host=arguments.stream)
    if task is not None:
        calibration = flags.calibration(arguments, task)
    elif arguments.calibration_texts is not None:
        calibration = flags.calibration_alone(arguments, model.architecture)
    else:
        calibration = flags.samples(arguments)
    length = arguments.seq_len if isinstance(calibration, int) else None
    result = plan(model, calibration, budgets[0] if len(budgets) == 1 else budgets, chosen, length=length, **where)
    counted, forwards = result.calibration, result.dense_forwards

    def towards(name: str, unit: str = "") -> str:
        left = ", ".join(si(getattr(entry, name), unit) for entry in result.pruned)
        return f"{si(getattr(result.dense, name), unit)} to {left}"

    facts = {
        "calibration": f"{counted.texts} texts, {counted.tokens} tokens",
        f"FLOPs at {result.length} tokens": towards("flops"),
        "parameters": towards("parameters"),
        "bytes": towards("bytes", "B"),
        "tokens per second here": f"{result.tokens_per_second:.0f}",
        "one pass over the calibration": f"{result.dense_forward_seconds:.2f} s",
        "passes that pruning costs": f"{forwards.first:.0f}"
        + (f", each further budget {forwards.further:.1f}" if len(budgets) > 1 else ""),
        "seconds to prune": f"{result.seconds:.0f}, of them {result.compile_seconds:.0f} of compilation",
        "peak bytes": si(result.peak_bytes["total"], "B") if result.peak_bytes else None,
        "peak of the process so far": si(result.host_peak_bytes, "B") if result.host_peak_bytes else None,
    }
    notes = tuple(f"assumed: {line}" for line in result.assumptions)
    data = {"model": arguments.model, **result.as_json(), "warnings": [*model.provenance.warnings, *result.warnings]}
    return Outcome(data, (facts_table("Plan", facts), *notes))
