"""What a training step needs, in bytes: predicted from sizes alone, and measured on the compiled program."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..model import Architecture, Batch, Model
from .lora import Adapters, count
from .train import Clock, Frozen, State, Train, Trainable, everything, optimizer, select, train_step

FLOAT = 4  # bytes; weights, gradients and moments are float32


def activation_bytes(architecture: Architecture, rows: int, length: int, settings: Train, full: bool) -> int:
    """Intermediates of the layers that a backward pass reads, for `rows` rows of `length` tokens: an estimate.

    Numbers kept in a layer for a token: 10 a hidden unit (norms and dropout keep each of their steps), 4 a head and
    width (q, k, v, and what they mix), 2.5 a neuron (the activation's steps) and 1 more where the weights themselves
    train (`full`); and 1.75 for every pair of tokens of a head (attention weights before and after dropout, masks).
    Found by compiling BERT-base at 32 x 128 on CPU and varying its sizes; there it is 0.9 of what the program takes.
    With `remat`: the stream at every layer and all of one layer.
    """
    width = 2 if settings.dtype == "bfloat16" else FLOAT
    tokens = rows * length // settings.accumulate
    layers = []
    for size in architecture.layers:
        heads = (2 * size.queries + 2) * size.groups * architecture.head_width
        neurons = (2.5 * (2 if architecture.gated else 1) + full) * size.neurons
        pairs = 1.75 * length * size.heads
        layers.append(int(tokens * (width * (10 * architecture.hidden + heads + neurons) + FLOAT * pairs)))
    if settings.remat:
        return max(layers, default=0) + len(layers) * width * tokens * architecture.hidden
    return sum(layers)


def training_bytes(model: Model, parts: Any, rows: int, length: int, settings: Train, temp: int) -> dict[str, int]:
    """Bytes of a training step by kind; `parts` holds the trainable leaves, `temp` is what the program needs besides.

    parameters, gradients and moments are exact; activations are a prediction. predicted is their sum; measured puts
    the compiled program's own temporaries in place of gradients and activations.
    """
    settings = settings.resolved(model.architecture, adapted=False)
    inside = {id(leaf) for leaf in jax.tree.leaves(model.params)}
    parameters = FLOAT * (count(model.params) + sum(np.size(x) for x in jax.tree.leaves(parts) if id(x) not in inside))
    trainable = FLOAT * count(parts)
    full = any(id(leaf) in inside and np.ndim(leaf) > 1 for leaf in jax.tree.leaves(parts[0].get("layers", [])))
    sizes = {
        "parameters": parameters,
        "gradients": trainable,
        "moments": 2 * trainable,
        "activations": activation_bytes(model.architecture, rows, length, settings, full),
    }
    return {
        **sizes,
        "predicted": sum(sizes.values()),
        "temporaries": temp,
        "measured": sizes["parameters"] + sizes["moments"] + temp,
    }


def compiled_step(
    model: Model,
    rows: int,
    length: int,
    settings: Train = Train(),
    *,
    trainable: Trainable = everything,
    adapters: Adapters | None = None,
) -> Any:
    """The compiled training step for `rows` texts of `length` tokens, for its memory analysis; nothing is run.

    Leaves may be `jax.ShapeDtypeStruct`: no weights are needed to know what training them takes. Classification only.
    """
    settings = settings.resolved(model.architecture, adapters is not None)
    abstract = lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), getattr(leaf, "dtype", np.float32))  # noqa: E731
    params = jax.tree.map(abstract, model.params)
    chosen, frozen = select(params, trainable)
    weights, scaling = ([], []) if adapters is None else jax.tree.map(abstract, tuple(adapters))
    variables = {"params": chosen, "adapters": weights}
    moments = jax.eval_shape(optimizer(settings, 100, 1e-4).init, variables)
    whole = lambda *shape: jax.ShapeDtypeStruct(shape, np.int32)  # noqa: E731
    batch = Batch(*[whole(rows, length)] * 4, *[whole(rows, 1)] * 2)  # type: ignore[arg-type]
    clock = jax.eval_shape(lambda: Clock(jnp.int32(0), jnp.int32(0), jnp.float32(0), jax.random.key(0)))
    return train_step.lower(
        State(variables, moments), Frozen(frozen, scaling, None), batch, whole(rows, 1),
        clock, architecture=model.architecture, settings=settings.of_program(),
    ).compile()  # fmt: skip
