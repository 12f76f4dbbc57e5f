"""How a text becomes one vector, as operators of ONNX: what `pooling.vectors` computes of plainly padded texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from ..model.architecture import Architecture
from ..model.embedding import DenseActivation, PoolingMode
from ..model.model import Params
from .onnx_parts import ACTIVATIONS, LOWEST, Graph, last_token, onnx_dense

_MASK = "attention_mask"


def _weights(g: Graph, whole: str) -> str:
    """Whole numbers, [rows, tokens], as weights of tokens, [rows, 1, tokens]."""
    return g.add("Unsqueeze", g.add("Cast", whole, to="FLOAT"), g.whole(1))


def _places(g: Graph) -> str:
    """Of every token its place in the text, from 1; 0 for padding."""
    return g.add("Mul", g.add("CumSum", _MASK, g.index(1)), _MASK)


def _sum(g: Graph, weights: str, x: str) -> str:
    """The weighted sum of hidden states, [rows, hidden]."""
    return g.add("Squeeze", g.add("MatMul", weights, x), g.whole(1))


def _total(g: Graph, weights: str) -> str:
    """The sum of weights, at least a billionth, [rows, 1]."""
    total = g.add("ReduceMax", g.add("CumSum", weights, g.index(2)), axes=[2], keepdims=0)
    return g.add("Max", total, g.number(1e-9))


def _first(g: Graph, x: str, a: Architecture) -> str:
    return _sum(g, _weights(g, g.add("Equal", _places(g), g.whole(1))), x)


def _last(g: Graph, x: str, a: Architecture) -> str:
    return last_token(g, x, replace(a, pool_pad=None))


def _greatest(g: Graph, x: str, a: Architecture) -> str:
    there = g.add("Unsqueeze", g.add("Greater", _MASK, g.whole(0)), g.whole(2))
    return g.add("ReduceMax", g.add("Where", there, x, g.number(LOWEST)), axes=[1], keepdims=0)


def mean_of(g: Graph, x: str, a: Architecture) -> str:
    """The mean of the hidden states of every row, [rows, hidden]."""
    weights = _weights(g, _MASK)
    return g.add("Div", _sum(g, weights, x), _total(g, weights))


def _mean_of_root(g: Graph, x: str, a: Architecture) -> str:
    weights = _weights(g, _MASK)
    return g.add("Div", _sum(g, weights, x), g.add("Sqrt", _total(g, weights)))


def _weighted_mean(g: Graph, x: str, a: Architecture) -> str:
    weights = _weights(g, _places(g))
    return g.add("Div", _sum(g, weights, x), _total(g, weights))


_MODES: Mapping[PoolingMode, Callable[[Graph, str, Architecture], str]] = MappingProxyType(
    {
        "cls": _first,
        "max": _greatest,
        "mean": mean_of,
        "mean_sqrt_len_tokens": _mean_of_root,
        "weightedmean": _weighted_mean,
        "lasttoken": _last,
    }
)
_ACTIVATIONS: Mapping[DenseActivation, Callable[[Graph, str], str]] = MappingProxyType(
    {
        "identity": lambda g, x: x,
        "tanh": lambda g, x: g.add("Tanh", x),
        "sigmoid": lambda g, x: g.add("Sigmoid", x),
        **{name: ACTIVATIONS[name] for name in ("relu", "gelu", "silu")},
    }
)


def vectors_of(g: Graph, head: Sequence[Params], x: str, a: Architecture) -> str:
    """One vector of every row, [rows, dimensions], from the last hidden states `x`."""
    assert a.embedding is not None
    parts = [_MODES[mode](g, x, a) for mode in a.embedding.pooling]
    y = parts[0] if len(parts) == 1 else g.add("Concat", *parts, axis=-1)
    for number, (step, p) in enumerate(zip(a.embedding.dense, head, strict=True)):
        y = _ACTIVATIONS[step.activation](g, onnx_dense(g, p, y, f"head.{number}"))
    if not a.embedding.normalize:
        return y
    return g.add("Div", y, g.add("Max", g.add("ReduceL2", y, axes=[-1], keepdims=1), g.number(1e-12)))
