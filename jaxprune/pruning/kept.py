"""What a run keeps of one pass for the next, as far as a stated number of bytes goes, instead of computing it again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..checks import is_whole
from ..errors import SettingsError
from ..model.architecture import Architecture
from ..model.model import Batch
from ..runtime.devices import Devices

KEEP_BYTES = 256 * 2**20


@dataclass
class KeptPasses:
    """Dense outputs of sublayers, [sublayer, batch], and whether the refit holds a sublayer's features.

    Keeping changes no bit of a result: what is not kept is computed again by the same program. Dense outputs (the
    residual stream plus the sublayer's update, before any norm) spare every refit the dense model's forward pass;
    features of the pruned sublayer, kept from its fit until the streams move past it, spare a second computation.
    With streamed weights outputs lie in host memory, and features, which would lie on the device, are not kept.
    """

    bytes_left: int = 0  # for dense outputs
    features: bool = False
    outputs: dict[tuple[int, int], Any] = field(default_factory=dict)

    @staticmethod
    def within(limit: int, architecture: Architecture, batches: Sequence[Batch], devices: Devices) -> "KeptPasses":
        """Room in `limit` bytes: first for the features of one sublayer, the widest, then for dense outputs."""
        needed = KeptPasses.needed(architecture, batches)
        features = needed <= limit and not devices.stream
        return KeptPasses(limit - needed if features else limit, features)

    @staticmethod
    def needed(architecture: Architecture, batches: Sequence[Batch]) -> int:
        """Bytes of the features of the widest sublayer."""
        widest = max(max(size.heads * architecture.head_width, size.neurons) for size in architecture.layers)
        return 4 * widest * sum(batch.ids.size for batch in batches)

    def keep(self, sublayer: int, batch: int, output: Any, devices: Devices) -> None:
        """Hold on to a dense output, if there is room for it."""
        if output.nbytes <= self.bytes_left:
            self.outputs[sublayer, batch] = devices.keep(output)
            self.bytes_left -= output.nbytes


def check_keep_bytes(keep_bytes: Any) -> None:
    """Raise `SettingsError` for what is no number of bytes."""
    if not is_whole(keep_bytes) or keep_bytes < 0:
        raise SettingsError(f"keep_bytes must be a whole number of bytes, at least 0, got {keep_bytes!r}.")
