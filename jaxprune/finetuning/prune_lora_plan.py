"""What Prune-LoRA makes of importance: which heads and neurons stay, and the ranks of the adapters of what does."""

from collections.abc import Sequence
from math import prod

import numpy as np

from ..errors import SettingsError
from ..model import Architecture
from ..model.architecture import HALVES
from ..pruning.cut import Mask, unit_counts
from .importance import least
from .lora import Size, projection_shapes
from .prune_lora_settings import PruneLora


def choose(
    heads: Sequence[np.ndarray], neurons: Sequence[np.ndarray], architecture: Architecture, settings: PruneLora
) -> list[Mask]:
    """Masks per sublayer, true keeps: without the least important heads, and neurons, of all layers together."""
    counts = unit_counts(architecture)
    head_counts, neuron_counts = (architecture.of_half(half, counts) for half in HALVES)
    gone_heads = round(settings.remove_heads * sum(head_counts))
    gone_neurons = round(settings.remove_neurons * sum(neuron_counts))
    if gone_neurons and not sum(len(entry) for entry in neurons):
        raise SettingsError("remove_neurons needs the importance of neurons; give it, or set remove_neurons to 0.")
    stay = [np.ones(count, bool) for count in neuron_counts]
    kept = least(heads, gone_heads), least(neurons, gone_neurons) if gone_neurons else stay
    masks: dict[str, list[Mask]] = dict(zip(HALVES, kept, strict=True))
    return [masks[at.half][at.layer] for at in architecture.sublayers()]


def rank_plan(heads: Sequence[np.ndarray], architecture: Architecture, settings: PruneLora) -> dict[str, Size]:
    """The adapter of every projection that still has units, from the importance of all heads before pruning.

    A block counts with the sum over its heads. Raises `SettingsError` where a rank exceeds a projection's width; under
    a `rank_budget`, ranks stop at the width.
    """
    settings, shapes = settings.settled(), projection_shapes(architecture)
    blocks = np.array([float(np.sum(entry)) for entry in heads])
    names = [
        path
        for path, (inputs, outputs) in shapes.items()
        if path.rpartition("/")[2] in settings.projections and min(inputs, prod(outputs))
    ]
    of_block = [[name for name in names if name.startswith(f"layers/{index}/")] for index in range(len(blocks))]
    if settings.rank_budget is None:
        high = set(np.argsort(-blocks, kind="stable")[: settings.high_blocks].tolist())
        ranks = [int((settings.high_rank if index in high else settings.low_rank) or 0) for index in range(len(blocks))]
    else:
        costs = [sum(shapes[name][0] + prod(shapes[name][1]) for name in group) for group in of_block]
        widest = [min([min(shapes[n][0], prod(shapes[n][1])) for n in group], default=0) for group in of_block]
        ranks = proportional_ranks(blocks, costs, widest, settings.rank_budget)
    return {
        name: Size(ranks[index], settings.alpha, settings.rslora)
        for index, group in enumerate(of_block)
        for name in group
    }


def least_cost(architecture: Architecture, settings: PruneLora) -> int:
    """Parameters that adapters of rank 1 everywhere have at least after the cut, whichever heads and neurons go.

    A unit takes its share of its layer's adapters along at most: the side that does not hold units goes with the last.
    """
    shapes, counts, left = projection_shapes(architecture), unit_counts(architecture), 0.0
    for half, share in zip(HALVES, (settings.remove_heads, settings.remove_neurons), strict=True):
        of_unit = []
        for index, units in enumerate(architecture.of_half(half, counts)):
            names = [f"layers/{index}/{half}/{name}" for name in settings.projections]
            cost = sum(shapes[name][0] + prod(shapes[name][1]) for name in names if name in shapes) if units else 0
            of_unit.append(np.full(units, cost / max(units, 1)))
        each = np.sort(np.concatenate(of_unit))
        left += float(each[: len(each) - round(share * len(each))].sum())
    return int(np.ceil(left - 1e-3))


def proportional_ranks(blocks: np.ndarray, costs: Sequence[int], widest: Sequence[int], budget: int) -> list[int]:
    """Ranks in proportion to importance whose adapters have at most `budget` parameters, at least 1 a block.

    Highest averages (D'Hondt): one rank at a time goes to the block with the most importance per rank it would have,
    as long as one that fits is left. `costs` are parameters of one rank; a block that costs nothing gets no adapter.

    >>> proportional_ranks(np.array([3.0, 1.0]), [10, 10], [8, 8], 85)
    [6, 2]
    """
    ranks = [1 if cost else 0 for cost in costs]
    left = budget - sum(costs)
    if left < 0:
        raise SettingsError(f"rank_budget {budget} is less than rank 1 everywhere takes, {sum(costs)}; raise it.")
    while True:
        fits = [i for i, cost in enumerate(costs) if cost and cost <= left and ranks[i] < widest[i]]
        if not fits:
            return ranks
        chosen = max(fits, key=lambda i: (blocks[i] / (ranks[i] + 1), -i))
        ranks[chosen] += 1
        left -= costs[chosen]
