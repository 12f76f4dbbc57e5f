"""Where the arrays of a run live: on one device or a mesh of them, all weights at once or a sublayer at a time.

A mesh has an axis `data`, over which the rows of batches are spread, and may have an axis `model`, over which units
(key-value groups, neurons) and the vocabulary are. Training may spread weights over `data` as well. XLA inserts the
communication; every process of a multi-host run must make the same calls. Streamed weights stay in host memory; what a
run does with them is the same.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..errors import SettingsError
from ..model.architecture import UNIT_AXES, LayerSizes, Sublayer

# The axis of each weight that a mesh's `model` axis divides, by the last two names of its path.
_MODEL_AXES = {
    (projection, leaf): axis
    for half in UNIT_AXES.values()
    for projection, leaves in half.items()
    for leaf, axis in leaves.items()
} | {("embed", "token"): 0, ("head", "kernel"): 1}
# Of a matrix whose rows lie in two parts, as RECAP trains them, the rows of each.
_ROWS = {name: 1 for name in ("q", "k", "v", "up", "gate")} | {name: 0 for name in ("o", "down", "token")}
_PARTS = ("frozen", "trained")
# Of a low-rank adapter the side that has the projection's units.
_MODEL_AXES |= {(name, "b"): 1 for name in ("q", "k", "v", "up", "gate")} | {("o", "a"): 0, ("down", "a"): 0}


def auto_mesh(mesh: Mesh) -> Mesh:
    """The mesh for programs that leave shardings to the compiler; those of jax.make_mesh want them spelled out."""
    return Mesh(mesh.devices, mesh.axis_names)


def placed(tree: Any) -> Any:
    """The arrays of a tree on the default device; nothing, if they are on one.

    As by `jnp.asarray`, which compiles a program for every shape that it copies: half of all that a run compiled.
    """
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else _put(leaf), tree)


def _put(array: Any) -> jax.Array:
    return jax.device_put(np.array(array))  # a copy: on a CPU the result is a view of it


@dataclass(frozen=True)
class Devices:
    """One device (`mesh` None) or a mesh; with `stream` weights come from host memory, one sublayer at a time.

    While a sublayer is at work the next is on its way, and the last may not have gone yet: three live at most. With
    `by_weights` weights are spread over the axis `data` too, each along its longest free axis that this divides.
    """

    mesh: Mesh | None = None
    stream: bool = False
    by_weights: bool = False
    waiting: int | None = None  # with `stream`, bytes of residual streams that wait for their next sublayer there

    def __post_init__(self):
        if self.mesh is None:
            return
        if not isinstance(self.mesh, Mesh):
            raise SettingsError(
                f"mesh is {str(self.mesh)[:40]!r}, expected a mesh: jax.make_mesh((jax.device_count(),), ('data',))."
            )
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

    @property
    def splits(self) -> bool:
        """Whether weights are spread, so that no device need hold all of them."""
        return self.mesh is not None and (self.by_weights or self.mesh.shape.get("model", 1) > 1)

    @property
    def share(self) -> tuple[int, int]:
        """Which part of the rows of a batch is this process's: its number, and how many there are.

        Raises `SettingsError` where the process has none, or several that lie apart.
        """
        if self.mesh is None or jax.process_count() == 1:
            return 0, 1
        along, rank = self.mesh.axis_names.index("data"), jax.process_index()
        mine = {at[along] for at, device in np.ndenumerate(self.mesh.devices) if device.process_index == rank}
        first, count = min(mine, default=0), len(mine)
        if mine != set(range(first, first + count)) or not count or first % count or self.data % count:
            raise SettingsError(
                f"process {rank} has places {', '.join(map(str, sorted(mine))) or 'nowhere'} of the {self.data} along "
                "the mesh's axis data; give each process as many in a row: jax.devices() come in that order."
            )
        return first // count, self.data // count

    def params(self, tree: Any) -> Any:
        """All weights where a run keeps them: on the devices, or with `stream` as NumPy arrays."""
        return jax.tree.map(np.asarray, tree) if self.stream else self.fetch(tree)

    def fetch(self, tree: Any) -> Any:
        """Weights on the devices, over the mesh's axes where these divide them. Nothing, if they are there."""
        if self.mesh is None:
            return placed(tree)
        return jax.tree.map(lambda array, there: self._put(array, there.spec), tree, self.shardings(tree))

    def shardings(self, tree: Any, whole: bool = False) -> Any:
        """Where every weight of a tree lies on the mesh; `whole`: while it is computed with, over `model` alone.

        Trees that end as those of parameters do, such as gradients and moments, lie as these. Leaves may be shapes.
        """
        assert self.mesh is not None
        mesh, over_data = self.mesh, self.by_weights and not whole
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: NamedSharding(mesh, _spec(path, np.shape(leaf), mesh.shape, over_data)), tree
        )

    def part(self, tree: Any, whole: bool = False) -> Any:
        """Shapes of what one device holds of weights; `whole`: while they are computed with. Leaves may be shapes."""
        if self.mesh is None:
            return tree

        def leaf(array: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(place.shard_shape(np.shape(array)), array.dtype)

        return jax.tree.map(leaf, tree, self.shardings(tree, whole))

    def sizes(self, layers: Sequence[LayerSizes]) -> list[LayerSizes]:
        """Of layers, the units that one device computes: its share where the mesh's axis `model` divides them."""
        parts = 1 if self.mesh is None else self.mesh.shape.get("model", 1)
        own = lambda count: count if count % parts else count // parts  # noqa: E731
        return [replace(size, groups=own(size.groups), neurons=own(size.neurons)) for size in layers]

    def kept(self, tree: Any) -> Any:
        """Within a program: weights, or trees like them, to lie as `fetch` puts them. Nothing without a mesh."""
        return tree if self.mesh is None else jax.lax.with_sharding_constraint(tree, self.shardings(tree))

    def rows(self, tree: Any) -> Any:
        """Arrays whose first axis are the rows of a batch, spread over the mesh's `data` axis."""
        if self.mesh is None:
            return placed(tree)
        return jax.tree.map(lambda array: self._put(array, PartitionSpec("data")), tree)

    def own_rows(self, tree: Any) -> Any:
        """As `rows`, from arrays that have the rows of this process alone (`share`)."""
        _, parts = self.share
        if self.mesh is None or parts == 1:
            return self.rows(tree)
        place = NamedSharding(self.mesh, PartitionSpec("data"))

        def leaf(array: Any) -> jax.Array:
            whole = (len(array) * parts, *array.shape[1:])
            return jax.make_array_from_process_local_data(place, np.asarray(array), whole)

        return jax.tree.map(leaf, tree)

    def everywhere(self, tree: Any) -> Any:
        """Copies of arrays, whole on every device: safe to donate, whatever memory the originals are views of."""
        if self.mesh is None:
            return jax.tree.map(lambda leaf: jnp.array(leaf) if isinstance(leaf, jax.Array) else _put(leaf), tree)

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
        if isinstance(array, jax.Array) and isinstance(array.sharding, NamedSharding):
            if array.sharding.mesh == self.mesh and array.sharding.is_equivalent_to(sharding, array.ndim):
                return array
        if jax.process_count() == 1:
            return jax.device_put(array, sharding)
        # Every process has the whole array, and gives its devices their part.
        whole = np.asarray(array)
        return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])


def _spec(path: tuple[Any, ...], shape: tuple[int, ...], mesh: Mapping[str, int], over_data: bool) -> PartitionSpec:
    """Over which axes of a mesh, given by their sizes, those of the weight at `path` are spread; of what they do not
    divide, none.
    """
    *_, owner, module, name = ("", "", "", *(str(getattr(key, "key", getattr(key, "name", key))) for key in path))
    axes: list[str | None] = [None] * len(shape)
    if name == "place":  # of the rows of such a matrix: whole numbers, which every device reads
        return PartitionSpec(*axes)
    divides = lambda axis, over: mesh.get(over, 1) > 1 and shape[axis] > 0 == shape[axis] % mesh[over]  # noqa: E731
    axis = _MODEL_AXES.get((module, name), -1)
    if name in _PARTS:
        axis = _ROWS.get(owner if module == "kernel" else module, -1) if module != "bias" else 0
    if axis >= 0 and divides(axis, "model"):
        axes[axis] = "model"
    free = [axis for axis, taken in enumerate(axes) if taken is None and divides(axis, "data")]
    if over_data and free:
        axes[max(free, key=lambda axis: shape[axis])] = "data"
    return PartitionSpec(*axes)


@partial(jax.jit, static_argnames="sharding")
def _gathered(array: jax.Array, *, sharding: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(array, sharding)
