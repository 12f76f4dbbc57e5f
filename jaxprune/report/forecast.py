"""How long a pruning run will take, from the same run on very little: one and two layers, one and two batches.

How often each compiled program is called grows with layers and batches in a way that four such runs settle exactly;
what a call takes is measured in them, on the machine and at the shapes of the run to come. Work on the host (solves,
searches) is taken to grow with the number of layers and of batches.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ..checkpoint.notes import images_of
from ..model import Architecture, Batch, Model
from ..model.model import Provenance
from ..pruning.budget import Budget
from ..pruning.kept import KEEP_BYTES, KeptPasses
from ..pruning.method import Method
from ..pruning.prune import prune
from ..runtime.devices import Devices
from ..runtime.programs import watched
from ..tasks.calibration import Calibration
from ..tokens.packing import Encoded, pack


@dataclass(frozen=True)
class Forecast:
    """Predicted for a whole run over all its budgets, one after the other from one measurement."""

    seconds: float  # compilation included; loading and scoring apart
    compile_seconds: float  # in this process: what it has compiled before costs nothing
    dense_forward_seconds: float  # one warm pass of the dense model over the calibration texts
    first_forwards: float  # dense forward passes that the first budget costs, compilation apart
    further_forwards: float  # and every further one; 0 where there is one budget


@dataclass
class _Probe:
    """What one small run called, and how long that took."""

    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    host: float = 0.0  # seconds outside compiled programs and their compilation
    compiling: float = 0.0
    forward: float = 0.0  # of the dense model, a batch


Probes = dict[tuple[int, int], _Probe]  # by layers and batches, 1 and 2


def forecast(
    model: Model,
    method: Method,
    budgets: Sequence[Budget],
    lengths: Sequence[int],
    *,
    mesh: Mesh | None = None,
    stream: bool = False,
    keep_bytes: int = KEEP_BYTES,
) -> Forecast:
    """Run `method` on a beginning of `model` and made-up texts of these lengths (tokens), and extrapolate.

    `mesh`, `stream` and `keep_bytes` are those of the run to come.

    Takes about as long as a run on two layers and six batches, and compiles what the run itself will. Raises
    `BudgetError` where the budget leaves nothing.
    """
    encoded, calibration = _made_up(model, lengths)
    batches = pack(encoded, model.architecture, group=method.group)
    texts = [[int(number) for number in np.unique(batch.index) if number >= 0] for batch in batches[:2]]
    layers, count = len(model.architecture.layers), len(batches)
    per_call: dict[str, list[float]] = defaultdict(list)
    devices = Devices(mesh, stream)

    def total(budgets: Sequence[Budget]) -> tuple[float, Probes]:
        """Seconds of the whole run, compilation apart; what is kept between passes only in part counts in part."""
        share, features = _kept(model.architecture, batches, keep_bytes, devices)
        totals = []
        for outputs in sorted({math.floor(share), math.ceil(share)}):  # none and all, where a part is kept
            keep = [
                keep_bytes if outputs else features * KeptPasses.needed(model.architecture, batches[:n]) for n in (1, 2)
            ]
            where = {"mesh": mesh, "stream": stream}
            probes = _probes(model, method, budgets, texts, calibration, keep, per_call, where)
            totals.append((_seconds(probes, layers, count, per_call), probes))
        # The first of them compiled what both need.
        return share * totals[-1][0] + (1 - share) * totals[0][0], totals[0][1]

    first, probes = total(budgets[:1])
    compiling = _compiling(probes, layers)
    further = 0.0
    if len(budgets) > 1:
        more, others = total(budgets[:2])
        further = max(more - first, 0.0)
        compiling += _compiling(others, layers)
    passes = count * _line(probes[1, 1].forward, probes[2, 1].forward, layers)
    seconds = first + further * (len(budgets) - 1) + compiling
    return Forecast(seconds, compiling, passes, first / passes, further / passes)


def _made_up(model: Model, lengths: Sequence[int]) -> tuple[Encoded, Callable[[Sequence[int]], Calibration]]:
    """Random texts of these lengths, or as many images, as a model reads them; and those of some numbers, to give."""
    patches, rng = model.architecture.patches, np.random.default_rng(0)
    if patches is None:
        ids = [rng.integers(model.architecture.vocab, size=length) for length in lengths]
        return (
            Encoded(ids, [np.zeros_like(row) for row in ids]),
            lambda some: Calibration.of_ids([ids[number] for number in some], None),
        )
    settings, _ = images_of(model)
    brightest = 1 if settings.scale is None and settings.resize is None else 255  # as a processor takes it
    shape = (patches.height, patches.width, *([patches.channels] if patches.channels > 1 else []))
    slots = np.zeros(patches.tokens, np.int32)
    blank = np.broadcast_to(np.zeros((), np.float32), (patches.tokens, patches.numbers))
    encoded = Encoded([slots] * len(lengths), [slots] * len(lengths), patches=[blank] * len(lengths))
    draw = lambda number: np.random.default_rng(number).integers(0, brightest, shape, np.uint8, endpoint=True)  # noqa: E731
    return encoded, lambda some: Calibration.of_images([draw(number) for number in some])


def _probes(
    model: Model,
    method: Method,
    budgets: Sequence[Budget],
    texts: Sequence[Sequence[int]],
    calibration: Callable[[Sequence[int]], Calibration],
    keep: Sequence[int],
    per_call: dict[str, list[float]],
    where: Mapping[str, Any],
) -> Probes:
    probes: Probes = {}
    for depth in (1, 2):
        small = _beginning(model, depth)
        for count, keep_bytes in enumerate(keep, 1):
            given = calibration([number for batch in texts[:count] for number in batch])
            probe = _Probe()

            def heard(name: str, seconds: float, probe: _Probe = probe) -> None:
                probe.calls[name] += 1
                per_call[name].append(seconds)

            with watched(heard) as spent:
                results = prune(small, given, budgets, method, keep_bytes=keep_bytes, **where)
            records = [result.provenance.record for result in results]
            probe.compiling = sum(record["compile_seconds"] for record in records)
            probe.host = sum(record["seconds"] for record in records) - probe.compiling - spent()
            probe.forward = records[0]["dense_forward_seconds"] / min(count, len(texts))
            probes[depth, count] = probe
    return probes


def _calls(probes: Probes, layers: int, batches: int) -> dict[str, int]:
    """How often a run on so many layers and batches calls every program."""
    calls = {}
    for name in {name for probe in probes.values() for name in probe.calls}:
        one, deep, wide, both = (probes[at].calls[name] for at in ((1, 1), (2, 1), (1, 2), (2, 2)))
        calls[name] = one + (layers - 1) * (deep - one) + (batches - 1) * (wide - one)
        calls[name] += (layers - 1) * (batches - 1) * (both - deep - wide + one)
    return calls


def _seconds(probes: Probes, layers: int, batches: int, per_call: dict[str, list[float]]) -> float:
    """Of a run on so many layers and batches, compilation apart."""
    calls = _calls(probes, layers, batches)
    seconds = sum(count * statistics.median(per_call[name]) for name, count in calls.items())
    one, deep, wide = (probes[at].host for at in ((1, 1), (2, 1), (1, 2)))
    return seconds + _line(one, deep, layers) + _line(0.0, max(wide - one, 0.0), batches)


def _compiling(probes: Probes, layers: int) -> float:
    """Seconds of compilation: what serves any depth, and the whole model at the end, which is compiled every time."""
    once, widths, whole = (probes[at].compiling for at in ((1, 1), (2, 1), (2, 2)))
    return once + max(widths - whole, 0.0) + (layers - 1) * whole / 2


def _line(first: float, second: float, at: int) -> float:
    """What goes from `first` at 1 over `second` at 2, never falling."""
    return first + (at - 1) * max(second - first, 0.0)


def _beginning(model: Model, depth: int) -> Model:
    """A model of so many layers, all of them the middle one by size."""
    sizes = model.architecture.layers
    order = sorted(range(len(sizes)), key=lambda index: (sizes[index].heads, sizes[index].neurons))
    middle = order[len(order) // 2]
    architecture = model.architecture.with_layers((sizes[middle],) * depth)
    params = {**model.params, "layers": [model.params["layers"][middle]] * depth}
    if architecture.patches is None:
        return Model(architecture, params)
    notes = Provenance(model.provenance.source, tokenizer=model.provenance.tokenizer)  # how images are read
    return Model(architecture, params, notes)


def _kept(
    architecture: Architecture, batches: Sequence[Batch], keep_bytes: int, devices: Devices
) -> tuple[float, bool]:
    """The share of dense outputs that a run keeps, and whether it keeps features."""
    kept = KeptPasses.within(keep_bytes, architecture, batches, devices)
    outputs = 4 * architecture.hidden * batches[0].ids.size
    whole = len(batches) * len(architecture.sublayers())
    return min(kept.bytes_left // outputs, whole) / whole, kept.features
