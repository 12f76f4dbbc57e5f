"""What ONNX graphs are made of: operators, constants, and the few layers that every part of a model has."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ..model.architecture import Architecture
from ..model.model import Params

OPSET, IR = 17, 8  # LayerNormalization came with 17; files of this version every runtime of the last years reads
ROWS, TOKENS = "batch", "sequence"  # what optimum calls the dimensions
LOWEST = float(np.finfo(np.float32).min)
_GELU_TANH = (2 / np.pi) ** 0.5


class Node(NamedTuple):
    """One operator."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass
class Graph:
    """Operators in their order, constants by name, and what goes in and comes out; values are known by their names."""

    inputs: Mapping[str, tuple[str | int, ...]]  # shapes by name
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: dict[str, tuple[str | int, ...]] = field(default_factory=dict)  # shapes by name
    place: str = ""  # where in the model: the beginning of names that are made up

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Apply an operator with one output, whose name comes back."""
        return self.several(operator, 1, *inputs, **attributes)[0]

    def several(self, operator: str, count: int, *inputs: str, **attributes: Any) -> tuple[str, ...]:
        """Apply an operator with so many outputs."""
        name = f"{self.place}{operator}.{len(self.nodes)}"
        outputs = (name,) if count == 1 else tuple(f"{name}.{number}" for number in range(count))
        self.nodes.append(Node(operator, inputs, outputs, attributes))
        return outputs

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self._shared(np.array(value, np.float32))

    def index(self, value: int) -> str:
        """An integer without an axis."""
        return self._shared(np.array(value, np.int64))

    def whole(self, *values: int) -> str:
        """A row of integers: a shape, axes."""
        return self._shared(np.array(values, np.int64))

    def weight(self, name: str, array: Any) -> str:
        """A parameter, float32."""
        # Not ascontiguousarray: that of a scalar has an axis.
        self.constants[name] = np.array(array, np.float32, order="C")
        return name

    def _shared(self, array: np.ndarray) -> str:
        name = f"constant.{array.dtype}.{'x'.join(map(str, array.reshape(-1).tolist()))}" + ("" if array.ndim else "s")
        self.constants[name] = array
        return name


def tokens_of_row(g: Graph) -> str:
    """Tokens of a row, a scalar."""
    return g.add("Gather", g.add("Shape", "input_ids"), g.index(1))


def all_slots(g: Graph) -> str:
    """0, 1, … [tokens]."""
    return g.add("Range", g.index(0), tokens_of_row(g), g.index(1))


# --- operators that runtimes know in this form, and fuse


def onnx_dense(g: Graph, p: Params, x: str, name: str) -> str:
    """x @ kernel + bias; units flattened."""
    kernel = np.asarray(p["kernel"], np.float32)
    # Of o and down the last axis is the outputs', of all others the first is the inputs'.
    inputs = int(np.prod(kernel.shape[:-1])) if name.endswith("out") else kernel.shape[0]
    y = g.add("MatMul", x, g.weight(f"{name}.weight", kernel.reshape(inputs, -1)))
    if "bias" not in p:
        return y
    return g.add("Add", y, g.weight(f"{name}.bias", np.asarray(p["bias"], np.float32).reshape(-1)))


def onnx_norm(g: Graph, p: Params, x: str, a: Architecture, name: str | None = None) -> str:
    """A norm of the family's kind over the last axis; its weights are called `name`, or "norm" of the place."""
    name = f"{g.place}norm" if name is None else name
    if a.norm == "rms":
        return onnx_rms(g, onnx_norm_scale(p, a), x, a, name)
    weights = (g.weight(f"{name}.scale", p["scale"]), *([g.weight(f"{name}.bias", p["bias"])] if "bias" in p else []))
    return g.add("LayerNormalization", x, *weights, axis=-1, epsilon=a.norm_eps)


def onnx_norm_scale(p: Params, a: Architecture) -> np.ndarray:
    """What a norm multiplies by."""
    scale = np.asarray(p["scale"], np.float32)
    return 1 + scale if a.norm_plus_one else scale


def onnx_capped(g: Graph, x: str, cap: float | None) -> str:
    """cap * tanh(x / cap), or x where there is no cap."""
    return x if cap is None else g.add("Mul", g.add("Tanh", g.add("Div", x, g.number(cap))), g.number(cap))


def onnx_rms(g: Graph, scale: Any, x: str, a: Architecture, name: str, axes: Sequence[int] = (-1,)) -> str:
    """An RMS norm over `axes`."""
    mean = g.add("ReduceMean", g.add("Mul", x, x), axes=list(axes), keepdims=1)
    root = g.add("Sqrt", g.add("Add", mean, g.number(a.norm_eps)))
    return g.add("Mul", g.add("Div", x, root), g.weight(f"{name}.scale", scale))


def _gelu(g: Graph, x: str) -> str:
    cumulative = g.add("Add", g.add("Erf", g.add("Div", x, g.number(2**0.5))), g.number(1.0))
    return g.add("Mul", g.add("Mul", x, cumulative), g.number(0.5))


def _gelu_tanh(g: Graph, x: str) -> str:
    cube = g.add("Mul", g.add("Pow", x, g.number(3.0)), g.number(0.044715))
    inner = g.add("Tanh", g.add("Mul", g.add("Add", x, cube), g.number(_GELU_TANH)))
    return g.add("Mul", g.add("Mul", x, g.add("Add", inner, g.number(1.0))), g.number(0.5))


ACTIVATIONS: Mapping[str, Callable[[Graph, str], str]] = MappingProxyType(
    {
        "gelu": _gelu,
        "gelu_tanh": _gelu_tanh,
        "relu": lambda g, x: g.add("Relu", x),
        "silu": lambda g, x: g.add("Mul", x, g.add("Sigmoid", x)),
    }
)


def last_token(g: Graph, x: str, a: Architecture) -> str:
    """The last token of every row that is no padding, or the first, [rows, hidden]: as `pooling.pool_slots` does."""
    shown = g.add("Greater", "attention_mask", g.whole(0))
    if a.pool_pad is not None:
        shown = g.add("Not", g.add("Equal", "input_ids", g.whole(a.pool_pad)))
    slots = g.add("Unsqueeze", all_slots(g), g.whole(0))
    last = g.add("ReduceMax", g.add("Where", shown, slots, g.whole(-1)), axes=[1], keepdims=1)
    chosen = g.add("Cast", g.add("Equal", slots, g.add("Max", last, g.whole(0))), to="FLOAT")
    return g.add("Squeeze", g.add("MatMul", g.add("Unsqueeze", chosen, g.whole(1)), x), g.whole(1))


def output(g: Graph, value: str, name: str, *shape: str | int) -> None:
    g.nodes.append(Node("Identity", (value,), (name,), {}))
    g.outputs[name] = shape
