"""Timing on a device: warm, waited for, and models in turns."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def seconds_of(run: Callable[[], Any], repeats: int) -> float:
    """The median seconds of `run`, its results waited for; once before, to warm up."""
    jax.block_until_ready(run())
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - began)
    return float(np.median(found))


def in_turns(runs: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, np.ndarray]:
    """Seconds of every run in every turn, [turns]: a machine that slows down in between slows all of them."""
    names = list(runs)
    for name in names:
        jax.block_until_ready(runs[name]())
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        for name in names if turn % 2 else reversed(names):
            began = time.perf_counter()
            jax.block_until_ready(runs[name]())
            found[name].append(time.perf_counter() - began)
    return {name: np.array(seconds) for name, seconds in found.items()}


def allocator_peak() -> int | None:
    """The most bytes that were in use on the device since this process began; None: it keeps no books (a CPU)."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
