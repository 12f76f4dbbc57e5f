"""Fine-tune a model that does not fit the device: rounds of pruning, tuning a small model, and writing back (RECAP)."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import jax

from ..checkpoint import check_output, save
from ..checkpoint.dtypes import saved_types
from ..finetuning.recap import run_recap
from ..finetuning.recap.settings import Recap
from ..finetuning.run_store import has_state
from ..finetuning.settings import Train
from ..report.heat_map import heat_map
from ..report.progress import progress
from ..report.tables import facts_table, percent, rounds_table
from ..runtime.devices import Devices
from ..runtime.placement import Placement
from ..settings import in_new_name
from . import flags
from .finetune import hint, load_for, remove, told_batches, training_folder
from .outcome import Outcome, on_disk, scored_as_saved, told_on_disk

CLASSES = {"recap": Recap, "training": Train}
# Of Train, what RECAP does not read; and the type that --save-dtype says.
NOT_FLAGS = frozenset({"epochs", "distill_hidden", "save_minutes", "result_dtype", "teacher_in", "taught_dtype"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    flags.add_task(parser)
    parser.add_argument("--preset", metavar="NAME", help=f"named settings: {', '.join(Recap.presets())}")
    parser.add_argument("--host", metavar="NAME", help="where the full model is measured, such as cpu:0 (the default)")
    parser.add_argument("--device", metavar="NAME", help="where small models train, such as gpu:0 (JAX's first device)")
    flags.add_mesh(parser, "training batches")
    parser.add_argument(
        "--device-limit", type=flags.byte_count, metavar="BYTES", help="stop a run that needs more on a device: 8GB"
    )
    parser.add_argument("--seed", type=flags.seed, default=0, help="orders texts, draws dropout and a new head (0)")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where the best small model goes")
    parser.add_argument("--full-out", type=Path, metavar="FOLDER", help="the full model after the last round, too")
    flags.add_saved_type(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace output folders that jaxprune wrote")
    parser.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run of the same command (its FOLDER.run)"
    )
    flags.add_settings(parser, CLASSES, without=NOT_FLAGS)


def run(arguments: argparse.Namespace) -> Outcome:
    settings, training = _settings(arguments)
    mesh = None if arguments.mesh is None else flags.make_mesh(arguments.mesh)
    placement = Placement.of(arguments.host, arguments.device, devices=Devices(mesh))
    out, replace_full = arguments.out, arguments.overwrite or arguments.resume  # a run that goes on may have saved it
    work = training_folder(out, arguments.resume, arguments.overwrite, {"--full-out": arguments.full_out})
    if arguments.full_out is not None:
        check_output(arguments.full_out, replace_full)
    task = flags.task(arguments)
    task.split("train")
    with jax.default_device(placement.host):  # the full model never comes to the device
        model = load_for(task, arguments)
    with progress("recap", arguments.quiet) as on_step, hint(work, has_state):
        result = run_recap(
            model, task, settings, training, host=placement.host, device=arguments.device, mesh=mesh,
            device_limit=arguments.device_limit, out=work, resume=arguments.resume, on_step=on_step,
        )  # fmt: skip
    heat_map(result.model, work / "rounds.png")
    result = result._replace(model=scored_as_saved(result.model, task, training, arguments.save_dtype))
    warnings: tuple[str, ...] = ()
    if arguments.full_out is not None:
        warnings = saved_types(result.full, arguments.save_dtype).warnings
        save(result.full, arguments.full_out, overwrite=replace_full, dtype=arguments.save_dtype)
    save(result.model, out, overwrite=arguments.overwrite, dtype=arguments.save_dtype, run_folder=work)
    remove(work)
    return _outcome(arguments, result, warnings)


def _settings(arguments: argparse.Namespace) -> tuple[Recap, Train]:
    given = flags.settings(arguments, CLASSES.values())
    given = {in_new_name(Recap, name): value for name, value in given.items()}
    of = lambda kind: {f.name: given[f.name] for f in dataclasses.fields(kind) if f.name in given}  # noqa: E731
    return dataclasses.replace(Recap.preset(arguments.preset or "default"), **of(Recap)), Train(
        seed=arguments.seed, result_dtype=arguments.save_dtype, **of(Train)
    )


def _outcome(arguments: argparse.Namespace, result: Any, warnings: tuple[str, ...]) -> Outcome:
    record = result.model.provenance.record
    training = record["training"]
    kept = training["epochs"][training["kept_epoch"]]
    data = {
        "model": arguments.model,
        "task": training["task"],
        "seed": arguments.seed,
        "out": arguments.out,
        **on_disk(arguments.out, result.model.provenance.source),
        "full_out": arguments.full_out,
        **{name: training.get("as_saved", kept)[name] for name in ("score", "metric", "metrics")},
        **{name: record[name] for name in ("settings", "removed", "parameters", "masked_vs_cut")},
        "layers": [{"heads": size.heads, "neurons": size.neurons} for size in result.model.architecture.layers],
        **{
            name: training[name] for name in ("batch", "scored_on", "trainable_parameters", "seconds", "device", "host")
        },
        **{name: training[name] for name in ("mesh",) if name in training},
        "kept_round": training["kept_epoch"],
        "new_head": training["new_head"],
        "compile_seconds": training["compile_seconds"],
        "device_bytes": training["device_bytes"],
        "rounds": list(result.rounds),
        "warnings": list(dict.fromkeys([*result.model.provenance.warnings, *record.get("warnings", []), *warnings])),
    }
    facts = {
        kept["metric"]: f"{data['score']:.4f} ({training['scored_on']})",
        "head": "new, drawn with the seed: the checkpoint has none for this task" if training["new_head"] else None,
        "round kept": f"{training['kept_epoch'] + 1} of {len(result.rounds)}",
        "parameters": f"{record['parameters']['after']:,} (before {record['parameters']['before']:,})",
        "trainable in a round": f"{training['trainable_parameters']:,}",
        "removed": ", ".join(f"{percent(record['removed'][name])} of {name}" for name in ("flops", "params")),
        "weights on disk": told_on_disk(data),
        "steps an epoch": told_batches(training),
        "device": training["device"],
        "mesh": ", ".join(f"{axis} {count}" for axis, count in training.get("mesh", {}).items()) or None,
        "peak on the device": f"{training['peak_bytes'] / 2**20:.1f} MiB",
    }
    return Outcome(data, (facts_table(f"recap: {arguments.out}", facts), rounds_table(result.rounds)))
