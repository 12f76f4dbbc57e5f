"""Flags that several commands share, and what they ask for."""

import argparse
import dataclasses
import re
import typing
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from .. import tasks
from ..checkpoint import load as read
from ..checkpoint.manifest import SAVED
from ..checks import check_seed
from ..errors import BudgetError, CheckpointError, DataError, SettingsError, UnknownSettingError
from ..evaluation.onnx_model import OnnxModel, load_onnx
from ..model import Architecture, Model
from ..model.heads import head_of
from ..pruning import by_name
from ..pruning.budget import Budget
from ..pruning.method import Method
from ..settings import former_names
from ..tasks.calibration import Calibration, overlap
from ..tasks.example import length_fields
from ..tasks.kinds import KINDS
from .field_flags import (
    OWN,
    add_field,
    add_settings as add_settings,
    given_by,
    settings as settings,
)
from .task_flags import (
    OF_TASK as OF_TASK,
    add_task as add_task,
    flag as flag,
    given_flags as given_flags,
    task as task,
)

ONNX = {"onnxruntime": False, "onnxruntime-int8": True}  # runtimes of ONNX files: whether in eight bits


def seed(text: str) -> int:
    """The number of a seed flag, as argparse asks for it."""
    number = int(text)
    try:
        check_seed(number)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return number


def byte_count(text: str) -> int:
    """8000000000, "8GB" or "7.5GiB", as argparse asks for it."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:([kmgt])(i?))?b?", text, re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes; write 8000000000, 8GB or 7.5GiB.")
    number, prefix, binary = match.groups()
    power = "kmgt".index(prefix.lower()) + 1 if prefix else 0
    return round(float(number) * (1024 if binary else 1000) ** power)


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="PATH_OR_HUB_ID", help="the checkpoint")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a hub checkpoint")
    parser.add_argument(
        "--ignore-config-key",
        nargs="+",
        default=[],
        metavar="NAME",
        help="settings of config.json that are not known and that you know to be harmless: key, or rope_scaling.key",
    )


def load(arguments: argparse.Namespace, source: str | None = None, **options: Any) -> Model:
    """The model that the flags of `add_model` name, or the one in `source`; `options` are those of `jaxprune.load`."""
    options = {"ignore_config_keys": arguments.ignore_config_key} | options
    if source is None:
        options = {"revision": arguments.revision} | options
    try:
        return read(arguments.model if source is None else source, **options)
    except UnknownSettingError as error:
        raise CheckpointError(f"{str(error).rstrip('.')}: --ignore-config-key {' '.join(error.names)}.") from error


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """`--runtime`."""
    parser.add_argument(
        "--runtime",
        choices=("jax", *ONNX),
        default="jax",
        help="what runs the model; onnxruntime the ONNX file of a folder that export wrote (jax)",
    )


def load_to_run(arguments: argparse.Namespace, **options: Any) -> Model | OnnxModel:
    """The model that the flags of `add_model` name, for what `add_runtime` names; `options` are those of `load`.

    Raises `SettingsError` for flags that an exported folder has no use for.
    """
    if arguments.runtime in ONNX:
        if named := given_flags(arguments, ("revision", "ignore_config_key")):
            raise SettingsError(f"{flag(named[0])} has no effect with --runtime {arguments.runtime}; leave it out.")
        return load_onnx(arguments.model, int8=ONNX[arguments.runtime])
    return load(arguments, **options)


def add_storage(parser: argparse.ArgumentParser) -> None:
    """How weights are kept: `--dtype`, `--stream`."""
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "auto"),
        default="float32",
        help="of the weights in memory; auto: bfloat16 where the checkpoint has it (float32)",
    )
    parser.add_argument(
        "--stream", action="store_true", help="keep weights in host memory, bring one sublayer at a time to the device"
    )


def add_saved_type(parser: argparse.ArgumentParser) -> None:
    """`--save-dtype`."""
    parser.add_argument(
        "--save-dtype",
        choices=SAVED,
        help="of the weights in the saved folder, which are scored as they are saved (the checkpoint's own)",
    )


def add_mesh(parser: argparse.ArgumentParser, batches: str) -> None:
    """`--mesh`, over whose axis data such batches are spread."""
    parser.add_argument(
        "--mesh",
        metavar="data=N[,model=M]",
        help=f"spread {batches} over N devices, large weights over M (default: one device)",
    )


def add_placement(parser: argparse.ArgumentParser) -> None:
    """Where a pruning method works: `--mesh`, `--keep-bytes`."""
    add_mesh(parser, "calibration batches")
    parser.add_argument(
        "--keep-bytes",
        type=byte_count,
        metavar="BYTES",
        help="of one pass, what may be kept to save time in the next: 0, 8GB (256MiB)",
    )


def placement(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keywords mesh, stream and keep_bytes of a pruning method. Raises `SettingsError`."""
    mesh = None if arguments.mesh is None else make_mesh(arguments.mesh)
    kept = {} if arguments.keep_bytes is None else {"keep_bytes": arguments.keep_bytes}
    return {"mesh": mesh, "stream": arguments.stream, **kept}


def make_mesh(text: str) -> Any:
    """A mesh from "data=4" or "data=2,model=2". Raises `SettingsError` for other texts and too few devices."""
    sizes = {name: number for name, _, number in (part.partition("=") for part in text.split(","))}
    if (
        "data" not in sizes
        or not sizes.keys() <= {"data", "model"}
        or not all(n.isdecimal() and int(n) for n in sizes.values())
    ):
        raise SettingsError(f"--mesh {text} is not understood; write data=4, or data=2,model=2.")
    shape = int(sizes["data"]), int(sizes.get("model", 1))
    count, present = shape[0] * shape[1], jax.device_count()
    if count > present:
        raise SettingsError(f"--mesh {text} needs {count} devices, there are {present}; ask for at most as many.")
    return jax.sharding.Mesh(np.array(jax.devices()[:count]).reshape(shape), ("data", "model"))


def add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, metavar="N", help="score the first N texts only")


def add_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibration-samples",
        type=int,
        metavar="N",
        help="texts to measure on (512; of running text 16 windows, of chat 64)",
    )
    parser.add_argument(
        "--calibration-texts",
        metavar="FILE",
        help="draw them from this file instead of the task's training texts: one a line, a tab before a second text, "
        "or JSON with text and text_pair; for --task text and chat, or a language model without a task, a file as in "
        "--data",
    )


def samples(arguments: argparse.Namespace, default: int = 512) -> int:
    """How many calibration texts, or windows of a running text, the flags ask for."""
    return default if arguments.calibration_samples is None else arguments.calibration_samples


def calibration(arguments: argparse.Namespace, task: Any, seed: int | None = None) -> Any:
    """The calibration texts that the flags ask for, drawn with `seed` or the command's own. Raises `DataError`."""
    count, file = samples(arguments, KINDS[task.kind].samples), arguments.calibration_texts
    seed = int(arguments.seed if seed is None else seed)
    if file is None or "calibration" in tasks.OPTIONS.get(task.name, ()):  # which reads the file itself
        return task.calibration(count, seed=seed)
    if task.is_images:
        raise DataError(f"--calibration-texts {file} are texts, and {task.name} are images; leave it out.")
    texts = Calibration.of_file(file, count, seed)
    return dataclasses.replace(
        texts,
        max_length=task.max_length,
        strict_length=task.strict_length,
        warnings=texts.warnings + overlap(texts.examples, task.validation),
    )


def calibration_alone(arguments: argparse.Namespace, architecture: Architecture) -> Any:
    """The calibration texts of a file, for a model without a task: windows of running text for a language model.

    Raises `DataError`.
    """
    running, file = reads_running_text(architecture), arguments.calibration_texts
    count = samples(arguments, *((KINDS["language"].samples,) if running else ()))
    if running:
        length = {} if arguments.seq_len is None else {"length": arguments.seq_len}
        return Calibration.of_running_text(file, count, arguments.seed, **length)
    texts = Calibration.of_file(file, count, arguments.seed)
    return dataclasses.replace(texts, **length_fields(arguments.seq_len))


def reads_running_text(architecture: Architecture) -> bool:
    """Whether texts without a task are windows of running text for a model: of a language model."""
    return head_of(architecture).generates


def add_method(parser: argparse.ArgumentParser) -> None:
    """`--method`, `--preset`."""
    names = ", ".join(by_name.method_names())
    parser.add_argument(
        "--method", default="kprune", metavar="NAME[:PRESET]", help=f"how to choose: {names}, kprune:published (kprune)"
    )
    parser.add_argument("--preset", metavar="NAME", help="named settings of the method, such as published")


def chosen_method(arguments: argparse.Namespace) -> Method:
    """The method that the flags name, with the settings that they change; the seed is not among them.

    Raises `SettingsError`.
    """
    name, _, preset = arguments.method.partition(":")
    if preset and arguments.preset not in (None, preset):
        raise SettingsError(f"--method {arguments.method} and --preset {arguments.preset} name two presets; keep one.")
    cls = by_name.method_class(name)
    given = settings(arguments, [*by_name.METHODS.values(), cls])
    own = [field.name for field in dataclasses.fields(cls) if field.name not in OWN]
    strange = [name for name in given if name not in own and name not in former_names(cls)]
    if strange:
        raise SettingsError(
            f"{flag(strange[0])} is not a setting of {name}; it has: {', '.join(map(flag, own)) or 'none'}."
        )
    return by_name.changed(cls.preset(arguments.preset or preset or "default"), **given)


def foreign_method(words: Sequence[str]) -> dict[str, type]:
    """The method of another package that a command line names, by its name; nothing of others is loaded.

    Raises `SettingsError` for one that cannot be loaded.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--method", nargs="?")
    name, _, _ = (finder.parse_known_args(words)[0].method or "").partition(":")
    return {name: by_name.method_class(name)} if name in by_name.installed() else {}


def add_budget(parser: argparse.ArgumentParser, several: bool) -> None:
    """`--remove` and the other fields of `Budget`."""
    help_text = Budget.__dataclass_fields__["remove"].metadata["help"]
    parser.add_argument("--remove", type=float, required=True, nargs="+" if several else None, help=help_text)
    others = [field for field in dataclasses.fields(Budget) if field.name != "remove"]
    for field in others:
        add_field(parser, field, typing.get_type_hints(Budget)[field.name], str(field.metadata.get("help", "")))


def budgets(arguments: argparse.Namespace) -> list[Budget]:
    """One budget for every value of `--remove`. Raises `BudgetError`, also for a value that is there twice."""
    values = arguments.remove if isinstance(arguments.remove, list) else [arguments.remove]
    given = given_by(arguments, [field.name for field in dataclasses.fields(Budget) if field.name != "remove"])
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise BudgetError(f"--remove names {twice[0]} twice; name every budget once.")
    return [Budget(remove=value, **given) for value in values]
