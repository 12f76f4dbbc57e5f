"""Bytes on the device: what lives, what a compiled program needs, and the peak of a run."""

import sys
from dataclasses import dataclass, field
from typing import Any

import jax


def live_bytes(device: Any = None, kind: str | None = None) -> int:
    """Bytes of all live arrays, on `device` or on all of this process; a buffer that several arrays share counts once.

    `kind` counts one kind of a device's memory only: "device", or host memory that the device can read, "pinned_host".

    `jax.device_put` to where an array already is gives a second array over one buffer, so that a plain sum of
    `nbytes` counts it twice.
    """
    seen: dict[tuple[Any, ...], int] = {}
    for array in jax.live_arrays():
        if array.is_deleted() or (kind is not None and array.sharding.memory_kind != kind):
            continue
        # No shards are asked for where there is one: before JAX 0.10.2 they and the array form a cycle, which keeps it
        # alive for a while.
        whole = len(array.sharding.device_set) == 1
        parts = [(at, array) for at in array.sharding.addressable_devices] if whole else _shards(array)
        for place, data in parts:
            if device is not None and place != device:
                continue
            try:
                key = (place.id, data.sharding.memory_kind, data.unsafe_buffer_pointer())
            except Exception:  # a backend without pointers (random keys, too): count the array by its identity
                key = (id(array), place.id)
            seen[key] = max(seen.get(key, 0), data.nbytes)
    return sum(seen.values())


def _shards(array: jax.Array) -> list[tuple[Any, jax.Array]]:
    return [(shard.device, shard.data) for shard in array.addressable_shards]


def temp_bytes(compiled: Any) -> int:
    """Bytes a compiled program needs beside its arguments and results; 0 where the backend does not say."""
    analysis = compiled.memory_analysis()
    return 0 if analysis is None else int(analysis.temp_size_in_bytes)


def program_bytes(compiled: Any) -> int:
    """Bytes a compiled program needs while it runs: arguments, results, temporaries; donated arguments count once.

    Not `peak_memory_in_bytes`: on CPU that figure leaves the temporaries out.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    sizes = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    return int(sizes - analysis.alias_size_in_bytes)


def device_peak_bytes() -> int | None:
    """The allocator's own peak, the largest over local devices; None where it keeps no books, as on CPU."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [entry["peak_bytes_in_use"] for entry in stats if entry and "peak_bytes_in_use" in entry]
    return max(peaks, default=None)


def host_peak_bytes() -> int | None:
    """The most memory that this process has held at a time since it began, all of it: Python, libraries, arrays.

    None where the system does not say.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@dataclass
class PeakMeter:
    """The peak of a run: the most that lived at any sampled point, plus the temporaries of its largest program.

    An upper bound of the two together: the largest program need not have run when most arrays lived. It counts this
    run's points only, so it can be compared between runs of one process, unlike the allocator's peak.
    """

    samples: dict[str, int] = field(default_factory=dict)  # name of the point -> most live bytes seen there
    temp: int = 0  # bytes of temporaries of the largest program registered
    device: Any = None  # the one that is measured; None: all of this process

    def sample(self, name: str) -> int:
        """Count live bytes now, under `name`; a point passed several times keeps its largest count."""
        now = live_bytes(self.device)
        self.samples[name] = max(now, self.samples.get(name, 0))
        return now

    def register(self, compiled: Any) -> Any:
        """Note a compiled program's temporaries; hands the program back."""
        self.temp = max(self.temp, temp_bytes(compiled))
        return compiled

    @property
    def peak_bytes(self) -> int:
        return max(self.samples.values(), default=0) + self.temp
