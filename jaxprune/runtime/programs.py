"""Compiled programs, kept by shape: so that a run can say what it compiled, how long that took and what it needs.

`jax.jit` keeps its programs to itself; compiling ahead of time gives the same program with its memory analysis.
"""

import os
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jax

from .devices import Devices
from .memory import PeakMeter, temp_bytes
from .precision import default_precision

# On a GPU, XLA builds and times dozens of Triton kernels for every shape of product: seconds for each, where these run
# for milliseconds. Among those of cuBLAS it still chooses by time. What XLA_FLAGS speaks of is left to it.
ON_GPU: Mapping[str, bool] = MappingProxyType(
    {"xla_gpu_enable_triton_gemm": False, "xla_gpu_experimental_enable_fusion_autotuner": False}
)
_COMPILED: dict[Hashable, tuple[Callable[..., Any], int]] = {}  # as jit's own cache: for the life of the process


def _abstract(leaves: list[Any]) -> tuple[Hashable, ...]:
    """What of every argument a program depends on: its shape and dtype, and of JAX's arrays where they lie."""
    seen: list[Hashable] = []
    for leaf in leaves:
        if isinstance(leaf, jax.Array):
            at = leaf.sharding
            place = _placement(at) if isinstance(at, jax.sharding.NamedSharding) else at
            seen.append((leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False), place))
        else:
            seen.append((getattr(leaf, "shape", ()), getattr(leaf, "dtype", type(leaf)), None, None))
    return tuple(seen)


def _placement(sharding: jax.sharding.NamedSharding) -> Hashable:
    axes = list(sharding.spec)
    while axes and axes[-1] is None:  # P("data") and P("data", None) are one
        axes.pop()
    return sharding.mesh, tuple(axes), sharding.memory_kind


_WATCHERS: list[Callable[[str, float], None]] = []


@contextmanager
def watched(on_call: Callable[[str, float], None]) -> Iterator[Callable[[], float]]:
    """Within, `on_call` hears the name of every program that a run books and the seconds of its call, each waited for.

    Compilation is not in these seconds. Gives a function that says their sum so far.
    """
    spent = [0.0]

    def heard(name: str, seconds: float) -> None:
        spent[0] += seconds
        on_call(name, seconds)

    _WATCHERS.append(heard)
    try:
        yield lambda: spent[0]
    finally:
        _WATCHERS.remove(heard)


def forget() -> None:
    """Let go of all programs, as `jax.clear_caches` does for those of jit: long-lived processes run out of mappings."""
    _COMPILED.clear()


def compiler_options() -> dict[str, bool]:
    """What programs are compiled with on the devices there are: `ON_GPU`, but for what XLA_FLAGS speaks of."""
    if jax.default_backend() != "gpu":
        return {}
    said = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in ON_GPU.items() if name not in said}


@dataclass
class Programs:
    """Runs jitted functions and keeps the books of one run. Static arguments go by keyword, arrays by position."""

    meter: PeakMeter = field(default_factory=PeakMeter)
    devices: Devices = Devices()  # where what they run on lives
    compile_seconds: float = 0.0
    compiled: int = 0  # programs this run had to compile
    own: dict[Hashable, tuple[Callable[..., Any], int]] | None = None  # {}: programs go when this object goes
    booked: bool = True  # whether watchers hear of its calls

    def __call__(self, function: Any, *arrays: Any, **static: Any) -> Any:
        if _WATCHERS and self.booked:
            return self._watched(self._call, function, arrays, static)
        return self._call(function, *arrays, **static)

    def _call(self, function: Any, *arrays: Any, **static: Any) -> Any:
        return self.prepare(function, *arrays, **static)(*arrays)

    def prepare(self, function: Any, *arrays: Any, **static: Any) -> Callable[..., Any]:
        """The compiled program that a call runs, whose temporaries the meter counts from now on; nothing is run."""
        leaves, tree = jax.tree.flatten(arrays)
        # Precision is no argument, and part of what is compiled.
        key = (function, tuple(sorted(static.items())), tree, _abstract(leaves), default_precision())
        known = _COMPILED if self.own is None else self.own
        if key not in known:
            program = self._compile(function, arrays, static)
            known[key] = (program, temp_bytes(program))
        program, temp = known[key]
        self.meter.temp = max(self.meter.temp, temp)
        return program

    def once(self, function: Any, *arrays: Any, **static: Any) -> Any:
        """As a call, for a program that runs a single time: compiled with less effort, and not kept."""
        if _WATCHERS and self.booked:
            return self._watched(self._once, function, arrays, static)
        return self._once(function, *arrays, **static)

    def _once(self, function: Any, *arrays: Any, **static: Any) -> Any:
        return self._compile(function, arrays, static, {"xla_backend_optimization_level": 0})(*arrays)

    def _watched(self, call: Any, function: Any, arrays: tuple[Any, ...], static: dict[str, Any]) -> Any:
        began, compiling = time.perf_counter(), self.compile_seconds
        out = jax.block_until_ready(call(function, *arrays, **static))
        seconds = time.perf_counter() - began - (self.compile_seconds - compiling)
        name = f"{getattr(function, '__name__', 'program')} {static.get('half', '')}".rstrip()
        for heard in _WATCHERS:
            heard(name, seconds)
        return out

    def _compile(self, function: Any, arrays: tuple[Any, ...], static: dict[str, Any], options: Any = None) -> Any:
        began = time.perf_counter()
        lowered = function.lower(*arrays, **static)
        try:
            program = lowered.compile({**compiler_options(), **(options or {})} or None)
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error):
                raise
            program = lowered.compile(options)  # another XLA, which has dropped one of ours
        self.compile_seconds += time.perf_counter() - began
        self.compiled += 1
        return program
