"""How far a model is from the one that it was made from, on some texts: what recovery brings down."""

from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..model import Architecture, Batch, Model, Params, Sites
from ..runtime.devices import Devices
from ..runtime.programs import Programs
from .guides import beside, guides_on_device, on_the_way
from .losses import Distillation, summed_losses, targets_of, unit_count
from .settings import Train
from .step import spread_over


class Apart:
    """How far a model is from the dense one on some texts: the loss of recovery, a mean over texts or tokens.

    It is computed in the type that trains. A dense model says once what it has to say, but for its hidden states.
    """

    def __init__(
        self,
        dense: Model,
        batches: Iterable[Batch],
        settings: Train,
        targets: np.ndarray,
        devices: Devices = Devices(),
    ):
        self._batches, self._targets, self._devices = list(batches), targets, devices
        self._dense, self._beside = dense.architecture, beside(dense, settings)
        self._distillation, self._dtype, self._programs = settings.distillation, settings.dtype, Programs()
        self._guides: list[np.ndarray | None] = [None] * len(self._batches)
        if settings.teacher_in != "device":
            stream = Devices(devices.mesh, stream=True)
            guides = on_the_way(dense, devices, Programs(devices=stream))
            self._guides = [devices.read(guide) for guide in guides(self._batches)]
        elif not settings.distill_hidden:
            self._guides = [devices.read(guide) for guide in guides_on_device(dense, self._batches, devices)]

    def __call__(self, params: Params, architecture: Architecture) -> float:
        total = count = 0.0
        params, teacher = self._devices.fetch((params, self._beside))  # there once, not for every batch
        for batch, guide in zip(self._batches, self._guides, strict=True):
            rows = self._devices.rows((batch, targets_of(batch, self._targets), guide))
            total += float(
                self._programs(
                    _gap, params, teacher, *rows, architecture=architecture, dense=self._dense,
                    distillation=self._distillation, devices=self._devices, dtype=self._dtype,
                )
            )  # fmt: skip
            count += float(unit_count(*rows[:2], architecture))
        return total / count


@partial(jax.jit, static_argnames=("architecture", "dense", "distillation", "devices", "dtype"))
def _gap(
    params: Params,
    teacher: Params | None,
    batch: Batch,
    targets: Array,
    guide: Array | None,
    *,
    architecture: Architecture,
    dense: Architecture,
    distillation: Distillation,
    devices: Devices,
    dtype: str,
) -> Float[Array, ""]:
    return summed_losses(
        params, batch, targets, architecture, sites=Sites(spread=spread_over(devices)),
        teacher=None if teacher is None else (dense, teacher), guide=guide, distillation=distillation,
        dtype=jnp.dtype(dtype),
    )  # fmt: skip
