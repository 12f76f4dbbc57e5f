"""What a training step needs, in bytes: predicted from sizes alone, and measured on the compiled program."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..model import Architecture, Batch, LayerSizes, Model
from .lora import Adapters, count
from .train import Clock, Frozen, State, Train, Trainable, everything, optimizer, select, train_step

FLOAT = 4  # bytes; weights, gradients and moments are float32


def activation_bytes(
    architecture: Architecture, rows: int, length: int, settings: Train, trained: float, gradients: int = 0
) -> int:
    """Intermediates of the layers that a backward pass reads, for `rows` rows of `length` tokens: an estimate.

    `trained` is the share of the weights that train. Numbers kept in a layer for a token: 5.4 a hidden unit, and 1.4
    more where the weights train; 3.2 a head and width (q, k, v, and what they mix); 1.35 a neuron, and 0.5 more; 3 for
    every pair of tokens of a head (attention weights before and after dropout; 1.9 without it). With `remat`: 7.1,
    4.4, 2.6 (and 2 more) and 2.7 of these in one layer at a time, and the residual stream at every layer, in whose
    place comes a part of the `gradients` (bytes). Fitted to the compiled step of BERT, 32 x 128 and 64 x 64, with its
    depth (3 to 14), width, heads and neurons varied, trained in full, in part and by adapters (CPU): what a step needs
    in all is then met within 8 %.
    """
    wide = FLOAT if settings.dtype == "float32" else FLOAT / 2
    tokens = rows * length // settings.accumulate

    def kept(size: LayerSizes, hidden: float, heads: float, neurons: float, pairs: float) -> float:
        mixed = heads * (size.queries + 1) / 2 * size.groups * architecture.head_width
        numbers = hidden * architecture.hidden + mixed + neurons * (1 + architecture.gated) * size.neurons
        return tokens * (wide * numbers + FLOAT * pairs * length * size.heads)

    if settings.remat:
        streams = wide * len(architecture.layers) * tokens * architecture.hidden
        one = (kept(size, 7.1, 4.4, 2.6 + 2 * trained, 2.7) for size in architecture.layers)
        return int(max(one, default=0) + max(0, streams - 0.44 * gradients))
    pairs = 1.9 if not settings.dropout else 3.0 if settings.dtype == "float32" else 3.5
    each = (kept(size, 5.4 + 1.4 * trained, 3.2, 1.35 + 0.5 * trained, pairs) for size in architecture.layers)
    return int(sum(each) + wide * tokens * 8.5 * architecture.hidden)


def training_bytes(model: Model, parts: Any, rows: int, length: int, settings: Train, temp: int) -> dict[str, int]:
    """Bytes of a training step by kind; `parts` holds the trainable leaves, `temp` is what the program needs besides.

    parameters, gradients and moments are exact; activations are a prediction. predicted is their sum; measured puts
    the compiled program's own temporaries in place of gradients and activations.
    """
    settings = settings.resolved(model.architecture, adapted=False)
    inside = {id(leaf) for leaf in jax.tree.leaves(model.params)}
    parameters = FLOAT * (count(model.params) + sum(np.size(x) for x in jax.tree.leaves(parts) if id(x) not in inside))
    trainable = FLOAT * count(parts)
    own = sum(np.size(leaf) for leaf in jax.tree.leaves(parts[0].get("layers", [])) if np.ndim(leaf) > 1)
    share = own / max(1, count(model.params["layers"]))
    sizes = {
        "parameters": parameters,
        "gradients": trainable,
        "moments": 2 * trainable,
        "activations": activation_bytes(model.architecture, rows, length, settings, share, trainable),
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
