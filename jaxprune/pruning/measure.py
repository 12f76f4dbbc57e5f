"""One pass forwards and backwards over the calibration texts: everything that any score needs, and nothing per token.

The model runs sublayer by sublayer, so that one small program serves every layer. On the way up a sublayer leaves its
input projections behind, for one batch at a time; the backward sweep starts from them and computes no projection twice.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ..errors import NumericalError
from ..model.architecture import ATTENTION, Architecture
from ..model.heads import head_of
from ..model.model import Batch, Params
from ..model.sublayer import OUTPUT, context_of, features_of, residual, sublayer_inputs
from ..model.transformer import apply_head
from ..runtime.by_sublayer import Trace, advance, outer_params, output_of, start
from ..runtime.devices import Devices
from ..runtime.programs import Programs
from .gram import add_gram
from .kept import KeptPasses
from .measured import Parts

WAITING_BYTES = 2**31  # bytes of residual streams that wait in host memory while weights are streamed


class Statistics(NamedTuple):
    """Sums over calibration tokens for one sublayer with `units` units of `width` features each.

    All in float32 at the highest matmul precision. Divide by `tokens` or `texts` for means. Of `gram` and `sensitivity`
    only the upper part is summed (`gram.whole` fills in the rest). What was not asked for has no entries.
    """

    gram: Float[Array, "features features"]  # Σ_t ω_t f fᵀ, with token weights of mean 1
    mean: Float[Array, " features"]  # Σ_t ω_t f
    sensitivity: Float[Array, "hidden hidden"]  # Σ_t g gᵀ, g the gradient at the sublayer's output
    gates: Float[Array, " units"]  # Σ over texts and seeds of (gradient to the unit's gate)²
    block: Float[Array, "units units"]  # the same as an outer product over units


def empty_statistics(units: int, width: int, hidden: int, *, grams: bool, gates: bool, blocks: bool) -> Statistics:
    features, gate, block = units * width * grams, units * (gates or blocks), units * blocks
    zeros = partial(jnp.zeros, dtype=jnp.float32)
    return Statistics(
        zeros((features, features)), zeros(features), zeros((hidden, hidden)), zeros(gate), zeros((block, block))
    )


def output_kernel(p: Params, half: str) -> Float[Any, "features hidden"]:
    """A sublayer's output projection as a matrix."""
    kernel = p[OUTPUT[half]]["kernel"]
    return kernel.reshape(-1, kernel.shape[-1])


def segment_sum(values: Float[Array, "rows length n"], batch: Batch) -> Float[Array, "rows texts n"]:
    """Sum over the tokens of every packed text; padding counts nowhere."""
    texts = jax.nn.one_hot(batch.segments - 1, batch.pool.shape[1], dtype=values.dtype)  # 0 for padding
    return jnp.einsum("rts,rtn->rsn", texts, values, precision="highest")


# --- seeds: cotangents at the logits whose outer product is the Fisher information of the model's own prediction


@partial(jax.jit, static_argnames=("architecture", "temperature", "exact_up_to"))
def head_cotangents(
    params: Params,
    x: Array,
    batch: Batch,
    key: Array,
    *,
    architecture: Architecture,
    temperature: float,
    exact_up_to: int,
) -> Float[Array, "seeds rows length hidden"]:
    """The Fisher seeds pulled back to the last residual stream."""
    head = head_of(architecture)
    if head.language is not None:
        return head.language.cotangents(params, x, batch, architecture, temperature, key)[None]
    assert head.fisher is not None
    logits, pull = jax.vjp(lambda x: apply_head(params, x, batch, architecture).astype(jnp.float32), x)
    seeds = jnp.where(head.present(batch)[..., None], head.fisher(logits, batch, temperature, key, exact_up_to), 0)
    return jax.vmap(lambda seed: pull(seed)[0])(seeds)


# --- the backward sweep


@partial(jax.jit, static_argnames=("half", "architecture", "floor", "features"), donate_argnames=("sums", "cotangents"))
def sweep_back(
    p: Params,
    trace: Trace,
    batch: Batch,
    cotangents: Float[Array, "seeds rows length hidden"],
    sums: tuple[Array, Array, Array],
    *,
    half: str,
    architecture: Architecture,
    floor: float,
    features: bool,
) -> tuple[Array, tuple[Array, Array, Array], Float[Array, "rows length"], tuple[Array, Array] | None]:
    """Pull the cotangents back over one sublayer and add to `sums`: its sensitivity, gates and block.

    Returns cotangents before the sublayer, the sums, and every token's energy |g|², g the gradient at the sublayer's
    output. With `features` also the sublayer's features, each token's times the root of its weight, and these roots,
    [rows, length, 1]: for `add_features`. Tokens weigh by their share of the batch's energy (`token_weights`).
    """
    context = context_of(architecture, batch)
    said, pull_features = jax.vjp(lambda inputs: features_of(half, inputs, context, architecture), trace.inputs)
    # Projections are linear and an identity surrounds the norm of the other position, so that one stored stream serves
    # as the point of both derivatives; the values computed on the way are not used, and never computed.
    _, pull_inputs = jax.vjp(lambda x: sublayer_inputs(half, p, x, architecture), trace.around)
    _, pull_norm = jax.vjp(lambda x: residual(p, x, jnp.zeros((), x.dtype), architecture), trace.around)
    kernel, flat, units = output_kernel(p, half), said.reshape(*said.shape[:2], -1), said.shape[2]
    sensitivity, gates, block = sums

    def one(cotangent):
        (g,) = pull_norm(cotangent)
        g_features = jnp.einsum("rth,fh->rtf", g, kernel)
        (g_inputs,) = pull_features(g_features.reshape(said.shape))
        (g_through,) = pull_inputs(g_inputs)
        if not gates.shape[0]:
            return g + g_through, g, None
        per_unit = jnp.sum((flat * g_features).reshape(*flat.shape[:2], units, -1), axis=-1)
        return g + g_through, g, segment_sum(per_unit, batch)  # the last: [rows, texts, units]

    before, g, of_gates = jax.vmap(one)(cotangents)
    real = batch.real.astype(jnp.float32)
    g = g * real[..., None]
    energy = jnp.sum(g**2, axis=(0, -1))
    sensitivity = add_gram(sensitivity, g.reshape(-1, g.shape[-1]))
    if of_gates is not None:
        gates = gates + jnp.sum(of_gates**2, axis=(0, 1, 2))
        if block.shape[0]:
            block = block + jnp.einsum("krsu,krsv->uv", of_gates, of_gates, precision="highest")
    if not features:
        return before, (sensitivity, gates, block), energy, None
    root = jnp.sqrt(token_weights(energy, real, jnp.sum(energy), jnp.sum(real), floor))[..., None]
    return before, (sensitivity, gates, block), energy, (flat * root, root)


@partial(jax.jit, donate_argnames="sums")
def add_features(
    weighted: Float[Array, "rows length features"], root: Float[Array, "rows length 1"], sums: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Add one batch to a sublayer's Gram matrix and mean.

    A program of its own: inside `sweep_back` XLA works the features out again for every block of the Gram matrix, which
    takes longer than the blocks do.
    """
    gram, mean = sums
    x = weighted.reshape(root.size, weighted.shape[-1])  # no -1: a sublayer may have come without units
    return add_gram(gram, x), mean + root.reshape(-1) @ x


def token_weights(energy: Array, real: Array, total: ArrayLike, tokens: ArrayLike, floor: float) -> Array:
    """Weights of mean 1 over `tokens` tokens of `total` energy: `floor` of it uniform, the rest by energy.

    A token whose output nothing reads (all but the first in the last layer of a classifier) then hardly counts.
    """
    mean = jnp.maximum(total / jnp.maximum(tokens, 1), 1e-30)
    return (floor + (1 - floor) * energy / mean) * real


class Measurement(NamedTuple):
    """What one pass over the calibration texts leaves behind."""

    statistics: list[Statistics]  # per sublayer, bottom up
    weights: list[list[Any]]  # [batch][sublayer]: token weights, [rows, length], of mean 1 over all batches
    tokens: int
    texts: int


def measure(
    params: Params,
    architecture: Architecture,
    batches: Sequence[Batch],
    *,
    temperature: float,
    floor: float,
    exact_up_to: int,
    seed: int,
    programs: Programs,
    grams: bool = True,
    gates: bool = False,
    fisher_blocks: bool = False,
    on_part: Callable[[int, int], None] = lambda done, of: None,
    kept: KeptPasses | None = None,
    parts: Parts | None = None,
) -> Measurement:
    """Statistics of every sublayer of the dense model: about four forward passes, one batch in memory at a time.

    `grams`, `gates` and `fisher_blocks` say which are asked for; sensitivities always are. Dense outputs go to `kept`,
    as far as it has room for them. With streamed weights many batches pass a sublayer before the next one comes, their
    residual streams wait in host memory, and the way back computes input projections once more: a fifth pass, and the
    same numbers to the bit. `parts` keeps the sums now and then, after a batch or a group of them; batches that were in
    them are not computed again.
    """
    devices, addresses = programs.devices, architecture.sublayers()
    sublayers = len(addresses)
    asked = {"grams": grams, "gates": gates, "blocks": fisher_blocks}
    passed_before, before = (0, {}) if parts is None else parts.take()
    sums, energies = _unpacked_sums(before, list(_empty_sums(architecture, **asked)), len(batches))
    sums = [devices.keep(devices.everywhere(entry)) for entry in sums]
    energies = [[None if energy is None else devices.keep(devices.rows(energy)) for energy in row] for row in energies]
    del before
    groups = _groups(batches, architecture, devices.stream, passed_before)
    for count, group in enumerate(groups):
        here = lambda done=count * sublayers: on_part(done, len(groups) * sublayers)  # noqa: E731
        up = here if devices.stream else lambda: None  # a chance to stop: many batches are on their way
        xs, passed = _upwards(params, architecture, {number: batches[number] for number in group}, programs, up, kept)
        outer = devices.fetch(outer_params(params))
        cotangents = []
        for number in group:
            key = jax.random.fold_in(jax.random.key(seed), number)
            cotangents.append(
                programs(
                    head_cotangents,
                    outer,
                    xs.pop(0),
                    batches[number],
                    devices.everywhere(key),
                    architecture=architecture,
                    temperature=temperature,
                    exact_up_to=exact_up_to,
                )
            )
        del outer
        for at, p in devices.sublayers(params["layers"], reversed(addresses)):
            static = {"half": at.half, "architecture": architecture}
            waiting, total = passed.pop(), devices.everywhere(sums[at.index]) if devices.stream else sums[at.index]
            for place, number in enumerate(group):
                trace, batch = waiting.pop(0), batches[number]
                if devices.stream:
                    trace = programs(advance, p, devices.rows(trace), batch, **static)[1]
                cotangents[place], back, energy, said = programs(
                    sweep_back, p, trace, batch, cotangents[place], total[2:], floor=floor, features=grams, **static
                )
                total = Statistics(*(total[:2] if said is None else programs(add_features, *said, total[:2])), *back)
                energies[number][at.index] = devices.keep(energy)
            if devices.stream:
                programs.meter.sample("measure")
                on_part((count + 1) * sublayers - at.index, len(groups) * sublayers)
            sums[at.index] = devices.keep(total)
            del total
        if not devices.stream:
            on_part(count + 1, len(groups))
        if parts is not None:
            parts.keep(group[-1] + 1, len(batches), _packed_sums(sums, energies[: group[-1] + 1]))
    tokens, texts = count_tokens(batches, devices), count_texts(batches, devices)
    for at, entry in zip(addresses, sums, strict=True):
        if not bool(jnp.all(jnp.isfinite(entry.sensitivity)) & jnp.all(jnp.isfinite(entry.gates))):
            raise NumericalError(
                f"NaN or Inf in the activations or gradients of layer {at.layer}, {at.half}; "
                "check the checkpoint's weights."
            )
    totals = [float(sum(jnp.sum(energy) for energy in column)) for column in zip(*energies, strict=True)]
    weights = [
        [
            devices.keep(token_weights(devices.rows(energy), batch.real.astype(jnp.float32), total, tokens, floor))
            for energy, total in zip(column, totals, strict=True)
        ]
        for batch, column in zip(batches, energies, strict=True)
    ]
    return Measurement(sums, weights, tokens, texts)


def count_tokens(batches: Sequence[Batch], devices: Devices) -> int:
    """Real tokens in all batches."""
    return sum(int(np.sum(devices.read(batch.segments) > 0)) for batch in batches)


def count_texts(batches: Sequence[Batch], devices: Devices) -> int:
    return sum(int(np.sum(devices.read(batch.index) >= 0)) for batch in batches)


def _groups(batches: Sequence[Batch], architecture: Architecture, stream: bool, first: int) -> list[range]:
    """Numbers of the batches from `first` on that pass a sublayer together: one, or streamed as many as may wait."""
    slots = max(batch.ids.size for batch in batches)
    each = 4 * slots * architecture.hidden * len(architecture.sublayers())
    size = max(1, WAITING_BYTES // each) if stream else 1
    return [range(at, min(at + size, len(batches))) for at in range(first, len(batches), size)]


def _packed_sums(sums: Sequence[Statistics], energies: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """All that the pass needs to go on: sums of every sublayer, energies [batch][sublayer] of the batches in them."""
    arrays = {f"{name}.{index}": value for index, entry in enumerate(sums) for name, value in entry._asdict().items()}
    of_batches = enumerate(energies)
    return arrays | {f"energy.{number}.{at}": value for number, row in of_batches for at, value in enumerate(row)}


def _unpacked_sums(
    arrays: Mapping[str, Any], empty: Sequence[Statistics], batches: int
) -> tuple[list[Statistics], list[list[Any]]]:
    """The inverse of `_packed_sums`, `empty` where there are none; energies of batches that are to come are None."""
    sums = [
        Statistics(*(arrays.get(f"{name}.{index}", value) for name, value in entry._asdict().items()))
        for index, entry in enumerate(empty)
    ]
    return sums, [[arrays.get(f"energy.{number}.{at}") for at in range(len(empty))] for number in range(batches)]


def _empty_sums(architecture: Architecture, **asked: bool) -> Iterator[Statistics]:
    for at in architecture.sublayers():
        size = architecture.layers[at.layer]
        width = size.queries * architecture.head_width if at.half == ATTENTION else 1
        yield empty_statistics(size.units[at.half], width, architecture.hidden, **asked)


def _upwards(
    params: Params,
    architecture: Architecture,
    batches: dict[int, Batch],
    programs: Programs,
    on_sublayer: Callable[[], None] = lambda: None,
    kept: KeptPasses | None = None,
) -> tuple[list[Array], list[list[Any]]]:
    """The last residual stream of every batch (by number), and what the way back needs, [sublayer][batch].

    That is a `Trace`, or with streamed weights the residual stream before the sublayer, in host memory.
    """
    devices, passed = programs.devices, []
    outer = devices.fetch(outer_params(params))
    xs = [programs(start, outer, batch, architecture=architecture) for batch in batches.values()]
    del outer
    for at, p in devices.sublayers(params["layers"], architecture.sublayers()):
        waiting = []
        for place, (number, batch) in enumerate(batches.items()):
            before = xs[place]
            xs[place], trace = programs(advance, p, before, batch, half=at.half, architecture=architecture)
            if kept is not None:
                kept.keep(at.index, number, output_of(xs[place], trace, architecture), devices)
            waiting.append(devices.keep(before) if devices.stream else trace)
        passed.append(waiting)
        on_sublayer()
    programs.meter.sample("measure")
    return xs, passed


def unit_width(p: Params, half: str) -> int:
    """Features per unit of a half: a key-value group's queries × head width, or 1 for a neuron."""
    return math.prod(p[OUTPUT[half]]["kernel"].shape[1:-1])
