"""The flags of a recovery after the cut, and what they ask for."""

import argparse
import dataclasses
import re
import typing
from typing import Any

from .. import tasks
from ..errors import DataError, SettingsError
from ..finetuning.recover import Recover
from ..model import Model
from ..tasks.calibration import Calibration
from ..tasks.kinds import KINDS
from ..tasks.task import CALIBRATION
from ..tokens.windows import windows_there
from . import flags
from .field_flags import add_field, given_by

TEXTS, WINDOWS = 4000, 256  # texts to recover on, and windows of a running text, where no flag says how many
PREFIX = "recover_"
# `steps` is --recover itself; the texts have flags of their own, and the seed is the command's.
FIELDS = [field for field in dataclasses.fields(Recover) if field.name not in ("steps", "texts", "seed")]


def add_recovery(parser: argparse.ArgumentParser) -> None:
    """`--recover` and the flags that say how."""
    steps = Recover.__dataclass_fields__["steps"].default
    group = parser.add_argument_group("recovery")
    group.add_argument(
        "--recover",
        type=int,
        nargs="?",
        const=steps,
        metavar="STEPS",
        help=f"train the smaller model so many steps, without labels, to say what the model says ({steps})",
    )
    group.add_argument(
        "--recover-samples",
        type=int,
        metavar="N",
        help=f"texts to recover on (at most {TEXTS}; of running text {WINDOWS} windows)",
    )
    group.add_argument(
        "--recover-texts", metavar="FILE", help="draw them from this file, of the form of --calibration-texts"
    )
    hints = typing.get_type_hints(Recover)
    for field in FIELDS:
        default = f" ({field.default})" if isinstance(field.default, (int, float, str)) else ""
        help_text = str(field.metadata["help"]) + default
        add_field(group, field, hints[field.name], help_text, name=PREFIX + field.name)


def recovery(arguments: argparse.Namespace, task: Any, model: Model) -> Recover | None:
    """What the flags ask for; None: no recovery. Raises `DataError`, `SettingsError`, `CheckpointError`."""
    given = {name.removeprefix(PREFIX): v for name, v in given_by(arguments, [PREFIX + f.name for f in FIELDS]).items()}
    if arguments.recover is None:
        others = [name for name in ("samples", "texts") if getattr(arguments, PREFIX + name) is not None]
        for name in (*others, *given):
            raise SettingsError(f"{flags.flag(PREFIX + name)} has no effect without --recover; add it.")
        return None
    try:
        settings = Recover(steps=arguments.recover, seed=arguments.seed, **given)
    except SettingsError as error:
        raise SettingsError(_in_flags(str(error))) from error
    file = arguments.calibration_texts if arguments.recover_texts is None else arguments.recover_texts
    if task is None and file is None:
        raise DataError("there are no texts to recover on; name a task, or a file of texts with --recover-texts.")
    count = arguments.recover_samples
    if count is not None and count < 1:
        raise SettingsError(f"--recover-samples must be at least 1, got {count}; thousands are worth it.")
    # The same texts as for calibration, but as many, and from the file, that the flags of recovery say.
    # Those of calibration are not forgotten: --hub-rows may be theirs.
    changes = {"calibration_texts": file, "recover_texts": arguments.calibration_texts}
    asked = argparse.Namespace(**{**vars(arguments), **changes})
    reads_file = task is not None and "calibration" in tasks.OPTIONS.get(task.name, ())
    if reads_file and arguments.recover_texts is not None:
        task = flags.task(asked)
    running = KINDS[task.kind].running if task is not None else flags.reads_running_text(model.architecture)
    there = None
    if task is not None and not running and (file is None or reads_file):
        there = len(task.others.get(CALIBRATION, task.train))
    if task is not None and count is not None and there and count > there:
        raise DataError(f"--recover-samples {count}, but {task.name} has {there} training texts; ask for fewer.")
    most = WINDOWS if running else min(TEXTS, there or TEXTS)
    asked.calibration_samples = most if count is None else count
    texts = flags.calibration_alone(asked, model.architecture) if task is None else flags.calibration(asked, task)
    return dataclasses.replace(settings, texts=texts if texts.windows is None else _as_many(texts, count, model))


def _as_many(texts: Calibration, count: int | None, model: Model) -> Calibration:
    """Windows of a running text, fewer where nobody gave a count and the text is short. Raises `DataError`."""
    there = windows_there(model, texts)
    if there == texts.windows:
        return texts
    has = f"{texts.source} has {there} windows of {texts.max_length} tokens"
    if count is not None:
        raise DataError(f"--recover-samples {count}, but {has}; ask for fewer, or shorter ones with --seq-len.")
    told = f"{has}, fewer than {texts.windows}: the model recovers on all of them."
    return dataclasses.replace(texts, windows=there, warnings=(*texts.warnings, told))


def _in_flags(message: str) -> str:
    """A message about settings of `Recover`, whose flags have a prefix: a name with an underscore is one, and so is
    a word before what it must be or is to be set to.
    """
    names = "|".join(field.name for field in FIELDS)
    named = re.compile(rf"(?<![\w-])({names})(?= must| to |=)|(?<![\w-])(?=\w+_)({names})(?!\w)")
    message = re.sub(r"(?<![\w-])steps(?= must)", "--recover", message)
    return named.sub(lambda name: flags.flag(PREFIX + name[0]), message)
