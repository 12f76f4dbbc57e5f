"""Where the arrays of a pruning run live: on one device or a mesh of them, all weights at once or a sublayer at a time.

A mesh has an axis `data`, over which the rows of calibration batches are spread, and may have an axis `model`, over
which units (key-value groups, neurons) and the vocabulary are. XLA inserts the communication; every process of a
multi-host run must make the same calls. Streamed weights stay in host memory; what a run does with them is the same.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..errors import SettingsError
from ..model.architecture import UNIT_AXES, Sublayer

# The axis of each weight that a mesh's `model` axis divides, by the last two names of its path.
_MODEL_AXES = {
    (projection, leaf): axis
    for half in UNIT_AXES.values()
    for projection, leaves in half.items()
    for leaf, axis in leaves.items()
} | {("embed", "token"): 0, ("head", "kernel"): 1}


def auto_mesh(mesh: Mesh) -> Mesh:
    """The mesh for programs that leave shardings to the compiler; those of jax.make_mesh want them spelled out."""
    return Mesh(mesh.devices, mesh.axis_names)


@dataclass(frozen=True)
class Devices:
    """One device (`mesh` None) or a mesh; with `stream` weights come from host memory, one sublayer at a time.

    While a sublayer is at work the next is on its way, and the last may not have gone yet: three live at most.
    """

    mesh: Mesh | None = None
    stream: bool = False

    def __post_init__(self):
        if self.mesh is None:
            return
        names = self.mesh.axis_names
        if "data" not in names or not set(names) <= {"data", "model"}:
            raise SettingsError(
                f"the mesh has axes {', '.join(map(str, names))}; expected data, and model if you like."
            )
        object.__setattr__(self, "mesh", auto_mesh(self.mesh))

    @property
    def data(self) -> int:
        """Devices that share the rows of a batch."""
        return 1 if self.mesh is None else self.mesh.shape["data"]

    def params(self, tree: Any) -> Any:
        """All weights where a run keeps them: on the devices, or with `stream` as NumPy arrays."""
        return jax.tree.map(np.asarray, tree) if self.stream else self.fetch(tree)

    def fetch(self, tree: Any) -> Any:
        """Weights on the devices, over the mesh's `model` axis where that divides them. Nothing, if they are there."""
        if self.mesh is None:
            return jax.tree.map(jnp.asarray, tree)

        parts = self.mesh.shape.get("model", 1)

        def leaf(path: tuple[Any, ...], array: Any) -> Any:
            *_, module, name = ("", "", *(str(getattr(key, "key", key)) for key in path))
            axis = _MODEL_AXES.get((module, name), -1)
            divides = axis >= 0 and parts > 1 and array.shape[axis] % parts == 0
            return self._put(array, PartitionSpec(*[None] * axis, "model") if divides else PartitionSpec())

        return jax.tree_util.tree_map_with_path(leaf, tree)

    def rows(self, tree: Any) -> Any:
        """Arrays whose first axis are the rows of a batch, spread over the mesh's `data` axis."""
        if self.mesh is None:
            return jax.tree.map(jnp.asarray, tree)
        return jax.tree.map(lambda array: self._put(array, PartitionSpec("data")), tree)

    def everywhere(self, tree: Any) -> Any:
        """Copies of arrays, whole on every device: safe to donate, whatever memory the originals are views of."""
        if self.mesh is None:
            return jax.tree.map(jnp.array, tree)

        def leaf(array: Any) -> Any:
            if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(leaf(jax.random.key_data(array)))
            return self._put(np.array(array), PartitionSpec())

        return jax.tree.map(leaf, tree)

    def keep(self, tree: Any) -> Any:
        """Arrays that are not needed for a while: in host memory with `stream`, else where they are."""
        # Copies: on a CPU what NumPy gets is a view, which keeps the array on the device alive.
        return jax.tree.map(np.array, self.read(tree)) if self.stream else tree

    def read(self, tree: Any) -> Any:
        """NumPy arrays, whole on every process."""

        def leaf(array: Any) -> np.ndarray:
            if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
                assert self.mesh is not None  # what a process does not hold whole lies on a mesh
                array = _gathered(array, sharding=NamedSharding(self.mesh, PartitionSpec()))
            return np.asarray(array)

        return jax.tree.map(leaf, tree)

    def sublayers(self, layers: Sequence[Any], addresses: Iterable[Sublayer]) -> Iterator[tuple[Sublayer, Any]]:
        """The address of every sublayer and its parameters on the devices, in turn."""
        order = list(addresses)
        get = lambda at: self.fetch(at.of(layers))  # noqa: E731
        coming = get(order[0]) if order else None
        for place, at in enumerate(order):
            # Fetching returns before the copy is done: it goes on while the sublayer before is at work.
            present, coming = coming, get(order[place + 1]) if place + 1 < len(order) else None
            yield at, present

    def _put(self, array: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(self.mesh, spec)  # type: ignore[arg-type]  # only called where there is a mesh
        if isinstance(array, jax.Array) and array.sharding == sharding:
            return array
        if jax.process_count() == 1:
            return jax.device_put(array, sharding)
        # Every process has the whole array, and gives its devices their part.
        whole = np.asarray(array)
        return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])


@partial(jax.jit, static_argnames="sharding")
def _gathered(array: jax.Array, *, sharding: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(array, sharding)
