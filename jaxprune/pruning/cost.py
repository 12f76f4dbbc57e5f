"""What a unit costs, in exact integers: floating-point operations at a stated length, parameters or bytes.

A *unit* is what pruning removes whole: an attention head (with grouped queries, a key-value group and its queries) or
a neuron of a feed-forward sublayer. Its cost does not depend on which others stay, so the cost of a model is a sum.
1 multiply-accumulate = 2 FLOPs. Only matrix products of the layers count: embeddings, norms, activations, biases and
the task head are not what pruning changes; `whole_parameters` and `whole_flops` report them beside.
"""

import math
from typing import Any, Literal, NamedTuple

from ..errors import BudgetError
from ..model.architecture import ATTENTION, HALVES, Architecture
from ..model.attention_kinds import Disentangled, Relative
from ..model.disentangled import distance_rows
from ..model.heads import head_of
from ..model.shapes import parameter_shapes

Cost = Literal["flops", "params", "bytes"]
COSTS: tuple[Cost, ...] = ("flops", "params", "bytes")
BYTES = 4  # of a parameter in a saved folder: float32


class PartCosts(NamedTuple):
    """What the parts of a layer cost, whatever its sizes; a key-value group is keys, values and its query heads."""

    query_head: int  # its q and o, and scores and mix over all pairs of tokens
    key_value: int  # k and v, once for all query heads of a group; and what it has of relative positions
    neuron: int  # up and down, and the gate where there is one


def part_flops(architecture: Architecture, length: int) -> PartCosts:
    """FLOPs for one text of `length` tokens.

    Texts attend to all pairs of tokens: a causal mask saves nothing, since a dense product computes both halves. Where
    attention is disentangled, distances that the text can have are projected too: a batch of texts does that once.
    """
    hidden, width = architecture.hidden, architecture.head_width
    projection = 2 * length * hidden * width
    matrices = 3 if architecture.gated else 2
    distances = _distances(architecture, length) * (2 * hidden * width + 2 * length * width)
    return PartCosts(2 * projection + 4 * length**2 * width, 2 * projection + distances, 2 * matrices * length * hidden)


def _distances(architecture: Architecture, length: int) -> int:
    """Rows that are projected of a table of distances, for keys and for queries."""
    kind = architecture.attention
    if not isinstance(kind, Disentangled):
        return 0
    first, last = distance_rows(kind, length)
    return (kind.keys + kind.queries) * (last - first)


def part_parameters(architecture: Architecture) -> PartCosts:
    """Weights and biases that leave with each part; output biases stay."""
    hidden, width = architecture.hidden, architecture.head_width
    bias = width if architecture.attention_bias else 0
    kind = architecture.attention
    table = kind.buckets if isinstance(kind, Relative) else 0
    if isinstance(kind, Disentangled) and not kind.shared:
        table = (kind.keys + kind.queries) * (hidden * width + width)
    inputs = 2 if architecture.gated else 1
    neuron = (inputs + 1) * hidden + (inputs if architecture.feed_forward_bias else 0)
    return PartCosts(2 * hidden * width + bias, 2 * hidden * width + 2 * bias + table, neuron)


def part_costs(architecture: Architecture, cost: Cost, length: int | None = None) -> PartCosts:
    """`part_flops` or `part_parameters`, by name. `length` is needed for FLOPs only."""
    if cost in ("params", "bytes"):
        each = BYTES if cost == "bytes" else 1
        return PartCosts(*(each * count for count in part_parameters(architecture)))
    if cost != "flops":
        raise BudgetError(f"cost must be one of {', '.join(COSTS)}, got {cost!r}.")
    if length is None or length < 1:
        raise BudgetError(f"FLOPs need a text length in tokens, at least 1, got {length}; pass length=….")
    return part_flops(architecture, length)


def unit_costs(architecture: Architecture, cost: Cost, length: int | None = None) -> list[tuple[int, int]]:
    """The cost of one head unit and of one neuron, for every layer. `length` is needed for FLOPs only."""
    parts = part_costs(architecture, cost, length)
    return [(size.queries * parts.query_head + parts.key_value, parts.neuron) for size in architecture.layers]


def sublayer_costs(architecture: Architecture, cost: Cost, length: int | None = None) -> list[int]:
    """The cost of one unit of every sublayer, bottom up."""
    halves = [dict(zip(HALVES, pair, strict=True)) for pair in unit_costs(architecture, cost, length)]
    return [at.of(halves) for at in architecture.sublayers()]


def total_cost(architecture: Architecture, cost: Cost, length: int | None = None) -> int:
    """The sum over all units: what a budget is a fraction of."""
    units = unit_costs(architecture, cost, length)
    return sum(
        size.groups * head + size.neurons * neuron
        for size, (head, neuron) in zip(architecture.layers, units, strict=True)
    )


def flops(architecture: Architecture, length: int) -> int:
    """FLOPs of all layers' matrix products, for one text of `length` tokens."""
    return total_cost(architecture, "flops", length)


def parameters(architecture: Architecture) -> int:
    """Weights and biases that belong to units; `whole_parameters` counts every array."""
    return total_cost(architecture, "params")


def whole_parameters(architecture: Architecture) -> int:
    """Every number in the model's arrays: embeddings, norms and head too. Times 4: bytes in float32.

    A table of distances, of which every layer holds a copy, counts once.
    """
    tree = parameter_shapes(architecture)
    copies = [layer[ATTENTION].get("distances", {}) for layer in tree["layers"][1:]]
    return _size(tree) - sum(map(_size, copies))


def whole_flops(architecture: Architecture, length: int) -> int:
    """`flops` and the matrix products of pooler and task head, for one text of `length` tokens.

    Question answering and language models project every token, the latter onto the vocabulary; classification one a
    text. Embeddings are look-ups: no products; but the patches of an image are projected, and embeddings of another
    width than the layers'.
    """
    tree, patches, head = parameter_shapes(architecture), architecture.patches, head_of(architecture)
    outside = sum(map(_products, (tree[name] for name in ("pooler", "head") if name in tree)))
    outside += math.prod(tree["embed"]["token"]) if head.language is not None and architecture.tied else 0
    around = sum(map(_products, (tree["embed"].get("project", {}), {"out": tree.get("project_out", {})})))
    images = 0 if patches is None else patches.count * patches.numbers * architecture.hidden
    return flops(architecture, length) + 2 * ((length if head.every_token else 1) * outside + length * around + images)


def removed(dense: Architecture, pruned: Architecture, length: int) -> dict[str, float]:
    """The fractions of the prunable cost that `pruned` no longer has: {"flops": …, "params": …}."""
    shares = {}
    for cost in ("flops", "params"):  # bytes are parameters in other units
        shares[cost] = 1 - total_cost(pruned, cost, length) / total_cost(dense, cost, length)
    return shares


def _products(tree: Any) -> int:
    """Numbers in the kernels of a tree of shapes."""
    if isinstance(tree, tuple):
        return 0
    if isinstance(tree, list):
        return sum(map(_products, tree))
    return sum(math.prod(child) if name == "kernel" else _products(child) for name, child in tree.items())


def _size(tree: Any) -> int:
    if isinstance(tree, tuple):
        return math.prod(tree)
    return sum(_size(child) for child in (tree.values() if isinstance(tree, dict) else tree))
