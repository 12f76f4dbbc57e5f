"""Where the seconds of `kprune` go, by watching the functions it is made of from outside."""

import importlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import jax

from jaxprune.pruning.run import Run
from jaxprune.runtime.devices import Devices
from jaxprune.runtime.programs import Programs

# What runs on the host's own cores, where the parts of `kprune` look it up.
HOST_SOLVES = (
    ("jaxprune.pruning.damage", "surgeon_inputs"),
    ("jaxprune.pruning.damage", "eliminate_heads"),
    ("jaxprune.pruning.refit", "fit_inputs"),
    ("jaxprune.pruning.refit", "fit_outputs"),
)
TRANSFERS = ("read", "fetch", "everywhere", "rows", "keep")  # methods of Devices
CACHE = MappingProxyType(
    {
        "/jax/compilation_cache/cache_hits": "cache_hits",
        "/jax/compilation_cache/cache_misses": "cache_misses",
    }
)


@contextmanager
def replaced(where: Any, name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """`where.name`, of a module or class, replaced by `change` of it, and put back. Raises AttributeError."""
    before = getattr(where, name)
    setattr(where, name, change(before))
    try:
        yield
    finally:
        setattr(where, name, before)


def module(name: str) -> Any:
    return importlib.import_module(name)


@contextmanager
def results_of(where: str, name: str) -> Iterator[list[Any]]:
    """What a function of a module gives back, call by call."""
    found: list[Any] = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any, **named: Any) -> Any:
            found.append(function(*inputs, **named))
            return found[-1]

        return call

    with replaced(module(where), name, watched):
        yield found


class Seconds:
    """Seconds by phase and kind; of calls within calls only the outermost counts."""

    def __init__(self):
        self.phase, self.by_phase, self._inside = "", defaultdict(lambda: defaultdict(float)), False

    def timed(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its seconds booked; what it reads is waited for before, and what it gives after.

        So the device's work does not count as a transfer. Nothing overlaps then: the whole takes longer than unwatched.
        """

        def call(*inputs: Any, **named: Any) -> Any:
            if self._inside:
                return function(*inputs, **named)
            self._inside = True
            try:
                _wait((inputs, named))
                began = time.perf_counter()
                found = function(*inputs, **named)
                _wait(found)
                self.by_phase[self.phase][kind] += time.perf_counter() - began
            finally:
                self._inside = False
            return found

        return call

    def phases(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """`Run.phase`, which says here what the phase is called and how long it took."""

        @contextmanager
        def phase(run: Run, name: str) -> Iterator[None]:
            outer, self.phase, began = self.phase, name, time.perf_counter()
            with plain(run, name):
                yield
            self.by_phase[name]["all"] += time.perf_counter() - began
            self.phase = outer

        return phase


def _wait(tree: Any) -> None:
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not leaf.is_deleted():
            leaf.block_until_ready()


@contextmanager
def by_phase() -> Iterator[Mapping[str, Mapping[str, float]]]:
    """Seconds by phase: all of them, programs on the device, host solves, transfers; complete after the block."""
    seconds = Seconds()
    with ExitStack() as stack:
        stack.enter_context(replaced(Run, "phase", seconds.phases))
        stack.enter_context(replaced(Programs, "__call__", lambda call: seconds.timed("device", call)))
        for where, name in HOST_SOLVES:
            stack.enter_context(replaced(module(where), name, lambda call: seconds.timed("host solves", call)))
        for name in TRANSFERS:
            stack.enter_context(replaced(Devices, name, lambda call: seconds.timed("transfers", call)))
        yield seconds.by_phase


@contextmanager
def cache_events() -> Iterator[dict[str, int]]:
    """How many programs the compile cache on disk had, and how many it had not."""
    counts, inside = dict.fromkeys(CACHE.values(), 0), True

    def note(event: str, **_: Any) -> None:
        if inside and event in CACHE:
            counts[CACHE[event]] += 1

    jax.monitoring.register_event_listener(note)  # for good: the oldest JAX cannot take a listener back
    try:
        yield counts
    finally:
        inside = False


@contextmanager
def scoring_in_bfloat16() -> Iterator[None]:
    """`kprune` measures with bfloat16 products, their sums in float32; sums of squares and refits stay as they are.

    What a run keeps of the measurement for its refit comes from these products too.
    """

    def halved(measure: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any, **named: Any) -> Any:
            with jax.default_matmul_precision("BF16_BF16_F32"):
                return measure(*inputs, **named)

        return call

    with replaced(module("jaxprune.pruning.methods.kprune"), "measure", halved):
        yield
