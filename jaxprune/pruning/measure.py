"""One pass forwards and backwards over the calibration texts: everything that any score needs, and nothing per token.

The model runs sublayer by sublayer, so that one small program serves every layer (`backward.py`). On the way up a
sublayer leaves its input projections behind, for one batch at a time; the backward sweep starts from them and computes
no projection twice.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..errors import NumericalError
from ..model.architecture import ATTENTION, Architecture
from ..model.model import Batch, Params
from ..runtime.by_sublayer import advance, outer_params, output_of, start
from ..runtime.devices import Devices
from ..runtime.programs import Programs
from .backward import Statistics, add_features, empty_statistics, head_cotangents, sweep_back, token_weights
from .kept import KeptPasses
from .measured import Parts

WAITING_BYTES = 2**31  # bytes of residual streams that wait in host memory while weights are streamed


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
                    apart=grams,
                )
            )
        del outer
        for at, p in devices.sublayers(params["layers"], reversed(addresses)):
            static = {"half": at.half, "architecture": architecture.of_layer(at.layer)}
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
        waiting, kind = [], architecture.of_layer(at.layer)
        for place, (number, batch) in enumerate(batches.items()):
            before = xs[place]
            xs[place], trace = programs(advance, p, before, batch, half=at.half, architecture=kind)
            if kept is not None:
                kept.keep(at.index, number, output_of(xs[place], trace, architecture), devices)
            waiting.append(devices.keep(before) if devices.stream else trace)
        passed.append(waiting)
        on_sublayer()
    programs.meter.sample("measure")
    return xs, passed
