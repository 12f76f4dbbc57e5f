"""A model's forward pass as an ONNX graph: plain operators of opset 17, layers as uneven as they are.

`graph_of` writes what `jaxprune.logits` computes, operator by operator, with weights as constants; `as_onnx` makes an
`onnx.ModelProto` of it. Rows and tokens are named dimensions, so that any number of either runs.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..model.architecture import ATTENTION, FEED_FORWARD, Architecture, LayerSizes
from ..model.attention_kinds import Disentangled, Relative, Window
from ..model.model import Params
from ..model.patches import Patches
from ..model.sublayer import attention_scale
from ..runtime.onnx import PIXELS, TEXTS
from .onnx_distances import buckets_of, rows_of_distances, with_distances
from .onnx_ends import OUTPUTS
from .onnx_parts import (
    ACTIVATIONS,
    LOWEST,
    ROWS,
    TOKENS,
    Graph,
    all_slots,
    onnx_capped,
    onnx_dense,
    onnx_norm,
    onnx_norm_scale,
    onnx_rms,
)


class _Shared(NamedTuple):
    """What all layers need: values of the graph."""

    mask: str | None  # added to attention scores, [rows, 1, 1 or tokens, tokens]; None: all tokens see each other
    rotation: tuple[str, str] | None  # cosine and sine, [1 or rows, 1, tokens, width / 2]
    buckets: str | None  # of relative positions, [tokens, tokens]: buckets, or rows of a table of distances


def graph_of(architecture: Architecture, params: Params) -> Graph:
    """The graph of a model."""
    a = architecture
    g = Graph(_inputs(a))
    g.place = "embed."
    positions = _positions(g, a) if a.positions != "none" and a.patches is None else ""
    x = _embedded(g, params["embed"], a, positions)
    kinds = [a.of_layer(number) for number in range(len(a.layers))]
    shared = {}
    for number, kind in enumerate(dict.fromkeys(kinds)):
        g.place = f"kinds.{number}." if number else "embed."
        buckets = buckets_of(g, kind.attention) if isinstance(kind.attention, Relative) else None
        if isinstance(kind.attention, Disentangled):
            buckets = rows_of_distances(g, kind.attention)
        shared[kind] = _Shared(
            _mask(g, kind) if a.patches is None else None,
            _rotation(g, kind, positions) if kind.positions == "rotary" else None,
            buckets,
        )
    for number, (size, layer, kind) in enumerate(zip(a.layers, params["layers"], kinds, strict=True)):
        for half, update in ((ATTENTION, _attention), (FEED_FORWARD, _feed_forward)):
            g.place = f"layers.{number}.{half}."
            x = _sublayer(g, layer[half], x, update, size, shared[kind], kind)
    g.place = ""
    if a.final_norm:
        x = onnx_norm(g, params["final_norm"], x, a, "final_norm")
    if "project_out" in params:
        x = onnx_dense(g, params["project_out"], x, "project_out")
    OUTPUTS[a.head](g, params, x, a)
    return g


# --- the beginning


def _inputs(a: Architecture) -> dict[str, tuple[str | int, ...]]:
    if a.patches is not None:
        return {PIXELS: (ROWS, a.patches.channels, a.patches.height, a.patches.width)}
    return {name: (ROWS, TOKENS) for name in (TEXTS if a.token_types > 1 else TEXTS[:2])}


def _positions(g: Graph, a: Architecture) -> str:
    """The position of every token, [1 or rows, tokens], as `plain_batch` counts it."""
    if a.positions_count == "slots":
        return g.add("Unsqueeze", all_slots(g), g.whole(0))
    counted = "attention_mask"
    if a.positions_count == "tokens":
        real = g.add("Not", g.add("Equal", "input_ids", g.whole(a.pad_id)))
        counted = g.add("Cast", real, to="INT64")
    total = g.add("CumSum", counted, g.index(1))
    return g.add("Sub", g.add("Mul", total, counted), g.whole(1))


def _embedded(g: Graph, p: Params, a: Architecture, positions: str) -> str:
    if a.patches is not None:
        x = _patched(g, p, a.patches)
    else:
        x = g.add("Gather", g.weight("embed.token", p["token"]), "input_ids")
    if "project" in p and a.embed_projects == "tokens":
        x = onnx_dense(g, p["project"], x, "embed.project")
    if a.embed_scaled:
        x = g.add("Mul", x, g.number(a.hidden**0.5))
    if a.patches is not None:  # always as many tokens, whose positions are the first
        x = g.add(
            "Add", x, g.weight("embed.position", np.asarray(p["position"])[a.position_offset :][: a.max_positions])
        )
    elif a.positions == "learned":
        rows = g.add("Add", positions, g.whole(a.position_offset)) if a.position_offset else positions
        x = g.add("Add", x, g.add("Gather", g.weight("embed.position", p["position"]), rows))
    if a.token_types > 1:
        x = g.add("Add", x, g.add("Gather", g.weight("embed.type", p["type"]), "token_type_ids"))
    elif a.token_types:
        x = g.add("Add", x, g.weight("embed.type", np.asarray(p["type"])[0]))
    if "project" in p and a.embed_projects == "tables":
        x = onnx_dense(g, p["project"], x, "embed.project")
    x = onnx_norm(g, p["norm"], x, a, "embed.norm") if a.embed_norm else x
    if a.padding_blank:
        x = g.add("Mul", x, g.add("Unsqueeze", g.add("Cast", _real(g), to="FLOAT"), g.whole(2)))
    return onnx_dense(g, p["project"], x, "embed.project") if "project" in p and a.embed_projects == "sum" else x


def _patched(g: Graph, p: Params, patches: Patches) -> str:
    """The special tokens and the patches of every image, [rows, tokens, hidden]: what `Patches.cut` makes of pixels."""
    rows, columns = patches.height // patches.patch_height, patches.width // patches.patch_width
    shape = (0, patches.channels, rows, patches.patch_height, columns, patches.patch_width)
    cut = g.add("Transpose", g.add("Reshape", PIXELS, g.whole(*shape)), perm=[0, 2, 4, 1, 3, 5])
    x = onnx_dense(g, p["patch"], g.add("Reshape", cut, g.whole(0, patches.count, patches.numbers)), "embed.patch")
    tokens = np.asarray(p["token"], np.float32)[None, : patches.specials]
    images = g.add("Shape", PIXELS, start=0, end=1)
    wanted = g.add("Concat", images, g.whole(*tokens.shape[1:]), axis=0)
    return g.add("Concat", g.add("Expand", g.weight("embed.token", tokens), wanted), x, axis=1)


def _real(g: Graph) -> str:
    """True on tokens, [rows, tokens]."""
    return g.add("Greater", "attention_mask", g.whole(0))


def _mask(g: Graph, a: Architecture) -> str:
    """0 where a query may look at a key, the lowest float32 where not: a row without any looks at all alike."""
    allowed = g.add("Unsqueeze", _real(g), g.whole(1, 2))
    if a.padding_blank:  # what padding looks at is all slots alike
        allowed = g.add("And", allowed, g.add("Unsqueeze", _real(g), g.whole(1, 3)))
    slots = all_slots(g) if a.causal or isinstance(a.attention, Window) else ""
    if a.causal:
        seen = g.add("GreaterOrEqual", g.add("Unsqueeze", slots, g.whole(1)), g.add("Unsqueeze", slots, g.whole(0)))
        allowed = g.add("And", allowed, seen)
    if isinstance(a.attention, Window):
        ahead = g.add("Sub", g.add("Unsqueeze", slots, g.whole(0)), g.add("Unsqueeze", slots, g.whole(1)))
        allowed = g.add("And", allowed, g.add("Less", g.add("Abs", ahead), g.index(a.attention.size)))
    return g.add("Where", allowed, g.number(0.0), g.number(LOWEST))


def _rotation(g: Graph, a: Architecture, positions: str) -> tuple[str, str]:
    frequencies = g.weight(f"{g.place}rotary", np.array(a.rotary))
    at = g.add("Cast", positions, to="FLOAT")
    if a.rotary_dynamic:
        factor, made_for = a.rotary_dynamic
        real = g.add("Mul", at, g.add("Cast", g.add("Greater", "attention_mask", g.whole(0)), to="FLOAT"))
        length = g.add("Add", g.add("ReduceMax", real, axes=[1], keepdims=1), g.number(1.0))
        over = g.add("Max", g.add("Sub", g.add("Div", length, g.number(made_for)), g.number(1.0)), g.number(0.0))
        stretch = g.add("Add", g.add("Mul", over, g.number(factor)), g.number(1.0))
        steps = np.arange(0, a.head_width, 2, dtype=np.float32) / np.float32(a.head_width - 2)
        slowed = g.add("Pow", g.add("Unsqueeze", stretch, g.whole(2)), g.weight("rotary.steps", -steps))
        frequencies = g.add("Mul", slowed, frequencies)  # [rows, 1, width / 2]
    angles = g.add("Unsqueeze", g.add("Mul", g.add("Unsqueeze", at, g.whole(2)), frequencies), g.whole(1))
    cosine, sine = g.add("Cos", angles), g.add("Sin", angles)
    if a.rotary_scale == 1.0:
        return cosine, sine
    return g.add("Mul", cosine, g.number(a.rotary_scale)), g.add("Mul", sine, g.number(a.rotary_scale))


# --- sublayers

_Update = Callable[[Graph, Params, str, LayerSizes, _Shared, Architecture], str | None]


def _sublayer(g: Graph, p: Params, x: str, update: _Update, size: LayerSizes, shared: _Shared, a: Architecture) -> str:
    """The residual stream after one half; of one that lost all units, its output bias alone is added."""
    before = onnx_norm(g, p["norm"], x, a) if a.norms_input and "norm" in p else x
    features, out, added = update(g, p, before, size, shared, a), p["o" if "o" in p else "down"], None
    if features is not None:
        added = onnx_dense(g, out, features, f"{g.place}out")
    elif "bias" in out:
        added = g.weight(f"{g.place}out.bias", out["bias"])
    if added is not None:
        added = onnx_norm(g, p["update_norm"], added, a, f"{g.place}update_norm") if a.norms_update else added
        x = g.add("Add", x, added)
    return onnx_norm(g, p["norm"], x, a) if a.norm_position == "post" else x


def _attention(g: Graph, p: Params, x: str, size: LayerSizes, shared: _Shared, a: Architecture) -> str | None:
    """What heads read, [rows, tokens, heads * width]; None where there are none."""
    if not size.groups:
        return None
    width, scale = a.head_width, attention_scale(a)
    scales = {name: onnx_norm_scale(p[name], a) for name in ("q_norm", "k_norm") if name in p}
    scaled = {"q_norm": scales["q_norm"] * scale} if scales else {}
    q_weights = p["q"] if scaled else {name: leaf * scale for name, leaf in p["q"].items()}

    def heads(name: str, weights: Params, count: int) -> str:
        """[rows, count, tokens, width], normed and turned where the family does so."""
        y = g.add("Reshape", onnx_dense(g, weights, x, f"{g.place}{name}"), g.whole(0, 0, count, width))
        if f"{name}_norm" in p:
            scale = (scales | scaled)[f"{name}_norm"]
            axes = [-2, -1] if a.whole_query_key_norm else [-1]
            y = onnx_rms(g, scale.reshape(-1, width) if len(axes) > 1 else scale, y, a, f"{g.place}{name}_norm", axes)
        return g.add("Transpose", y, perm=[0, 2, 1, 3])

    q, k, v = heads("q", q_weights, size.heads), heads("k", p["k"], size.groups), heads("v", p["v"], size.groups)
    if shared.rotation is not None:
        q, k = _turned(g, q, shared.rotation, a), _turned(g, k, shared.rotation, a)
    mask, axes = shared.mask, [0, 1, 3, 2]
    if size.queries > 1:  # several query heads read the keys and values of one group
        q = g.add("Reshape", q, g.whole(0, size.groups, size.queries, -1, width))
        k, v = (g.add("Unsqueeze", value, g.whole(2)) for value in (k, v))
        mask = None if mask is None else g.add("Unsqueeze", mask, g.whole(2))
        axes = [0, 1, 2, 4, 3]
    scores = onnx_capped(g, g.add("MatMul", q, g.add("Transpose", k, perm=axes)), a.score_cap)
    scores = scores if mask is None else g.add("Add", scores, mask)
    if isinstance(a.attention, Disentangled):
        scores = with_distances(g, p, scores, (q, k), shared.buckets, size, a)
    elif shared.buckets is not None:
        table = g.weight(f"{g.place}relative", p["relative"]["table"])
        scores = g.add("Add", scores, g.add("Transpose", g.add("Gather", table, shared.buckets), perm=[2, 0, 1]))
    mixed = g.add("MatMul", g.add("Softmax", scores, axis=-1), v)
    if size.queries > 1:
        mixed = g.add("Reshape", mixed, g.whole(0, size.heads, -1, width))
    return g.add("Reshape", g.add("Transpose", mixed, perm=[0, 2, 1, 3]), g.whole(0, 0, size.heads * width))


def _turned(g: Graph, x: str, rotation: tuple[str, str], a: Architecture) -> str:
    cosine, sine = rotation
    turns, rest = 2 * len(a.rotary), ()
    if turns < a.head_width:  # the first features alone
        rest = (g.add("Slice", x, g.whole(turns), g.whole(a.head_width), g.whole(-1)),)
        x = g.add("Slice", x, g.whole(0), g.whole(turns), g.whole(-1))
    first, second = g.several("Split", 2, x, axis=-1)
    one = g.add("Sub", g.add("Mul", first, cosine), g.add("Mul", second, sine))
    other = g.add("Add", g.add("Mul", second, cosine), g.add("Mul", first, sine))
    return g.add("Concat", one, other, *rest, axis=-1)


def _feed_forward(g: Graph, p: Params, x: str, size: LayerSizes, shared: _Shared, a: Architecture) -> str | None:
    """What neurons say, [rows, tokens, neurons]; None where there are none."""
    if not size.neurons:
        return None
    activation, up = ACTIVATIONS[a.activation], onnx_dense(g, p["up"], x, f"{g.place}up")
    if not a.gated:
        return activation(g, up)
    return g.add("Mul", activation(g, onnx_dense(g, p["gate"], x, f"{g.place}gate")), up)
