"""Predict FLOPs, parameters, bytes and seconds of a pruning run before it starts."""

import argparse

from ..report.plan import plan
from ..report.tables import facts_table, si
from . import flags
from .outcome import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    flags.add_task(parser, required=False)
    flags.add_budget(parser, several=False)
    flags.add_calibration(parser)
    parser.add_argument("--seed", type=flags.seed, default=0, help="draws the calibration texts (0)")


def run(arguments: argparse.Namespace) -> Outcome:

    (budget,) = flags.budgets(arguments)
    task = flags.task(arguments) if arguments.task else None
    model = flags.load(arguments)
    count = flags.samples(arguments, task)
    result = plan(model, flags.calibration(arguments, task) if task else count, budget)
    dense, pruned, calibration = result["dense"], result["pruned"], result["calibration"]
    facts = {
        "calibration": f"{calibration['texts']} texts, {calibration['tokens']} tokens",
        f"FLOPs at {result['length']} tokens": f"{si(dense['flops'])} to {si(pruned['flops'])}",
        "parameters": f"{si(dense['parameters'])} to {si(pruned['parameters'])}",
        "bytes": f"{si(dense['bytes'], 'B')} to {si(pruned['bytes'], 'B')}",
        "tokens per second here": f"{result['tokens_per_second']:.0f}",
        "one pass over the calibration": f"{result['dense_forward_seconds']:.2f} s",
        "seconds to prune, at most": f"{result['seconds']:.0f}",
        "peak bytes": si(result["peak_bytes"]["total"], "B"),
    }
    notes = tuple(f"assumed: {line}" for line in result["assumptions"])
    data = {"model": arguments.model, **result, "warnings": list(model.provenance.warnings)}
    return Outcome(data, (facts_table("Plan", facts), *notes))
