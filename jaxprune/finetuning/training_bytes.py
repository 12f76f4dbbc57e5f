"""What a training step needs, in bytes: predicted from sizes alone, and measured on the compiled program."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ..model import Architecture, Batch, Model, Params
from ..model.heads import head_of
from ..model.language import vocabulary
from ..runtime.devices import Devices
from .activations import FLOAT, activation_bytes
from .guides import beside, together
from .lora import Adapters, adapted_share, count
from .masters import masters
from .settings import Train
from .step import Clock, Frozen, State, Trainable, everything, optimizer, select, train_step


def training_bytes(
    model: Model,
    parts: Any,
    rows: int,
    length: int,
    settings: Train,
    temp: int,
    devices: Devices = Devices(),
    teacher: Model | None = None,
    batches: int = 1,
    limit: int | None = None,
) -> dict[str, int]:
    """Bytes of a training step by kind; `parts` holds the trainable leaves, `temp` is what the program needs besides.

    Of several `devices`, those of one. parameters, gradients and moments are exact; activations are a prediction, with
    `wide_copies` where a step computes in float32; "made whole" are copies of weights that are spread; "teacher" what
    `teacher_bytes` says. predicted is the sum; measured puts the compiled program's own temporaries in place of all but
    parameters, moments and the teacher. `batches` of an epoch and the `limit` on the device's bytes say how much a
    teacher in host memory has there.
    """
    settings = settings.resolved(model.architecture, adapted=False)
    trains = {id(leaf) for leaf in jax.tree.leaves(parts)}
    params = in_frozen_type(model.params, settings, trains)
    resting = jax.tree.map(lambda leaf: None if id(leaf) in trains else leaf, params)
    trainable = FLOAT * count(devices.part(parts))
    parameters = trainable + held_bytes(devices.part(resting))
    copies = wide_copies(params, trains, in_turn=bool(settings.remat)) if settings.dtype == "float32" else 0
    own = sum(np.size(leaf) for leaf in jax.tree.leaves(parts[0].get("layers", [])) if np.ndim(leaf) > 1)
    share = own / max(1, count(model.params["layers"]))
    activations = activation_bytes(
        model.architecture, rows // devices.data, length, settings, share, devices.part(parts[0]),
        devices.sizes(model.architecture.layers), adapted_share(model.architecture, parts[1]),
        narrow_words(model, params),
    )  # fmt: skip
    activations = max(activations + copies, update_bytes(parts, settings))
    sizes = {
        "parameters": parameters,
        "gradients": trainable,
        "moments": moment_bytes(devices.part(parts), settings),
        "activations": activations,
    }
    if devices.by_weights:
        sizes["made whole"] = whole_bytes(model.architecture, params, trains, settings, devices)
    if teacher is not None:
        spare = sizes["gradients"] + sizes["activations"]  # of the step, which are not there while the teacher speaks
        sizes["teacher"] = teacher_bytes(teacher, rows, length, settings, spare, devices, batches, limit)
    return {
        **sizes,
        "predicted": sum(sizes.values()),
        "temporaries": temp,
        "measured": sizes["parameters"] + sizes["moments"] + sizes.get("teacher", 0) + temp,
    }


def narrow_words(model: Model, params: Params) -> bool:
    """Whether a language model's vocabulary is kept in fewer bits than float32."""
    if head_of(model.architecture).language is None:
        return False
    return any(leaf.dtype.itemsize < FLOAT for leaf in jax.tree.leaves(vocabulary(params, model.architecture)))


def teacher_bytes(
    teacher: Model,
    rows: int,
    length: int,
    settings: Train,
    spare: int = 0,
    devices: Devices = Devices(),
    batches: int = 1,
    limit: int | None = None,
) -> int:
    """What a teacher takes of the device at a step for `rows` rows of `length` tokens, temporaries apart.

    On the device its weights. Else its vocabulary, if it has one, and what it says of a batch. One in host memory says
    it of as many of an epoch's `batches` as pass together under the `limit`, and needs what is outside its layers,
    three sublayers and these batches' streams while it does: what `spare` bytes do not cover of that counts too.
    """
    a, stays = teacher.architecture, beside(teacher, settings)
    held = held_bytes(devices.part(stays)) if stays is not None else 0
    if settings.teacher_in == "device":
        return held
    batch = abstract_batch(a, rows, length)
    wide = a.hidden if head_of(a).language is not None else len(a.labels)
    stream, each = FLOAT * rows * length * a.hidden // devices.data, FLOAT * rows * length * wide // devices.data
    if settings.teacher_in == "disk":
        return held + each
    count = together(batch, a.hidden, batches, limit)
    outer = held_bytes(devices.part({name: part for name, part in teacher.params.items() if name != "layers"}))
    halves = [held_bytes(devices.part(half)) for layer in teacher.params["layers"] for half in layer.values()]
    speaking = outer + 3 * max(halves, default=0) + count * stream
    return held + count * each + max(0, speaking - spare)


def whole_bytes(
    architecture: Architecture, params: Params, trains: Collection[int], settings: Train, devices: Devices
) -> int:
    """What the copies of weights take that a device computes with, where it keeps a part of each.

    All at once, as XLA keeps them for the backward pass; with `remat` one layer's at a time beside those outside. Of a
    language model the gradient of the vocabulary is whole too, while slices of tokens add to it.
    """
    typed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), np.float32 if id(x) in trains else x.dtype), params
    )
    layers = [held_bytes(layer) for layer in devices.part(typed, whole=True)["layers"]]
    outside = devices.part({name: part for name, part in typed.items() if name != "layers"}, whole=True)
    slope = 0
    if head_of(architecture).language is not None:
        moving = {id(leaf) for leaf in jax.tree.leaves(vocabulary(params, architecture))} <= {*trains}
        slope = held_bytes(vocabulary(outside, architecture)) if moving else 0
    return held_bytes(outside) + slope + (max(layers, default=0) if settings.remat else sum(layers))


def moment_bytes(parts: Any, settings: Train) -> int:
    """What both of Adam's moments of these leaves take."""
    return 2 * count(parts) * np.dtype(settings.moments_dtype).itemsize


def update_bytes(parts: Any, settings: Train) -> int:
    """What the update takes of the largest leaf whose moments are kept in fewer bits: copies of its gradient and its
    moments, and what rounds them. When it runs activations are gone.
    """
    largest = max((int(np.size(leaf)) for leaf in jax.tree.leaves(parts)), default=0)
    return 0 if settings.moments_dtype == "float32" else 3 * FLOAT * largest


def in_frozen_type(params: Params, settings: Train, trains: Collection[int] = ()) -> Params:
    """Shapes of `params` in the types that training holds them in; those of `trains`, by their ids, are the leaves."""
    if settings.frozen_dtype is None:
        return params

    def typed(leaf: Any) -> Any:
        if id(leaf) in trains or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(settings.frozen_dtype))

    return jax.tree.map(typed, params)


def wide_copies(params: Params, trains: Collection[int] = (), *, in_turn: bool) -> int:
    """What the float32 copies take of kernels that are kept in fewer bits; `trains`: ids of leaves that are not.

    `in_turn`: one layer's at a time, as of a forward pass or with `remat`. Else XLA makes all of them before the first
    layer and keeps them to the end of the step (CPU).
    """

    def of(layer: Params) -> int:
        narrow = [x for x in jax.tree.leaves(layer) if x.dtype.itemsize < FLOAT and id(x) not in trains]
        return FLOAT * count([leaf for leaf in narrow if np.ndim(leaf) > 1])

    copies = [of(layer) for layer in params["layers"]]
    return max(copies, default=0) if in_turn else sum(copies)


def held_bytes(tree: Any) -> int:
    """What the arrays of a tree take, each in its own type."""
    return sum(int(np.size(leaf)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def abstract_batch(architecture: Architecture, rows: int, length: int) -> Batch:
    """A batch of one text, or image, a row: shapes only."""
    whole = lambda *shape: jax.ShapeDtypeStruct(shape, np.int32)  # noqa: E731
    numbers = None if architecture.patches is None else architecture.patches.numbers
    patches = None if numbers is None else jax.ShapeDtypeStruct((rows, length, numbers), np.float32)
    return Batch(*[whole(rows, length)] * 4, *[whole(rows, 1)] * 2, patches)  # type: ignore[arg-type]


def compiled_step(
    model: Model,
    rows: int,
    length: int,
    settings: Train = Train(),
    *,
    trainable: Trainable = everything,
    adapters: Adapters | None = None,
    devices: Devices = Devices(),
) -> Any:
    """The compiled training step for `rows` texts of `length` tokens, for its memory analysis; nothing is run.

    Leaves may be `jax.ShapeDtypeStruct`: no weights are needed to know what training them takes.
    """
    settings = settings.resolved(model.architecture, adapters is not None)
    abstract = lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), getattr(leaf, "dtype", np.float32))  # noqa: E731
    params = jax.tree.map(abstract, model.params)
    chosen, frozen = select(params, trainable)
    frozen = in_frozen_type(frozen, settings)
    weights, scaling = ([], []) if adapters is None else jax.tree.map(abstract, tuple(adapters))
    variables = jax.eval_shape(masters, {"params": chosen, "adapters": weights})
    moments = jax.eval_shape(optimizer(settings, 100, 1e-4).init, variables)
    state, constants = State(variables, moments), Frozen(frozen, scaling, None)
    spread, more = None, {}
    if devices.mesh is not None:
        spread, more = NamedSharding(devices.mesh, PartitionSpec("data")), {"devices": devices}
        on_mesh = lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)  # noqa: E731
        state, constants = jax.tree.map(on_mesh, (state, constants), devices.shardings((state, constants)))
    batch = abstract_batch(model.architecture, rows, length)
    if spread is not None:
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spread), batch)
    blank = head_of(model.architecture).blank(len(model.architecture.labels))
    targets = jax.ShapeDtypeStruct((rows, 1, *blank.shape), blank.dtype, sharding=spread)
    clock = jax.eval_shape(lambda: Clock(jnp.int32(0), jnp.int32(0), jnp.float32(0), jax.random.key(0)))
    return train_step.lower(
        state, constants, batch, targets, clock,
        architecture=model.architecture, settings=settings.of_program(), **more,
    ).compile()  # fmt: skip
