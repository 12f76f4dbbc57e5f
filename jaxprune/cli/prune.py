"""Prune a checkpoint: measure, search, cut, save a smaller folder."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import check_output, save
from ..checkpoint.dtypes import as_saved
from ..checkpoint.manifest import EXPORTED, MANIFEST
from ..errors import DataError, OutputError, SettingsError
from ..evaluation.evaluate import evaluate
from ..model import Architecture, Model
from ..pruning.budget import Budget
from ..pruning.by_name import METHODS
from ..pruning.measured import SAVE_MINUTES, Measured, has_measured
from ..pruning.method import Method, seeded
from ..pruning.prune import prune
from ..report.progress import progress
from ..report.tables import facts_table, layers_table, percent
from ..runtime.events import OnStep
from ..tasks.calibration import Calibration
from ..tasks.example import MAX_LENGTH
from . import flags
from .finetune import hint
from .outcome import Outcome, on_disk, told_on_disk
from .recovery import add_recovery, recovery

# What a run says of itself, in this order; more is in the folder's jaxprune.json.
RECORDED = ("method", "settings", "budget", "removed", "masked_vs_cut", "seconds", "phases", "compile_seconds")
RECORDED += (
    "dense_forwards",
    "dense_forward_seconds",
    "peak_bytes",
    "host_peak_bytes",
    "calibration",
    "reused",
    "recovery",
)


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str] = ()) -> None:
    """`words` are those of the command line: a method of another package that they name adds flags of its own."""
    flags.add_model(parser)
    flags.add_task(parser, required=False)
    flags.add_method(parser)
    flags.add_budget(parser, several=True)
    flags.add_calibration(parser)
    flags.add_storage(parser)
    flags.add_saved_type(parser)
    flags.add_placement(parser)
    parser.add_argument(
        "--seed", type=flags.seed, default=0, help="draws the calibration texts and seeds the method (0)"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where the smaller model goes")
    parser.add_argument("--overwrite", action="store_true", help="replace an output folder that jaxprune wrote")
    parser.add_argument(
        "--resume", action="store_true", help="go on with what an interrupted run measured (its FOLDER.run)"
    )
    parser.add_argument(
        "--save-minutes",
        type=float,
        metavar="MINUTES",
        help=f"between parts of a measurement that are kept for --resume ({SAVE_MINUTES:g})",
    )
    parser.add_argument(
        "--evaluate",
        action=argparse.BooleanOptionalAction,
        help="score before and after (the default where a task is named)",
    )
    flags.add_limit(parser)
    add_recovery(parser)
    flags.add_settings(parser, {**METHODS, **flags.foreign_method(words)})


def run(arguments: argparse.Namespace) -> Outcome:
    if arguments.limit is not None and arguments.evaluate is False:
        raise SettingsError("--limit has no effect with --no-evaluate; leave one of them out.")
    budgets = flags.budgets(arguments)
    chosen = seeded(flags.chosen_method(arguments), arguments.seed)
    folders = _folders(arguments.out, budgets)
    for folder in folders:
        check_output(folder, arguments.overwrite)
    if len(folders) > 1 and any((arguments.out / name).exists() for name in (MANIFEST, EXPORTED, "config.json")):
        raise OutputError(f"{arguments.out} holds a model; name another folder for {len(folders)} of them.")
    work = run_folder(arguments.out, arguments.resume, chosen)
    task = flags.task(arguments)
    scored = _is_scored(arguments, task, chosen.needs_texts)
    where = flags.placement(arguments)
    model = flags.load(arguments, dtype=arguments.dtype, host=arguments.stream)
    if task is not None:
        calibration = flags.calibration(arguments, task)
    elif arguments.calibration_texts is not None:
        calibration = flags.calibration_alone(arguments, model.architecture)
    else:
        calibration = made_up(model.architecture, chosen.name, arguments.seq_len)
    recover = recovery(arguments, task, model)
    patches = model.architecture.patches
    longest = calibration.max_length if patches is None else patches.tokens
    for budget in budgets:
        budget.allowed(model.architecture, budget.length or longest)

    def score(either: Model, on_step: OnStep | None = None) -> Any:
        how: dict[str, Any] = {"limit": arguments.limit, "stream": arguments.stream, "on_step": on_step}
        return evaluate(either, task, **how) if scored else None  # type: ignore[arg-type]

    if chosen.measures_once:
        where |= {"out": work, "resume": arguments.resume, "save_minutes": arguments.save_minutes}
    elif arguments.save_minutes is not None:
        raise SettingsError(f"{chosen.name} keeps no measurement, as it is set; leave out --save-minutes.")
    with progress(chosen.name, arguments.quiet) as on_step, hint(work, has_measured):
        dense = score(model, on_step)
        results = prune(model, calibration, budgets, chosen, on_step=on_step, recover=recover, **where)
    runs, show = [], []
    for folder, pruned in zip(folders, results, strict=True):
        pruned = as_saved(pruned, arguments.save_dtype)  # scored as it will be read back
        after = score(pruned)
        pruned = _with_scores(pruned, task, dense, after, calibration.warnings)
        save(pruned, folder, overwrite=arguments.overwrite, dtype=arguments.save_dtype)
        runs.append(_describe(pruned, folder, dense, after) | on_disk(folder, model.provenance.source))
        show += _tables(model, pruned, runs[-1])
    if chosen.measures_once:
        Measured(work, resume=True).remove()
    shared = {"model": arguments.model, "task": task and task.name, "seed": arguments.seed}
    warnings = list(dict.fromkeys(warning for entry in runs for warning in entry["warnings"]))
    if task is None:
        warnings.append("no task is named: neither the model nor the smaller one was scored.")
    if len(runs) == 1:
        return Outcome({**shared, **runs[0], "warnings": warnings}, tuple(show))
    together = {"out": arguments.out, "dense_score": runs[0].get("dense_score"), "runs": runs, "warnings": warnings}
    return Outcome({**shared, **together}, tuple(show))


def made_up(architecture: Architecture, method: str, length: int | None) -> Calibration:
    """Stands in for calibration texts where a method measures none: what is left is to check that cutting is exact.

    FLOPs are counted at `length` tokens (None: 128, or as many as the model reads).
    """
    if (p := architecture.patches) is not None:
        if length is not None:
            raise DataError(f"a length ({length}) has no effect on images, which all have the model's; leave it out.")
        pixels = np.random.RandomState(0).randint(0, 256, (8, p.channels, p.height, p.width)).astype(np.uint8)
        made = Calibration.of_images(pixels, source=f"none: {method} measures no images, made-up ones check the cut")
        return replace(made, warnings=())
    longest = architecture.max_positions if architecture.positions != "none" else MAX_LENGTH
    if length is not None and length > longest:
        raise DataError(f"texts of {length} tokens do not fit the model's {architecture.limit}.")
    ids = np.random.RandomState(0).randint(architecture.vocab, size=(8, length or min(MAX_LENGTH, longest)))
    calibration = Calibration.of_ids(
        ids, None, source=f"none: {method} measures no texts, made-up token ids check the cut"
    )
    return replace(calibration, warnings=())


def _is_scored(arguments: argparse.Namespace, task: Any, needs_texts: bool) -> bool:
    """Whether there is a task to score on, and wanted. Raises `DataError` for what is missing, before the work."""
    if task is None and arguments.evaluate:
        raise DataError("--evaluate needs a task to score on; name it with --task.")
    if task is None and arguments.calibration_texts is None:
        if needs_texts:
            raise DataError(
                "there are no texts to calibrate on; name a task, or a file of texts with --calibration-texts."
            )
        if arguments.calibration_samples is not None:
            raise DataError("--calibration-samples has no effect without texts; leave it out.")
    if task is None or arguments.evaluate is False:
        return False
    try:
        task.split("validation")
    except DataError as error:
        raise DataError(f"{str(error).removesuffix('.')}; to prune without a score pass --no-evaluate.") from error
    return True


def run_folder(out: Path, resume: bool, chosen: Method) -> Path:
    """Where a run keeps what it measured until the model is saved in `out`.

    Raises `OutputError` where another run's is there and none is to go on, `SettingsError` where the method keeps none.
    """
    work = out.parent / f"{out.name}.run"
    if resume and not chosen.measures_once:
        raise SettingsError(f"{chosen.name} has no measurement to go on from, as it is set; leave out --resume.")
    if has_measured(work) and not resume:
        raise OutputError(f"{work} holds what an interrupted run measured; go on with --resume, or delete it.")
    if resume and not has_measured(work):
        print(f"jaxprune: {work} holds nothing to go on from: the run starts anew.", file=sys.stderr)
    return work


def _folders(out: Path, budgets: list[Budget]) -> list[Path]:
    """`out` itself for one budget; out/remove-0.40 and so on for several."""
    if len(budgets) == 1:
        return [out]
    return [
        out / (f"remove-{b.remove:.2f}" if round(b.remove, 2) == b.remove else f"remove-{b.remove}") for b in budgets
    ]


def _with_scores(pruned: Model, task: Any, dense: Any, after: Any, doubts: Sequence[str]) -> Model:
    """The model with its scores in its record, and every doubt: of loading, calibration, pruning, scoring."""
    warnings = [*pruned.provenance.warnings, *pruned.provenance.record.get("warnings", []), *doubts]
    if dense is None:
        return pruned.with_record(warnings=list(dict.fromkeys(warnings)))
    scores = {
        "task": task.name,
        "metric": after.metric,
        "examples": after.examples,
        "dense": float(dense.score),
        "pruned": float(after.score),
    }
    warnings += [*dense.warnings, *after.warnings]
    return pruned.with_record(scores=scores, warnings=list(dict.fromkeys(warnings)))


def _describe(pruned: Model, folder: Path, dense: Any, after: Any) -> dict[str, Any]:
    record = pruned.provenance.record
    entry: dict[str, Any] = {"out": folder, **{name: record.get(name) for name in RECORDED}}
    entry["layers"] = [{"heads": size.heads, "neurons": size.neurons} for size in pruned.architecture.layers]
    if dense is not None:
        entry |= {"metric": after.metric, "examples": after.examples}
        entry |= {"dense_score": float(dense.score), "score": float(after.score)}
        entry |= {"dense_metrics": dense.metrics, "metrics": after.metrics}
    return {**entry, "warnings": list(record.get("warnings", []))}


def _tables(model: Model, pruned: Model, entry: dict[str, Any]) -> list[Any]:
    removed = entry["removed"] or {}
    length = (entry["budget"] or {}).get("length") or 128
    peak, host_peak = entry["peak_bytes"], entry["host_peak_bytes"]
    score = f"{entry['score']:.4f} (dense {entry['dense_score']:.4f})" if "score" in entry else None
    facts = {
        "removed": ", ".join(f"{percent(value)} of {name}" for name, value in removed.items()),
        entry.get("metric", "score"): score,
        "masked against cut": f"{entry['masked_vs_cut']:.1e}" if entry["masked_vs_cut"] is not None else None,
        "seconds": entry["seconds"],
        "dense forward passes": entry["dense_forwards"],
        "peak": f"{peak / 2**20:.0f} MiB" if peak is not None else None,
        "peak of the process": f"{host_peak / 2**20:.0f} MiB" if host_peak is not None else None,
        "recovery": _told_recovery(entry["recovery"]),
        "weights on disk": told_on_disk(entry),
        "reused": ", ".join(entry["reused"] or []) or None,
    }
    return [
        facts_table(f"{entry['method']}: {entry['out']}", facts),
        layers_table(pruned.architecture, length, model.architecture),
    ]


def _told_recovery(notes: dict[str, Any] | None) -> str | None:
    """How far the smaller model was from the model before its recovery, and after it."""
    if notes is None:
        return None
    gap = notes["gap"]
    return (
        f"apart by {gap['after']:.3g}, before by {gap['before']:.3g} ({notes['steps']} steps, {notes['seconds']:.0f} s)"
    )
