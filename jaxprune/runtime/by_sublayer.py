"""The forward pass one sublayer at a time: one small program serves every layer, and weights may come in turn."""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..model.architecture import Architecture
from ..model.context import context_of
from ..model.ends import embed_tokens
from ..model.heads import head_of
from ..model.model import Batch, Params
from ..model.sublayer import OUTPUT, features_of, project_out, residual, sublayer_inputs
from ..model.transformer import apply_head
from .programs import Programs

WAITING = 2**30  # bytes of residual streams that wait for their next sublayer, where nothing else is said


@partial(jax.jit, static_argnames="architecture")
def start(params: Params, batch: Batch, *, architecture: Architecture) -> Array:
    """The residual stream before sublayer 0."""
    return embed_tokens(params, batch, architecture).astype(jnp.float32)


class Trace(NamedTuple):
    """What the way back needs of a sublayer, instead of computing it again."""

    inputs: tuple[Array, ...]  # its input projections
    around: Float[Array, "rows length hidden"]  # the stream before it; or, where its norm comes last, what that reads
    update: Array | None = None  # what it adds to the stream, where that is normed on its own: before that norm


@partial(jax.jit, static_argnames=("half", "architecture"))
def advance(p: Params, x: Array, batch: Batch, *, half: str, architecture: Architecture) -> tuple[Array, Trace]:
    """The residual stream after one sublayer, and what `sweep_back` needs."""
    inputs = sublayer_inputs(half, p, x, architecture)
    features = features_of(half, p, inputs, context_of(architecture, batch), architecture)
    update = project_out(p[OUTPUT[half]], features)
    around = x + update if architecture.norm_position == "post" else x
    trace = Trace(inputs, around, update if architecture.norms_update else None)
    return residual(p, x, update, architecture), trace


def output_of(after: Array, trace: Trace, architecture: Architecture) -> Array:
    """What a fit of the output projection aims at, from what `advance` gave, before any norm.

    The stream plus the sublayer's update; the update alone, where that is normed before it is added.
    """
    if trace.update is not None:
        return trace.update
    return after if architecture.norm_position == "pre" else trace.around


@partial(jax.jit, static_argnames="architecture")
def finish(params: Params, x: Array, batch: Batch, *, architecture: Architecture) -> Array:
    """Logits from the last residual stream."""
    return apply_head(params, x, batch, architecture).astype(jnp.float32)


def outer_params(params: Params) -> Params:
    """The parameters outside the layers, so that a program over them does not depend on depth."""
    return {name: value for name, value in params.items() if name != "layers"}


def streams(
    params: Params, batch: Batch, architecture: Architecture, programs: Programs, first: int = 0, x: Array | None = None
) -> Iterator[Array]:
    """The residual stream before sublayer `first` (handed in as `x` unless it is 0) and after every later one."""
    if x is None:
        x = programs(start, programs.devices.fetch(outer_params(params)), batch, architecture=architecture)
    here: Any = x
    yield here
    for at, p in programs.devices.sublayers(params["layers"], architecture.sublayers()[first:]):
        here = programs(advance, p, here, batch, half=at.half, architecture=architecture.of_layer(at.layer))[0]
        yield here


def last_stream(params: Params, batch: Batch, architecture: Architecture, programs: Programs) -> Array:
    """The residual stream after all sublayers."""
    return deque(streams(params, batch, architecture, programs), maxlen=1)[0]


@partial(jax.jit, static_argnames="architecture")
def finish_text(params: Params, x: Array, batch: Batch, *, architecture: Architecture) -> Array:
    """A language model's next-token losses from the last residual stream."""
    language = head_of(architecture).language
    assert language is not None
    return language.losses(params, x, batch, architecture)


def last_outputs(
    params: Params, batches: Sequence[Batch], architecture: Architecture, programs: Programs, logits: bool = False
) -> Iterator[Array]:
    """The results of every batch in turn; many batches pass a sublayer together.

    Logits (`finish`), or of a language model, unless `logits` are asked for, next-token losses.
    """
    whole = logits or head_of(architecture).language is None
    last = finish if whole else finish_text
    for group, outer, xs in last_streams(params, batches, architecture, programs):
        for x, batch in zip(xs, group, strict=True):
            yield programs(last, outer, x, batch, architecture=architecture)


def last_streams(
    params: Params, batches: Sequence[Batch], architecture: Architecture, programs: Programs
) -> Iterator[tuple[Sequence[Batch], Params, list[Array]]]:
    """Batches that pass every sublayer together; on the device what lies outside the layers, and their last streams."""
    devices = programs.devices
    size = max(1, (devices.waiting or WAITING) // (4 * architecture.hidden * max(batch.ids.size for batch in batches)))
    for first in range(0, len(batches), size):
        group = batches[first : first + size]
        outer = devices.fetch(outer_params(params))
        xs = [programs(start, outer, batch, architecture=architecture) for batch in group]
        del outer
        for at, p in devices.sublayers(params["layers"], architecture.sublayers()):
            kind = architecture.of_layer(at.layer)
            for place, batch in enumerate(group):
                xs[place] = programs(advance, p, xs[place], batch, half=at.half, architecture=kind)[0]
        yield group, devices.fetch(outer_params(params)), xs
