"""A model's parameters as the tensors of a GGUF file: names, layout, and the type that each is stored in."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from ..model.architecture import Architecture, LayerSizes
from ..model.model import Params
from .gguf_layout import Layout, written_sizes


class Kind(NamedTuple):
    """A type that tensors are stored in."""

    name: str  # in the package gguf
    number: int  # llama.cpp's, of a file whose matrices are mostly of this type
    largest: float  # number that it can hold


KINDS = {
    "float32": Kind("F32", 0, float(np.finfo(np.float32).max)),
    "float16": Kind("F16", 1, float(np.finfo(np.float16).max)),
    "bfloat16": Kind("BF16", 32, 3.3895314e38),
    "q8_0": Kind("Q8_0", 7, 127 * float(np.finfo(np.float16).max)),  # the scale of a block is a float16
}
BLOCK = 32  # numbers of a row that Q8_0 scales together


class Tensor(NamedTuple):
    """One tensor of a file."""

    name: str
    array: np.ndarray
    kind: str  # of `KINDS`: what it is stored in


def tensors_of(
    params: Params, a: Architecture, layout: Layout, kind: str, rotary: Mapping[str, np.ndarray]
) -> Iterator[Tensor]:
    """Every tensor of the file, in order, made as it is asked for; `kind` is what matrices are stored in.

    `rotary` are the tensors of rotary positions.
    Vectors, norms and positions stay float32, as llama.cpp wants them; rows that Q8_0 cannot divide into blocks are
    float16. Matrices are [out, in], each row the weights of one output.
    """
    for name, array in _named(params, a, layout, rotary):
        if array.ndim < 2 or name == "position_embd.weight":
            yield Tensor(name, array, "float32")
        else:
            yield Tensor(name, array, "float16" if kind == "q8_0" and array.shape[-1] % BLOCK else kind)


def _named(
    params: Params, a: Architecture, layout: Layout, rotary: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    embed = params["embed"]
    yield "token_embd.weight", np.asarray(embed["token"])
    if "position" in embed:
        yield "position_embd.weight", np.asarray(embed["position"])
    yield from _norms(params, {"final_norm": "output_norm"}, a.norm_plus_one)
    if "head" in params:
        yield "output.weight", np.asarray(params["head"]["kernel"]).T
    yield from rotary.items()
    for number, (layer, size) in enumerate(zip(params["layers"], written_sizes(a), strict=True)):
        for name, array in _layer(layer, size, a, layout):
            yield f"blk.{number}.{name}", array


def _layer(layer: Params, size: LayerSizes, a: Architecture, layout: Layout) -> Iterator[tuple[str, np.ndarray]]:
    attention, feed_forward = layer["attention"], layer["feed_forward"]
    norms = partial(_norms, plus_one=a.norm_plus_one)
    yield from norms(attention, {"norm": "attn_norm", "update_norm": "post_attention_norm"})
    turn = partial(_neighbours, width=a.head_width) if layout.neighbours else lambda array: array
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, heads in (("q", size.heads), ("k", size.groups), ("v", size.groups)):
        rows = _filled(_in_rows(attention[name], a.hidden), heads * a.head_width, 0, layout)
        parts[name] = rows if name == "v" else {leaf: turn(array) for leaf, array in rows.items()}
    if layout.fused:
        for leaf in parts["q"]:
            yield f"attn_qkv.{leaf}", np.concatenate([parts[name][leaf] for name in "qkv"])
    else:
        yield from ((f"attn_{name}.{leaf}", array) for name in "qkv" for leaf, array in parts[name].items())
    yield from norms(attention, {"q_norm": "attn_q_norm", "k_norm": "attn_k_norm"})
    yield from _outward("attn_output", attention["o"], size.heads * a.head_width, layout)
    yield from norms(feed_forward, {"norm": "ffn_norm", "update_norm": "post_ffw_norm"})
    inward = {
        name: _filled(_in_rows(feed_forward[name], a.hidden), size.neurons, 0, layout)
        for name in ("gate", "up")
        if name in feed_forward
    }
    if layout.fused_up:
        inward = {"up": {leaf: np.concatenate([rows[leaf] for rows in inward.values()]) for leaf in inward["up"]}}
    yield from ((f"ffn_{name}.{leaf}", array) for name, rows in inward.items() for leaf, array in rows.items())
    yield from _outward("ffn_down", feed_forward["down"], size.neurons, layout)


def _norms(p: Params, names: dict[str, str], plus_one: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Those norms of `p` that there are, under their names in the file; llama.cpp multiplies by the scale alone."""
    for ours, name in names.items():
        if ours in p:
            scale = np.asarray(p[ours]["scale"]).reshape(-1)
            yield f"{name}.weight", np.float32(1) + scale.astype(np.float32) if plus_one else scale
            if "bias" in p[ours]:
                yield f"{name}.bias", np.asarray(p[ours]["bias"])


def _in_rows(p: Params, hidden: int) -> dict[str, np.ndarray]:
    """A projection of the residual stream: weight [outputs, hidden] and, where there is one, bias."""
    rows = {"weight": np.asarray(p["kernel"]).reshape(hidden, -1).T}
    return rows | ({"bias": np.asarray(p["bias"]).reshape(-1)} if "bias" in p else {})


def _outward(name: str, p: Params, inputs: int, layout: Layout) -> Iterator[tuple[str, np.ndarray]]:
    """A projection to the residual stream, [hidden, inputs]."""
    kernel = np.asarray(p["kernel"])
    rows = {"weight": kernel.reshape(-1, kernel.shape[-1]).T} | ({"bias": np.asarray(p["bias"])} if "bias" in p else {})
    yield from ((f"{name}.{leaf}", array) for leaf, array in _filled(rows, inputs, 1, layout).items())


def _filled(rows: dict[str, np.ndarray], units: int, axis: int, layout: Layout) -> dict[str, np.ndarray]:
    """The same with one unit of zeros where none is left, and zero biases where the architecture has to have them."""
    if rows["weight"].shape[axis] != units:
        shape = [*rows["weight"].shape]
        shape[axis] = units
        rows |= {"weight": np.zeros(shape, np.float32)}
        rows |= {"bias": np.zeros(units, np.float32)} if "bias" in rows and axis == 0 else {}
    if layout.all_biases and "bias" not in rows:
        rows |= {"bias": np.zeros(rows["weight"].shape[0], np.float32)}
    return rows


def _neighbours(array: np.ndarray, width: int) -> np.ndarray:
    """Features of each head in the order 0, w / 2, 1, w / 2 + 1, …: llama.cpp rotates neighbours together."""
    heads = array.reshape(-1, 2, width // 2, *array.shape[1:])
    return heads.swapaxes(1, 2).reshape(array.shape)


def holds_all(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are small enough for its type."""
    array = tensor.array
    return not array.size or float(np.abs(array.astype(np.float32)).max()) <= KINDS[tensor.kind].largest
