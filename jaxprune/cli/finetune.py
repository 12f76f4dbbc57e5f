"""Train a checkpoint, dense or pruned, on a task: all weights, adapters, or pruning and adapters."""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from ..checkpoint import check_output, save
from ..checkpoint.head_names import HEAD_NAMES
from ..checkpoint.load import NEW_WEIGHTS
from ..checkpoint.manifest import MANIFEST
from ..errors import OutputError, SettingsError, UnknownHeadError
from ..evaluation.label_map import HeadMismatch, match_labels
from ..finetuning.finetune import finetune
from ..finetuning.lora import Lora
from ..finetuning.peft import check_adapter_output
from ..finetuning.prune_lora import PruneLora, prune_lora
from ..finetuning.run_store import Store, has_state
from ..finetuning.settings import Train
from ..pruning.cost import whole_parameters
from ..report.heat_map import heat_map
from ..report.progress import progress
from ..report.tables import facts_table, percent
from ..tasks.kinds import KINDS
from . import flags
from .outcome import Outcome, on_disk, scored_as_saved, told_on_disk

WAYS: dict[str, type | None] = {"full": None, "lora": Lora, "prune-lora": PruneLora}
SETTINGS = {"training": Train, "lora": Lora, "prune-lora": PruneLora}
NOT_OURS = frozenset({"result_dtype"})  # --save-dtype says it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    flags.add_task(parser)
    parser.add_argument("--method", default="full", choices=tuple(WAYS), help="what trains (full: every weight)")
    parser.add_argument("--preset", metavar="NAME", help="named settings of the method: prune-lora has published")
    parser.add_argument(
        "--trainable", nargs="+", metavar="PATTERN", help="full: train only these leaves, such as layers/0/* head/*"
    )
    parser.add_argument("--teacher", metavar="PATH", help="a tuned model to distil from (--distill, --distill-hidden)")
    parser.add_argument(
        "--seed", type=flags.seed, default=0, help="orders texts, draws dropout, adapters and a new head (0)"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where the merged model goes")
    parser.add_argument("--adapter-out", type=Path, metavar="FOLDER", help="the adapter too, as a PEFT folder")
    flags.add_saved_type(parser)
    flags.add_mesh(parser, "training batches")
    parser.add_argument(
        "--device-limit", type=flags.byte_count, metavar="BYTES",
        help="refuse a run whose steps need more on a device, as predicted or once compiled: 8GB",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an output folder that jaxprune wrote")
    parser.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run of the same command (its FOLDER.run)"
    )
    flags.add_settings(parser, SETTINGS, without=NOT_OURS)


def run(arguments: argparse.Namespace) -> Outcome:
    training, method = _settings(arguments)
    out = arguments.out
    mesh = None if arguments.mesh is None else flags.make_mesh(arguments.mesh)
    work = training_folder(out, arguments.resume, arguments.overwrite, {"--adapter-out": arguments.adapter_out})
    if arguments.adapter_out is not None:
        check_adapter_output(arguments.adapter_out, arguments.resume)
    task = flags.task(arguments)
    task.split("train")
    model = load_for(task, arguments)
    shared: dict[str, Any] = {"out": work, "resume": arguments.resume, "adapter_out": arguments.adapter_out}
    shared |= {"mesh": mesh, "device_limit": arguments.device_limit}
    if arguments.teacher is not None:
        shared["teacher"] = flags.load(arguments, arguments.teacher, host=training.teacher_in != "device")
    with progress(arguments.method, arguments.quiet) as on_step, hint(work, has_state):
        shared["on_step"] = on_step
        if isinstance(method, PruneLora):
            tuned = prune_lora(model, task, method, training, **shared)
            heat_map(tuned, work / "importance.png")
        elif isinstance(method, Lora):
            tuned = finetune(model, task, training, lora=method, **shared)
        elif arguments.trainable:
            tuned = finetune(model, task, training, trainable=arguments.trainable, **shared)
        else:
            tuned = finetune(model, task, training, **shared)
    tuned = scored_as_saved(tuned, task, training, arguments.save_dtype)
    save(tuned, out, overwrite=arguments.overwrite, dtype=arguments.save_dtype, run_folder=work)
    remove(work)
    return _outcome(arguments, model, tuned)


def training_folder(out: Path, resume: bool, overwrite: bool, others: dict[str, Path | None]) -> Path:
    """Where a run keeps its log and states until the model is saved in `out`.

    Raises `OutputError` where `out` is refused, where another run's state is there and none is to go on, and where a
    folder of `others`, by their flags, lies in one of these two or holds it.
    """
    work = out.parent / f"{out.name}.run"
    if resume and not overwrite and not has_state(work) and (out / MANIFEST).is_file():
        raise OutputError(f"{out} is complete: no run is left to go on with; choose another folder, or --overwrite.")
    check_output(out, overwrite)
    if has_state(work) and not resume:
        raise OutputError(f"{work} holds an interrupted run; go on with --resume, or delete it.")
    if resume and not has_state(work):
        print(f"jaxprune: {work} holds no state to go on from: the run starts anew.", file=sys.stderr)
    for (flag, other), mine in product(others.items(), (out, work)):
        if other is not None:
            ours, theirs = mine.absolute(), other.absolute()
            if ours == theirs or ours in theirs.parents or theirs in ours.parents:
                raise OutputError(f"{flag} {other} and {mine} must lie apart; choose another folder.")
    return work


@contextlib.contextmanager
def hint(work: Path, holds: Callable[[Path], bool]) -> Iterator[None]:
    """Tell how to go on after Ctrl-C, where the run's folder `holds` something to go on from."""
    try:
        yield
    except KeyboardInterrupt as stop:
        more = " Go on with --resume." if holds(work) else ""
        raise KeyboardInterrupt(f"{str(stop) or 'interrupted.'}{more}") from stop


def _settings(arguments: argparse.Namespace) -> tuple[Train, Any]:
    """Training's settings and the method's, as the flags say. Raises `SettingsError` for a flag of another method."""
    given = flags.settings(arguments, SETTINGS.values())
    cls = WAYS[arguments.method]
    names = [{field.name for field in dataclasses.fields(kind)} for kind in (Train, cls) if kind is not None]
    for name in given:
        if not any(name in group for group in names):
            raise SettingsError(f"{flags.flag(name)} is not a setting of {arguments.method}; leave it out.")
    of = lambda kind: {f.name: given[f.name] for f in dataclasses.fields(kind) if f.name in given}  # noqa: E731
    training = Train(seed=arguments.seed, result_dtype=arguments.save_dtype, **of(Train))
    if arguments.trainable and cls is not None:
        raise SettingsError(f"--trainable is for the method full; for {arguments.method} name the leaves in --train.")
    if arguments.adapter_out is not None and cls is None:
        raise SettingsError("--adapter-out needs adapters; choose --method lora or prune-lora.")
    presets: dict[str, Any] = {} if cls is None else {"default": cls()} | (cls.presets() if cls is PruneLora else {})
    if arguments.preset is not None and arguments.preset not in presets:
        known = f"use one of {', '.join(presets)}" if presets else "leave it out"
        raise SettingsError(f"{arguments.method} has no preset {arguments.preset!r}; {known}.")
    if cls is None:
        return training, None
    return training, dataclasses.replace(presets[arguments.preset or "default"], **of(cls))


def load_for(task: Any, arguments: argparse.Namespace) -> Any:
    """The checkpoint with a head for `task`: its own where that fits, else a new one, drawn with the command's seed."""
    needed = KINDS[task.kind].head
    wanted: dict[str, Any] = {} if needed is None else {"head": needed}
    if task.labels:
        wanted["labels"] = task.labels
    if needed is not None and HEAD_NAMES[needed].problems:
        wanted["problem"] = task.kind
    source, seed = arguments.model, arguments.seed
    try:
        model = flags.load(arguments, seed=seed)
    except UnknownHeadError:
        return flags.load(arguments, seed=seed, **wanted)
    try:
        match_labels(model.architecture, task)
    except HeadMismatch:
        fresh = flags.load(arguments, seed=seed, **wanted)
        before = model.provenance.warnings
        if HEAD_NAMES[model.architecture.head].bare or any(NEW_WEIGHTS in entry for entry in before):
            return fresh
        head = model.architecture.head.replace("_", " ")
        lost = f"the {head} head of {source} does not fit {task.name}; a new one took its place."
        provenance = dataclasses.replace(fresh.provenance, warnings=(*fresh.provenance.warnings, lost))
        return fresh.replace(provenance=provenance)
    return model


def remove(work: Path) -> None:
    Store(work, resume=True).remove()


def _outcome(arguments: argparse.Namespace, model: Any, tuned: Any) -> Outcome:
    record = tuned.provenance.record
    training = record["training"]
    kept = training["epochs"][training["kept_epoch"]]
    data = {
        "model": arguments.model,
        "task": training["task"],
        "method": arguments.method,
        "seed": arguments.seed,
        "out": arguments.out,
        **on_disk(arguments.out, model.provenance.source),
        "adapter_out": arguments.adapter_out,
        **{name: training.get("as_saved", kept)[name] for name in ("score", "metric", "metrics")},
        **{name: value for name, value in training.items() if name not in ("task", "method")},
        "layers": [{"heads": size.heads, "neurons": size.neurons} for size in tuned.architecture.layers],
        **{name: record[name] for name in ("removed", "masked_vs_cut", "ranks", "phases") if name in record},
        "warnings": list(dict.fromkeys([*tuned.provenance.warnings, *record.get("warnings", [])])),
    }
    mega = 2**20
    facts = {
        training["metric"]
        if "metric" in training
        else kept["metric"]: f"{data['score']:.4f} ({training['scored_on']})",
        "epoch kept": f"{training['kept_epoch'] + 1} of {len(training['epochs'])}",
        "parameters": f"{training['parameters']:,} (before {_count(model):,})",
        "trainable": f"{training['trainable_parameters']:,}",
        "removed": ", ".join(f"{percent(record['removed'][name])} of {name}" for name in ("flops", "params"))
        if arguments.method == "prune-lora"
        else None,
        "weights on disk": told_on_disk(data),
        "steps an epoch": told_batches(training),
        "seconds an epoch": training["seconds_per_epoch"],
        "compile seconds": training["compile_seconds"],
        "training memory": f"{training['bytes']['measured'] / mega:.0f} MiB, of it moments "
        f"{training['bytes']['moments'] / mega:.0f} MiB",
    }
    return Outcome(data, (facts_table(f"{arguments.method}: {arguments.out}", facts),))


def told_batches(training: dict[str, Any]) -> str:
    """The steps of an epoch and the texts of a step, as a table says it."""
    return f"{training['batch']['steps']} of {training['batch']['texts']:.4g} texts"


def _count(model: Any) -> int:
    return whole_parameters(model.architecture)
