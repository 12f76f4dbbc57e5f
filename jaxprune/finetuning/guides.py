"""What a teacher that is not beside its student says of the student's batches: worked out on the way, or kept on disk.

A teacher in host memory passes through the device one sublayer at a time, for several batches together. Or it says all
that it has to say before the first step, and a file is read from then on. That is little: of a language model what its
head reads, from which the step computes logits slice by slice (`losses.summed_losses`); of every other model logits.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import SettingsError
from ..model import Architecture, Batch, Model, Params
from ..model.ends import head_input
from ..model.heads import head_of
from ..model.language import vocabulary
from ..model.pooling import pooled
from ..runtime.by_sublayer import finish, last_streams
from ..runtime.devices import Devices
from ..runtime.events import OnStep
from ..runtime.programs import Programs
from ..tokens.encoded import Encoded
from .losses import as_taught
from .settings import Train
from .taught import kept

# Bytes of residual streams that pass the sublayers of a teacher in host memory together, and the part of a limit on the
# device's bytes that these may take.
TOGETHER, PART = 2**28, 1 / 16

Guides = Callable[[Sequence[Batch]], Iterator[Any]]  # of batches: what the teacher says of each, in turn


@partial(jax.jit, static_argnames="architecture")
def read_by_head(params: Params, x: Array, *, architecture: Architecture) -> Float[Array, "rows length width"]:
    """What a language model's head reads, from the last residual stream."""
    return head_input(params, x, architecture).astype(jnp.float32)


def guides_of(
    params: Params, batches: Sequence[Batch], architecture: Architecture, programs: Programs
) -> Iterator[Array]:
    """What a teacher says of every batch in turn, float32, as `summed_losses` takes it for its guide: of a language
    model what its head reads, [rows, length, width]; of others logits.

    With `programs.devices.stream` its weights come from host memory one sublayer at a time, once for all batches (of
    which as many pass together as `last_streams` allows); none of them is there any more when the first result is.
    """
    logits = head_of(architecture).language is None
    for group, outer, xs in last_streams(params, batches, architecture, programs):
        results: list[Any] = []
        for batch in group:
            x = xs.pop(0)
            if logits:
                results.append(programs(finish, outer, x, batch, architecture=architecture))
            else:
                results.append(programs(read_by_head, outer, x, architecture=architecture))
            del x
        del outer
        while results:
            yield results.pop(0)


def beside(teacher: Model, settings: Train) -> Params | None:
    """What of a teacher is on the device at every step: all, or of one that is not there its vocabulary, if any."""
    if settings.teacher_in == "device":
        return teacher.params
    known = head_of(teacher.architecture).language is not None
    return vocabulary(teacher.params, teacher.architecture) if known else None


def together(batch: Batch, hidden: int, batches: int, limit: int | None = None) -> int:
    """How many of so many `batches` of this shape pass the sublayers of a teacher in host memory together; fewer where
    there is a `limit` on the device's bytes.
    """
    room = TOGETHER if limit is None else min(TOGETHER, int(PART * limit))
    return max(1, min(batches, room // (4 * hidden * np.size(batch.ids))))


def on_the_way(teacher: Model, devices: Devices, programs: Programs, limit: int | None = None) -> Guides:
    """Guides of a teacher whose weights stay in host memory. `programs.devices` streams; `limit` is that of
    `together`.
    """
    params, a = jax.tree.map(np.asarray, teacher.params), teacher.architecture

    def of(batches: Sequence[Batch]) -> Iterator[Any]:
        size = together(batches[0], a.hidden, len(batches), limit) if len(batches) else 1
        for at in range(0, len(batches), size):
            group = [devices.own_rows(pooled(as_taught(batch, a), a)) for batch in batches[at : at + size]]
            yield from guides_of(params, group, a, programs)

    return of


def guides_on_device(teacher: Model, batches: Sequence[Batch], devices: Devices) -> Iterator[Array]:
    """Guides of a teacher whose weights are on the device."""
    a, programs = teacher.architecture, Programs(devices=devices)
    for batch in batches:
        yield from guides_of(teacher.params, [devices.own_rows(pooled(as_taught(batch, a), a))], a, programs)


def check_place(settings: Train, teacher: Model | None, folder: Path | None) -> None:
    """Raise `SettingsError` where the teacher cannot be where the settings want it; `folder` is the run's."""
    if teacher is None or settings.teacher_in != "disk":
        return
    if folder is None:
        raise SettingsError(
            "what the teacher says is kept in the run's folder (teacher_in 'disk'), and there is none; pass out=FOLDER."
        )
    if jax.process_count() > 1:
        raise SettingsError(
            f"what the teacher says is kept on disk by one process, and there are {jax.process_count()}; set "
            "teacher_in to 'host' or 'device'."
        )
    head = head_of(teacher.architecture)
    if head.language is None and settings.taught_dtype is not None:
        raise SettingsError(
            f"taught_dtype ({settings.taught_dtype}) has no effect on {head.name}, whose few logits are kept in "
            "float32; leave it out."
        )


def chosen_guides(
    teacher: Model,
    settings: Train,
    devices: Devices,
    programs: Programs,
    encoded: Encoded | None,
    folder: Path | None,
    on_step: OnStep | None = None,
    limit: int | None = None,
) -> Guides | None:
    """Guides of a teacher that is not on the device, as the settings say; None of one that is.

    `encoded` are the texts of the batches, by their numbers. `programs.devices` streams. `on_step` hears of the pass
    over all texts: {"phase": "teaching", "done", "of"}. `limit` is that of `together`. Raises as `taught.kept` does.
    """
    if settings.teacher_in == "device":
        return None
    if settings.teacher_in == "host":
        return on_the_way(teacher, devices, programs, limit)
    if encoded is None or folder is None:
        raise SettingsError("a teacher whose words are kept on disk needs the run's folder and the texts themselves.")
    if encoded.masking is not None:
        raise SettingsError(
            "words are masked anew in every epoch, and what the teacher says once is of one masking (teacher_in "
            "'disk'); set teacher_in to 'host' or 'device'."
        )
    params, a = jax.tree.map(np.asarray, teacher.params), teacher.architecture
    alone = Programs(devices=Devices(stream=True))
    table = kept(
        folder, teacher, encoded, settings.taught_dtype, lambda part: guides_of(params, part, a, alone), on_step
    )
    return lambda batches: (devices.own_rows(table.of(batch)) for batch in batches)
