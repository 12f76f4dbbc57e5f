"""Score a checkpoint, dense or pruned, on a task; a language model also on those of lm-evaluation-harness."""

import argparse

from ..errors import DataError, SettingsError
from ..evaluation.benchmarks import Benchmarks, score_rows
from ..evaluation.evaluate import evaluate
from ..evaluation.lm_eval import lm_eval
from ..evaluation.onnx_model import described
from ..report.progress import progress
from ..report.tables import benchmark_table, facts_table, si
from . import flags
from .outcome import Outcome

# Flags of one kind of task alone: theirs, and ours.
OF_HARNESS = ("num_fewshot", "apply_chat_template", "include_path", "batch", "add_bos_token")
OURS = ("task", "split", *flags.OF_TASK)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    flags.add_task(parser, required=False)
    parser.add_argument("--split", metavar="NAME", help="validation (default), train, or test where it has labels")
    flags.add_limit(parser)
    flags.add_storage(parser)
    flags.add_runtime(parser)
    group = parser.add_argument_group(
        "tasks of lm-evaluation-harness, in place of --task; --seq-len is what is read at once"
    )
    group.add_argument("--lm-eval", metavar="TASK[,TASK]", help="names, patterns or YAML files: hellaswag,mmlu_*")
    group.add_argument(
        "--num-fewshot", type=int, metavar="N", help="examples that are shown before each (the task's own)"
    )
    group.add_argument(
        "--apply-chat-template", action="store_true", help="ask as the tokenizer's chat template writes it"
    )
    group.add_argument("--include-path", metavar="FOLDER", help="with more tasks, as YAML files")
    group.add_argument("--batch", type=int, metavar="N", help="rows that run together (as many as suit the device)")
    group.add_argument("--add-bos-token", action="store_true", help="put the BOS token before every text")


def run(arguments: argparse.Namespace) -> Outcome:
    if arguments.lm_eval is not None:
        return _benchmarks(arguments)
    if arguments.task is None:
        raise DataError("there is nothing to score on; name a task with --task, or one of the harness with --lm-eval.")
    if foreign := flags.given_flags(arguments, OF_HARNESS):
        raise DataError(f"{flags.flag(foreign[0])} is for --lm-eval; leave it out.")
    split = arguments.split or "validation"
    task = flags.task(arguments)
    task.split(split)  # known to be there before the model is read
    if arguments.runtime != "jax" and (arguments.stream or arguments.dtype != "float32"):
        raise SettingsError(f"--stream and --dtype have no effect with --runtime {arguments.runtime}; leave them out.")
    model = flags.load_to_run(arguments, dtype=arguments.dtype, host=arguments.stream)
    with progress("evaluate", arguments.quiet) as on_step:
        evaluation = evaluate(model, task, split=split, limit=arguments.limit, stream=arguments.stream, on_step=on_step)
    warnings = list(dict.fromkeys([*described(model).provenance.warnings, *evaluation.warnings]))
    asked = {"model": arguments.model, "task": task.name, "split": split, "runtime": arguments.runtime}
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
    return Outcome(data, (facts_table(f"{arguments.model} on {task.name} ({split})", facts),))


def _benchmarks(arguments: argparse.Namespace) -> Outcome:
    if arguments.runtime != "jax":
        raise DataError(f"--lm-eval is run by JAX alone; leave --runtime {arguments.runtime} out.")
    if foreign := flags.given_flags(arguments, OURS):
        raise DataError(
            f"{flags.flag(foreign[0])} has no effect with --lm-eval, whose tasks bring their own; leave it out."
        )
    tasks = [name for name in arguments.lm_eval.split(",") if name]
    if not tasks:
        raise DataError("--lm-eval names no task; name one or several, with commas between.")
    benchmarks = Benchmarks.load(
        tasks,
        limit=arguments.limit,
        num_fewshot=arguments.num_fewshot,
        apply_chat_template=arguments.apply_chat_template,
        include_path=arguments.include_path,
    )
    model = flags.load(arguments, dtype=arguments.dtype, host=arguments.stream)
    with progress("evaluate", arguments.quiet) as on_step:
        asked = lm_eval(
            model,
            max_length=arguments.seq_len,
            batch=arguments.batch,
            add_bos_token=arguments.add_bos_token or None,
            stream=arguments.stream,
            on_step=on_step,
        )
        results = benchmarks.run(asked)
    rows = score_rows(results)
    warnings = list(dict.fromkeys([*model.provenance.warnings, *asked.warnings]))
    data = {"model": arguments.model, "lm_eval": tasks, "limit": arguments.limit, "scores": rows, **results}
    return Outcome({**data, "warnings": warnings}, (benchmark_table(arguments.model, rows),))
