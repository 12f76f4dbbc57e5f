"""How far apart two tokens are, in an ONNX graph: what tables of relative positions and of distances say of it."""

import numpy as np

from ..model.architecture import Architecture, LayerSizes
from ..model.attention_kinds import Disentangled, Relative
from ..model.disentangled import distance_steps
from ..model.model import Params
from ..model.relative import distance_buckets
from ..model.sublayer import attention_scale
from .onnx_parts import Graph, all_slots


def buckets_of(g: Graph, kind: Relative) -> str:
    """The bucket of every query and key, as `relative.pair_buckets` has it."""
    slots = all_slots(g)
    ahead = g.add("Sub", g.add("Unsqueeze", slots, g.whole(0)), g.add("Unsqueeze", slots, g.whole(1)))
    g.constants["relative.near"] = np.array(distance_buckets(kind.buckets, kind.reach), np.int64)
    own = g.add("Gather", "relative.near", g.add("Min", g.add("Abs", ahead), g.index(kind.reach)))
    after = g.add("Cast", g.add("Greater", ahead, g.index(0)), to="INT64")
    return g.add("Add", own, g.add("Mul", after, g.index(kind.buckets // 2)))


def rows_of_distances(g: Graph, kind: Disentangled) -> str:
    """The row of the whole table of distances for every query and key, as `disentangled.pair_rows` has it."""
    slots, steps = all_slots(g), distance_steps(kind)
    behind = g.add("Sub", g.add("Unsqueeze", slots, g.whole(1)), g.add("Unsqueeze", slots, g.whole(0)))
    g.constants["distances.steps"] = np.array(steps, np.int64)
    away = g.add("Gather", "distances.steps", g.add("Min", g.add("Abs", behind), g.index(len(steps) - 1)))
    rows = g.add("Add", g.add("Mul", away, g.add("Sign", behind)), g.index(kind.span))
    return g.add("Min", g.add("Max", rows, g.index(0)), g.index(2 * kind.span - 1))


def with_distances(
    g: Graph, p: Params, scores: str, content: tuple[str, str], rows: str | None, size: LayerSizes, a: Architecture
) -> str:
    """Scores, [rows, heads, tokens, tokens], and what tokens say of distances: what heads project of these is constant.

    Queries are scaled already.
    """
    kind, hidden = a.attention, np.asarray(p["distances"]["table"], np.float32)
    assert isinstance(kind, Disentangled) and rows is not None  # the caller has looked
    if kind.norm:
        wide = hidden - hidden.mean(axis=-1, keepdims=True)
        wide = wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + a.norm_eps)
        scale, bias = (np.asarray(p["distances"]["norm"][name], np.float32) for name in ("scale", "bias"))
        hidden = wide * scale + bias
    for name, of_tokens, there in (("k", content[0], kind.keys), ("q", content[1], kind.queries)):
        if not there:
            continue
        own = p[name if kind.shared else f"distance_{name}"]
        kernel, bias = (np.asarray(own[leaf], np.float32) for leaf in ("kernel", "bias"))
        flat = hidden @ kernel.reshape(a.hidden, -1) + bias.reshape(-1)
        flat = flat * np.float32(attention_scale(a) if name == "q" else 1.0)
        table = np.transpose(flat.reshape(-1, size.groups, a.head_width), (1, 2, 0))[None]
        by_row = g.add("MatMul", of_tokens, g.weight(f"{g.place}distance_{name}", table))
        picked = rows if name == "k" else g.add("Transpose", rows, perm=[1, 0])
        places = g.add("Expand", picked, g.add("Shape", scores))
        added = g.add("GatherElements", by_row, places, axis=3)
        scores = g.add("Add", scores, added if name == "k" else g.add("Transpose", added, perm=[0, 1, 3, 2]))
    return scores
