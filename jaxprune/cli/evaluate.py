"""Score a checkpoint, dense or pruned, on a task."""

import argparse

from ..errors import SettingsError
from ..evaluation.evaluate import evaluate
from ..evaluation.onnx_model import described
from ..report.progress import progress
from ..report.tables import facts_table, si
from . import flags
from .outcome import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    flags.add_task(parser)
    parser.add_argument(
        "--split", default="validation", metavar="NAME", help="validation (default), train, or test where it has labels"
    )
    flags.add_limit(parser)
    flags.add_storage(parser)
    flags.add_runtime(parser)


def run(arguments: argparse.Namespace) -> Outcome:
    task = flags.task(arguments)
    task.split(arguments.split)  # known to be there before the model is read
    if arguments.runtime != "jax" and (arguments.stream or arguments.dtype != "float32"):
        raise SettingsError(f"--stream and --dtype have no effect with --runtime {arguments.runtime}; leave them out.")
    model = flags.load_to_run(arguments, dtype=arguments.dtype, host=arguments.stream)
    with progress("evaluate", arguments.quiet) as on_step:
        evaluation = evaluate(
            model, task, split=arguments.split, limit=arguments.limit, stream=arguments.stream, on_step=on_step
        )
    warnings = list(dict.fromkeys([*described(model).provenance.warnings, *evaluation.warnings]))
    asked = {"model": arguments.model, "task": task.name, "split": arguments.split, "runtime": arguments.runtime}
    data = {**asked, **evaluation.as_json(), "warnings": warnings}
    facts = {
        evaluation.metric: f"{evaluation.score:.4f}",
        **{name: f"{value:.4f}" for name, value in evaluation.metrics.items() if name != evaluation.metric},
        "examples": evaluation.examples,
        "tokens per second": f"{evaluation.tokens_per_second:.0f}",
        "seconds": evaluation.seconds,
        "compile seconds": evaluation.compile_seconds,
        "peak of the process": si(evaluation.host_peak_bytes, "B") if evaluation.host_peak_bytes else None,
    }
    return Outcome(data, (facts_table(f"{arguments.model} on {task.name} ({arguments.split})", facts),))
