"""Compiled programs, kept by shape: so that a run can say what it compiled, how long that took and what it needs.

`jax.jit` keeps its programs to itself; compiling ahead of time gives the same program with its memory analysis.
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import jax

from .devices import Devices
from .memory import PeakMeter, temp_bytes

_COMPILED: dict[Hashable, tuple[Callable[..., Any], int]] = {}  # as jit's own cache: for the life of the process


def _abstract(leaf: Any) -> Hashable:
    if isinstance(leaf, jax.Array):
        return leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False), _placement(leaf.sharding)
    shape, dtype = getattr(leaf, "shape", ()), getattr(leaf, "dtype", type(leaf))
    return shape, dtype, None, None


def _placement(sharding: Any) -> Hashable:
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return sharding
    axes = list(sharding.spec)
    while axes and axes[-1] is None:  # P("data") and P("data", None) are one
        axes.pop()
    return sharding.mesh, tuple(axes), sharding.memory_kind


def forget() -> None:
    """Let go of all programs, as `jax.clear_caches` does for those of jit: long-lived processes run out of mappings."""
    _COMPILED.clear()


@dataclass
class Programs:
    """Runs jitted functions and keeps the books of one run. Static arguments go by keyword, arrays by position."""

    meter: PeakMeter = field(default_factory=PeakMeter)
    devices: Devices = Devices()  # where what they run on lives
    compile_seconds: float = 0.0
    compiled: int = 0  # programs this run had to compile
    own: dict[Hashable, tuple[Callable[..., Any], int]] | None = None  # {}: programs go when this object goes

    def __call__(self, function: Any, *arrays: Any, **static: Any) -> Any:
        leaves, tree = jax.tree.flatten(arrays)
        key = (function, tuple(sorted(static.items())), tree, tuple(_abstract(leaf) for leaf in leaves))
        known = _COMPILED if self.own is None else self.own
        if key not in known:
            program = self._compile(function, arrays, static)
            known[key] = (program, temp_bytes(program))
        program, temp = known[key]
        self.meter.temp = max(self.meter.temp, temp)
        return program(*arrays)

    def once(self, function: Any, *arrays: Any, **static: Any) -> Any:
        """As a call, for a program that runs a single time: compiled with less effort, and not kept."""
        return self._compile(function, arrays, static, {"xla_backend_optimization_level": 0})(*arrays)

    def _compile(self, function: Any, arrays: tuple[Any, ...], static: dict[str, Any], options: Any = None) -> Any:
        began = time.perf_counter()
        program = function.lower(*arrays, **static).compile(options)
        self.compile_seconds += time.perf_counter() - began
        self.compiled += 1
        return program
