"""Is the cut model the one that was chosen? Logits with units silenced against logits with them cut away."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ..errors import NumericalError
from ..model.architecture import Architecture
from ..model.heads import head_of
from ..model.model import Batch, Model, Params
from ..model.transformer import whole_forward
from ..runtime.by_sublayer import finish, last_outputs, last_stream, outer_params
from ..runtime.devices import Devices, placed
from ..runtime.precision import full_precision
from ..runtime.programs import Programs
from ..tokens.packing import logits_difference
from .cut import Mask, silenced, silenced_half

FIRST = 64  # tokens of a row on which a language model's logits are compared: all would be as wide as the vocabulary
TOLERANCE = 1e-5  # relative, in float32


def first_tokens(batch: Batch) -> Batch:
    """The first tokens of the first two rows: what a causal model says of them does not depend on the rest."""
    short = {name: getattr(batch, name)[:2, :FIRST] for name in ("ids", "segments", "positions", "types")}
    return batch._replace(**short, pool=batch.pool[:2], index=batch.index[:2])


def masked_versus_cut(model: Model, small: Model, masks: Sequence[Mask], batch: Batch) -> float:
    """Largest difference of logits, units silenced against units cut away, relative to the largest logit."""
    batch = batch if head_of(model.architecture).language is None else first_tokens(batch)
    batch, programs = placed(jax.tree.map(lambda leaf: leaf[:2], batch)), Programs()
    params = placed(silenced(model, masks).params)
    with full_precision():
        masked = programs.once(whole_forward, params, batch, architecture=model.architecture)
        without = programs.once(whole_forward, small.params, batch, architecture=small.architecture)
    return _difference(masked, without, batch, "check the checkpoint's weights")


def _difference(masked: Any, without: Any, batch: Batch, cure: str) -> float:
    """Of logits, relative to the largest. Raises `NumericalError` where they are not finite."""
    error = logits_difference(masked, without, batch)
    if not np.isfinite(error):
        raise NumericalError(f"the pruned model's outputs are NaN or Inf; {cure}.")
    return error


class MadeLayers(Sequence[Params]):
    """The layers of a model that are made when they are read: the memory holds one, the last."""

    def __init__(self, count: int, make: Callable[[int], Params]):
        self._count, self._make, self._last = count, make, (-1, {})

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):  # no slices
        if self._last[0] != index:
            self._last = index, self._make(index)
        return self._last[1]


def masked_versus_cut_in_turn(
    whole: Params, cut: Params, architecture: Architecture, small: Architecture, masks: Sequence[Mask], batch: Batch
) -> float:
    """`masked_versus_cut` of weights in host memory, one sublayer at a time: those of the model in full size, of this
    `architecture`, and of the `small` one. Both may have `MadeLayers`.
    """
    batch = batch if head_of(architecture).language is None else first_tokens(batch)
    batch, programs = placed(jax.tree.map(lambda leaf: leaf[:2], batch)), Programs(own={}, devices=Devices(stream=True))
    by_layer = architecture.by_layer(masks)

    def silenced_layer(index: int) -> Params:
        return {half: silenced_half(half, p, by_layer[index][half]) for half, p in whole["layers"][index].items()}

    quiet = {**whole, "layers": MadeLayers(len(whole["layers"]), silenced_layer)}
    with full_precision():
        masked, without = (
            next(last_outputs(weights, [batch], sizes, programs, logits=True))
            for weights, sizes in ((quiet, architecture), (cut, small))
        )
    return _difference(masked, without, batch, "check the checkpoint's weights")


def masked_versus_cut_in_run(
    fitted: Model, small: Model, masks: Sequence[Mask], batch: Batch, programs: Programs
) -> float:
    """`masked_versus_cut` where a run's weights are, and streamed where it does; on a CPU by programs that it has."""
    head = head_of(fitted.architecture)
    if head.language is not None and not head.generates:
        batch = first_tokens(batch)  # what such a model says of a token depends on the rest, too
    devices = programs.devices
    params = devices.params(silenced(fitted, masks).params)
    with full_precision():
        last = last_stream(params, batch, fitted.architecture, programs)
        # From here on few rows, on one device.
        last, batch, outer = placed(devices.read((last, batch, outer_params(fitted.params))))
        if head.language is not None:
            last, batch = last[:2, :FIRST], first_tokens(batch)
        masked = programs(finish, outer, last, batch, architecture=fitted.architecture)
        batch, masked = jax.tree.map(lambda leaf: leaf[:2], (batch, masked))
        if devices.stream:
            without = next(last_outputs(small.params, [batch], small.architecture, programs, logits=True))
        else:
            on_device = placed(small.params)
            without = programs.once(whole_forward, on_device, batch, architecture=small.architecture)
    return _difference(masked, without, batch, "raise the ridge, or calibrate on more texts")


def check_model(model: Model) -> None:
    """Raise `NumericalError` naming the first parameter that holds NaN or Inf."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(model.params)[0]:
        if not np.isfinite(np.asarray(leaf)).all():
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise NumericalError(f"parameter {name} holds NaN or Inf; the checkpoint is damaged, use another copy.")
