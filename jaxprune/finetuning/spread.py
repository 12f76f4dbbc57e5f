"""Training on several devices and processes: where its arrays lie, and what all processes agree on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

from ..checks import check_effect
from ..errors import SettingsError
from ..model import Model, Params
from ..runtime.devices import Devices
from ..runtime.memory import PeakMeter
from .lora import Adapters
from .masters import masters
from .settings import Train
from .step import State, merge


def training_devices(mesh: jax.sharding.Mesh | None, settings: Train) -> Devices:
    """Where a run's arrays live. Raises `SettingsError` for a mesh of other axes, and for `shard` without a mesh."""
    if mesh is None:
        check_effect(settings, ("shard",), "without a mesh, over whose devices the weights would be spread")
    return Devices(mesh, by_weights=settings.shard == "weights")


def check_divides(devices: Devices, rows: int, parts: int) -> None:
    """Raise `SettingsError` unless every device has as many rows of every part of a batch."""
    if rows % (devices.data * parts):
        raise SettingsError(
            f"a batch of {rows} rows does not divide into {parts} parts on {devices.data} devices; "
            f"pack it into a multiple of {devices.data * parts}."
        )


def check_spread(devices: Devices, weights: Any) -> None:
    """Raise `SettingsError` for an axis of the mesh over which weights are to be spread and none of them can be."""
    if devices.mesh is None:
        return
    used = {axis for place in jax.tree.leaves(devices.shardings(weights)) for axis in place.spec}
    for axis, wanted in (("model", True), ("data", devices.by_weights)):
        size = devices.mesh.shape.get(axis, 1)
        if wanted and size > 1 and axis not in used:
            raise SettingsError(
                f"the mesh's axis {axis} has {size} devices, and no weight of the model can be divided by {size}; "
                "choose another number."
            )


def starting_state(variables: Any, rule: optax.GradientTransformation, devices: Devices) -> State:
    """What trains, in float32, and its moments, where `devices` keep them: copies, for a step consumes its state."""
    if devices.mesh is None:
        variables = masters(variables)
        return State(variables, rule.init(variables))
    variables = devices.fetch(jax.tree.map(lambda leaf: np.array(leaf, np.float32), devices.read(variables)))
    places = devices.shardings(jax.eval_shape(rule.init, variables))
    return State(variables, jax.jit(rule.init, out_shardings=places)(variables))


def assembled(
    model: Model, variables: Any, frozen: Params, adapters: Adapters | None, devices: Devices
) -> tuple[Model, Adapters | None]:
    """The model and adapters with these trainable leaves: on the default device; in host memory where weights are
    spread, as one device need not hold them all.
    """
    make = np.array if devices.splits else jnp.array
    variables = jax.tree.map(make, devices.read(variables))
    result = model.replace(params=merge(variables["params"], frozen))
    return result, None if adapters is None else Adapters(variables["adapters"], adapters.scaling)


def meter_of(devices: Devices) -> PeakMeter:
    """Of a mesh, one device is measured: all hold as much."""
    return PeakMeter() if devices.mesh is None else PeakMeter(device=devices.mesh.local_devices[0])


def agreed(*flags: bool) -> tuple[bool, ...]:
    """Of each, whether it is so on any process. All must ask: they stop, save and give up at the same step."""
    if jax.process_count() == 1:
        return flags
    told = np.asarray(multihost_utils.process_allgather(np.array(flags)))
    return tuple(np.any(told, axis=0).tolist())


def first_told(number: float) -> float:
    """What the first process says: by last bits that differ they could choose different epochs."""
    if jax.process_count() == 1:
        return number
    told = multihost_utils.broadcast_one_to_all(np.frombuffer(np.float64(number).tobytes(), np.uint8))
    return float(np.frombuffer(np.asarray(told, np.uint8).tobytes(), np.float64)[0])
