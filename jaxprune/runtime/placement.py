"""Host memory and the device: moving arrays between them, and the books of what was moved and what lived there."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ..errors import SettingsError
from .device_limit import over
from .devices import Devices
from .memory import live_bytes
from .programs import Programs

Device = Any  # one of jax.devices()
Where = Any  # a device, its name, such as "gpu:1", or None


@dataclass
class Books:
    """What a phase of a run cost. Bytes on the device are those above what lived there before the run; of a mesh, those
    of its first device.
    """

    seconds: float = 0.0  # all of it, compilation and transfers too
    compile_seconds: float = 0.0
    transfer_seconds: float = 0.0
    bytes_to_device: int = 0
    bytes_to_host: int = 0
    live_bytes: int = 0  # the most that lived on the device at any moment looked at
    temporary_bytes: int = 0  # of the largest program that ran there
    left_bytes: int = 0  # what lived there at the end
    peak_bytes: int = 0  # live_bytes + temporary_bytes
    allocator_peak_bytes: int | None = None  # the device's own count since the process began; None: it keeps none

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def find_device(where: Where, default: Callable[[], Device]) -> Device:
    """A device, from one or from a name such as "cpu:0" or "gpu:1". Raises `SettingsError` where there is none."""
    if where is None:
        return default()
    if isinstance(where, jax.Device):
        return where
    if not isinstance(where, str) or not where:
        raise SettingsError(f"{where!r} is no device; give one of jax.devices(), or a name such as 'cpu:0'.")
    platform, _, number = where.partition(":")
    try:
        devices = jax.local_devices(backend=platform)
    except RuntimeError as error:
        known = ", ".join(str(device.platform) for device in jax.local_devices()[:1])
        raise SettingsError(f"there is no device {where!r}: JAX has no platform {platform!r}, but {known}.") from error
    index = number or "0"
    if not index.isdecimal() or int(index) >= len(devices):
        raise SettingsError(
            f"device {where!r} was asked, but there are {len(devices)} on {platform}; "
            f"choose from {', '.join(f'{platform}:{number}' for number in range(len(devices)))}."
        )
    return devices[int(index)]


@dataclass
class Placement:
    """The two places of a run and its books; transfers go through pinned host memory where the device has it.

    `host` computes beside the CPU's memory; `device` is the accelerator, the same chip where there is none. `limit` is
    a number of bytes that a phase must not exceed on the device (None: what the chip has). With a mesh in `devices` its
    devices together take the device's place, and `device` is the first of them, by which bytes are counted: all hold as
    much.
    """

    host: Device
    device: Device
    limit: int | None = None
    books: Books = field(default_factory=Books)
    programs: Programs = field(default_factory=lambda: Programs(own={}))
    devices: Devices = Devices()

    @staticmethod
    def of(
        host: Where = None, device: Where = None, limit: int | None = None, devices: Devices = Devices()
    ) -> "Placement":
        """By default the first CPU device and the first device of JAX, or the mesh. Raises `SettingsError`, also where
        there is a mesh and a device too.
        """
        beside = find_device("cpu" if host is None else host, jax.devices)
        if devices.mesh is None:
            return Placement(beside, find_device(device, lambda: jax.local_devices()[0]), limit)
        if device is not None:
            raise SettingsError(f"device {device} is one device, and a mesh has its own; leave one of the two out.")
        return Placement(beside, devices.mesh.local_devices[0], limit, devices=devices)

    def __post_init__(self):
        mesh, alone = self.devices.mesh, jax.sharding.SingleDeviceSharding(self.device)
        # Where arrays go that every device has whole, and where the rows of a batch do.
        self.whole = alone if mesh is None else NamedSharding(mesh, PartitionSpec())
        self.rows = alone if mesh is None else NamedSharding(mesh, PartitionSpec("data"))
        self._pinned = "pinned_host" in {memory.kind for memory in self.device.addressable_memories()}
        self._phase = ("the run", False)  # its name, and whether programs run on the device
        self._before = self._now()  # bytes that are not the run's: the caller's own

    def of_weights(self, tree: Any) -> Any:
        """Where each weight of a tree goes that ends as parameters do, for `to_device`."""
        if self.devices.mesh is None:
            return jax.tree.map(lambda _: self.whole, tree)
        return self.devices.shardings(tree)

    def to_device(self, tree: Any, wait: bool = True, places: Any = None) -> Any:
        """A copy of NumPy arrays on the device, which shares no memory with them; of a mesh, on each device a whole
        one, or as `places` says (`rows`, or what `of_weights` gives).

        It is complete when this returns; or, without `wait`, before any program reads it: for what goes there while the
        device is at work. The books then hold the seconds that the caller was held up.
        """
        began, staged, places = time.perf_counter(), None, self.whole if places is None else places
        if not self._pinned:
            # A copy: on some backends an array on the device may be a view of NumPy's memory.
            moved = jax.device_put(jax.tree.map(np.array, tree), places)
        else:
            staged = jax.device_put(tree, jax.tree.map(lambda at: at.with_memory_kind("pinned_host"), places))
            moved = jax.device_put(staged, places)
        if wait:
            jax.block_until_ready(moved)
        free(staged)  # the runtime holds a buffer until what reads it is done
        self.books.bytes_to_device += size(moved)
        self.books.transfer_seconds += time.perf_counter() - began
        self.look()
        return moved

    def streaming(self, waiting: int) -> Devices:
        """Weights that come from host memory to `device`, one sublayer at a time, and are booked."""
        return _Booked(stream=True, waiting=waiting, placement=self)

    def to_host(self, tree: Any, keep: bool = False) -> Any:
        """NumPy copies of arrays on the device, which are freed there unless `keep`."""
        began = time.perf_counter()
        moved = jax.tree.map(np.array, tree)
        self.books.bytes_to_host += size(moved)
        if not keep:
            free(tree)
        self.books.transfer_seconds += time.perf_counter() - began
        return moved

    def on_host(self, tree: Any) -> Any:
        """Arrays that programs read beside the CPU's memory: views of NumPy's where alignment allows."""
        return jax.device_put(tree, jax.sharding.SingleDeviceSharding(self.host))

    def look(self) -> int:
        """Count what lives on the device now. Raises `SettingsError` where that is above the limit."""
        now = self._now() - self._before
        self.books.live_bytes = max(self.books.live_bytes, now)
        name, on_device = self._phase
        # With temporaries, so that a run that does not fit stops at its first step, not when the phase is over.
        self._check(self.books.live_bytes + (self.programs.meter.temp if on_device else 0), name)
        return now

    @contextmanager
    def phase(self, name: str, on_device: bool = True, programs: Programs | None = None) -> Iterator[Books]:
        """Books of their own for one phase, and programs, unless they are given; `on_device`: they run there."""
        self.books, self.programs, self._phase = Books(), programs or Programs(own={}), (name, on_device)
        began, compiled = time.perf_counter(), self.programs.compile_seconds
        self.look()
        yield self.books
        self.books.seconds = time.perf_counter() - began
        self.books.compile_seconds = self.programs.compile_seconds - compiled
        self.books.temporary_bytes = self.programs.meter.temp if on_device else 0
        self.books.left_bytes = self.look()
        self.books.peak_bytes = self.books.live_bytes + self.books.temporary_bytes
        self.books.allocator_peak_bytes = (self.device.memory_stats() or {}).get("peak_bytes_in_use")

    def _now(self) -> int:
        return live_bytes(self.device, self.device.default_memory().kind)

    def _check(self, taken: int, name: str) -> None:
        if self.limit is not None and taken > self.limit:
            raise over(name, taken, self.limit, "took")


@dataclass(frozen=True)
class _Booked(Devices):
    placement: Any = None

    def fetch(self, tree: Any) -> Any:
        alone = jax.sharding.SingleDeviceSharding(self.placement.device)
        return self.placement.to_device(tree, wait=False, places=alone)


def free(tree: Any) -> None:
    """Give the memory of arrays back at once. Donating across kinds of memory is not to be had on every backend."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not leaf.is_deleted():
            leaf.delete()


def size(tree: Any) -> int:
    """Bytes of all arrays of a tree; of what lies on several devices, those of one."""

    def leaf(array: Any) -> int:
        if not isinstance(array, jax.Array):
            return array.nbytes
        return math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize

    return sum(map(leaf, jax.tree.leaves(tree)))
