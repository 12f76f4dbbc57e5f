"""Training: one jitted optax step on chosen leaves of a model.

A leaf that does not train has no gradient and no moments: it is a constant of the step, not a masked-out update.
There is no dropout: the forward pass takes no random key.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ..errors import DataError, NumericalError, SettingsError
from ..model import Architecture, Batch, Model, Params
from .losses import loss

Trainable = Callable[[str], bool]  # a leaf's path, such as "layers/0/attention/q/kernel" -> does it train?


@dataclass(frozen=True, kw_only=True)
class Train:
    """How to train: AdamW on a learning rate that rises linearly, then falls linearly to zero."""

    epochs: int = field(default=3, metadata={"help": "passes over the training texts"})
    learning_rate: float = field(default=5e-5, metadata={"help": "highest learning rate"})
    warmup: float = field(default=0.06, metadata={"help": "share of the steps over which the rate rises, in [0, 1)"})
    weight_decay: float = field(default=0.01, metadata={"help": "decoupled decay; not on norms and biases"})
    clip: float = field(default=1.0, metadata={"help": "largest norm of the whole gradient"})
    smoothing: float = field(default=0.0, metadata={"help": "label smoothing of single-label classes, in [0, 1)"})

    def __post_init__(self):
        if self.epochs < 1:
            raise SettingsError(f"epochs must be at least 1, got {self.epochs}.")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("warmup", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name} must lie in [0, 1), got {getattr(self, name)}.")
        if self.weight_decay < 0:
            raise SettingsError(f"weight_decay must not be negative, got {self.weight_decay}.")


class State(NamedTuple):
    """What one step changes."""

    params: Any  # the trainable leaves; None in place of every other
    moments: Any  # optax's state, for the same leaves


def everything(path: str) -> bool:
    """Train every leaf."""
    return True


def select(params: Params, trainable: Trainable) -> tuple[Params, Params]:
    """Split `params` into its trainable and its frozen leaves: two trees with None where the other has the leaf.

    >>> select({"head": {"bias": 1.0}, "embed": {"token": 2.0}}, lambda path: path.startswith("head/"))
    ({'embed': {'token': None}, 'head': {'bias': 1.0}}, {'embed': {'token': 2.0}, 'head': {'bias': None}})
    """
    chosen = jax.tree_util.tree_map_with_path(
        lambda path, _: trainable(jax.tree_util.keystr(path, simple=True, separator="/")), params
    )
    return (
        jax.tree.map(lambda leaf, yes: leaf if yes else None, params, chosen),
        jax.tree.map(lambda leaf, yes: None if yes else leaf, params, chosen),
    )


def merge(trainable: Params, frozen: Params) -> Params:
    """The inverse of `select`."""
    return jax.tree.map(lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda leaf: leaf is None)


def rate(step: ArrayLike, settings: Train, steps: ArrayLike) -> Float[Array, ""]:
    """The learning rate of step 0, 1, …, steps - 1: up to its highest in the warm-up, then down towards zero."""
    step, steps = jnp.asarray(step, jnp.float32), jnp.asarray(steps, jnp.float32)
    warmup = jnp.round(settings.warmup * steps)
    rise = (step + 1) / (warmup + 1)  # the first step already moves: a rate of zero there would waste its batch
    fall = (steps - step) / jnp.maximum(steps - warmup, 1)
    return settings.learning_rate * jnp.clip(jnp.minimum(rise, fall), 0.0, 1.0)


def optimizer(settings: Train, steps: ArrayLike) -> optax.GradientTransformation:
    """AdamW with clipping, for a run of `steps` steps."""
    return optax.chain(
        optax.clip_by_global_norm(settings.clip),
        optax.adamw(lambda step: rate(step, settings, steps), weight_decay=settings.weight_decay, mask=_decays),
    )


def _decays(params: Params) -> Params:
    """True on matrices, False on the biases and on the scales of the norms."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)


@partial(jax.jit, static_argnames=("architecture", "settings"), donate_argnums=0)
def train_step(
    state: State,
    frozen: Params,
    batch: Batch,
    targets: Array,
    steps: Array,
    *,
    architecture: Architecture,
    settings: Train,
) -> tuple[State, Float[Array, ""]]:
    """One step of a run of `steps`: the new state, and the loss before the step. Consumes `state`."""

    def objective(trainable: Params) -> Array:
        return loss(merge(trainable, frozen), batch, targets, architecture, settings.smoothing)

    value, gradient = jax.value_and_grad(objective)(state.params)
    updates, moments = optimizer(settings, steps).update(gradient, state.moments, state.params)
    return State(optax.apply_updates(state.params, updates), moments), value


def train(
    model: Model,
    batches: Callable[[int], Sequence[Batch]],
    targets: np.ndarray,
    settings: Train = Train(),
    *,
    trainable: Trainable = everything,
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> Model:
    """A copy of `model` whose leaves chosen by `trainable` have been trained; the others are shared with `model`.

    `batches(epoch)` gives the batches of an epoch; the first epoch's number sets the length of the schedule.
    `targets[i]` belongs to the example that the batches call i (`Batch.index`); `losses` says which shape it has.
    `on_step` gets {"phase": "train", "done", "of", "epoch", "loss"}.
    Raises NumericalError where a loss is not finite, naming the step; `model` itself is never touched.
    """
    _check(model, targets)
    chosen, frozen = select(model.params, trainable)
    if not jax.tree.leaves(chosen):
        raise SettingsError("no leaf of the model is trainable; `trainable` must accept at least one path.")
    chosen = jax.tree.map(jnp.array, chosen)  # copies: the step consumes its state, and the caller keeps the model
    first = batches(0)
    steps, done = settings.epochs * len(first), 0
    state = State(chosen, optimizer(settings, steps).init(chosen))
    for epoch in range(settings.epochs):
        for batch in first if epoch == 0 else batches(epoch):
            goal = targets[np.maximum(np.asarray(batch.index), 0)]
            state, value = train_step(
                state, frozen, batch, goal, np.int32(steps), architecture=model.architecture, settings=settings
            )
            done += 1
            if not np.isfinite(value):
                raise NumericalError(
                    f"the loss is {float(value)} at step {done} of {steps} (epoch {epoch}); lower the learning rate, "
                    f"now {settings.learning_rate}, or check the texts and the weights."
                )
            if on_step:
                on_step({"phase": "train", "done": done, "of": steps, "epoch": epoch, "loss": float(value)})
    # The loss is that before each step, so it says nothing about the last one.
    if not all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state.params)):
        raise NumericalError(f"step {steps} of {steps} left weights that are not finite; lower the learning rate.")
    return model.replace(params=merge(state.params, frozen))


def _check(model: Model, targets: np.ndarray) -> None:
    """Targets that cannot belong to the model's head are refused before the first step."""
    a = model.architecture
    if a.head == "none":
        raise DataError("the model has no task head, so there is no loss; load it with one (`labels=`).")
    wide = a.head == "question_answering" or a.problem == "multi_label"
    width = 2 if a.head == "question_answering" else len(a.labels)
    expected = (len(targets), width) if wide else (len(targets),)
    if targets.shape != expected:
        raise DataError(f"targets have shape {targets.shape}, the model's head needs {expected}.")
    if a.head == "classification" and a.problem == "single_label":
        bad = np.flatnonzero((targets < 0) | (targets >= width))
        if bad.size:
            raise DataError(f"label {targets[bad[0]]} of example {bad[0]} is not one of the model's {width} classes.")
