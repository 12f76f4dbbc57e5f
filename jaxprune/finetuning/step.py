"""One jitted optax step on chosen leaves of a model.

A leaf that does not train has no gradient and no moments: it is a constant of the step, not a masked-out update.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ..model import Architecture, Batch, Dropout, Params, Sites
from ..model.transformer import Spread
from ..runtime.devices import Devices
from .lora import sites_of
from .losses import summed_losses, unit_count
from .narrow_moments import narrow_moments
from .settings import Train

ROUNDING = 2**31 - 1  # folded into a step's key: no layer, whose dropout folds its number, is so deep
Trainable = Callable[[str], bool]  # a leaf's path, such as "layers/0/attention/q/kernel" -> does it train?


class State(NamedTuple):
    """What one step changes."""

    params: Any  # {"params": …, "adapters": …}: the trainable leaves; None in place of every other
    moments: Any  # optax's state, for the same leaves


class Frozen(NamedTuple):
    """What no step changes."""

    params: Params  # the other leaves; None in place of the trainable ones
    scaling: Any  # of the adapters
    teacher: Params | None


class Clock(NamedTuple):
    """Where in the run a step is; all its randomness follows from it."""

    step: Array
    steps: Array
    highest: Array  # learning rate
    key: Array


def everything(path: str) -> bool:
    """Train every leaf."""
    return True


def path_of(path: tuple[Any, ...]) -> str:
    """A leaf's path as `Trainable` reads it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def select(params: Params, trainable: Trainable) -> tuple[Params, Params]:
    """Split `params` into its trainable and its frozen leaves: two trees with None where the other has the leaf.

    >>> select({"head": {"bias": 1.0}, "embed": {"token": 2.0}}, lambda path: path.startswith("head/"))
    ({'embed': {'token': None}, 'head': {'bias': 1.0}}, {'embed': {'token': 2.0}, 'head': {'bias': None}})
    """
    chosen = jax.tree_util.tree_map_with_path(lambda path, _: trainable(path_of(path)), params)
    return (
        jax.tree.map(lambda leaf, yes: leaf if yes else None, params, chosen),
        jax.tree.map(lambda leaf, yes: None if yes else leaf, params, chosen),
    )


def merge(trainable: Params, frozen: Params) -> Params:
    """The inverse of `select`."""
    return jax.tree.map(lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda leaf: leaf is None)


def rate(step: ArrayLike, settings: Train, steps: ArrayLike, highest: ArrayLike) -> Float[Array, ""]:
    """The learning rate of step 0, 1, …, steps - 1: up to `highest` in the warm-up, then down towards zero."""
    step, steps = jnp.asarray(step, jnp.float32), jnp.asarray(steps, jnp.float32)
    warmup = jnp.round(settings.warmup * steps)
    rise = (step + 1) / (warmup + 1)  # the first step already moves: a rate of zero there would waste its batch
    fall = (steps - step) / jnp.maximum(steps - warmup, 1)
    return jnp.asarray(highest, jnp.float32) * jnp.clip(jnp.minimum(rise, fall), 0.0, 1.0)


def optimizer(
    settings: Train, steps: ArrayLike, highest: ArrayLike, key: Array | None = None
) -> optax.GradientTransformation:
    """AdamW with clipping, for a run of `steps` steps at learning rates up to `highest`.

    `key` rounds moments that are kept in bfloat16; `init` needs none.
    """
    adam = optax.scale_by_adam()
    return optax.chain(
        optax.stateless(lambda gradient, _: clipped(gradient, settings.clip)),
        optax.chain(  # optax.adamw
            adam if settings.moments_dtype == "float32" else narrow_moments(adam, key),
            optax.add_decayed_weights(settings.weight_decay, _decays),
            optax.scale_by_learning_rate(lambda step: rate(step, settings, steps, highest)),
        ),
    )


def clipped(gradient: Any, limit: float) -> Any:
    """The gradient, scaled to a global norm of at most `limit`.

    By one factor: optax.clip_by_global_norm divides first, and XLA keeps what that gives for the update of both
    moments, a second copy of all gradients.
    """
    norm = optax.tree.norm(gradient)
    factor = jnp.minimum(1.0, limit / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
    return jax.tree.map(lambda leaf: factor * leaf, gradient)


def _decays(params: Params) -> Params:
    """True on matrices, False on the biases and on the scales of the norms."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not {"bias", "scale"}.intersection(path_of(path).split("/")), params
    )


@partial(jax.jit, static_argnames=("architecture", "settings", "teacher", "devices"), donate_argnums=0)
def train_step(
    state: State,
    frozen: Frozen,
    batch: Batch,
    targets: Array,
    clock: Clock,
    guide: Array | None = None,
    *,
    architecture: Architecture,
    settings: Train,
    teacher: Architecture | None = None,
    devices: Devices = Devices(),
) -> tuple[State, Float[Array, ""]]:
    """One step: the new state, and the mean loss over the batch's texts, of a language model over its learnt tokens,
    before the step. Consumes `state`.

    `guide` is what is known of a teacher that is not here (`summed_losses`). On the mesh of `devices` state and frozen
    leaves lie as `Devices.fetch` puts them, and so does the new state; rows of the batch as `Devices.rows` does.
    """
    spread = spread_over(devices)
    count, key = unit_count(batch, targets, architecture), jax.random.fold_in(clock.key, clock.step)

    def objective(trainable: Any, part: Batch, goal: Array, guide: Array | None, key: Array) -> Array:
        noise = Dropout(settings.dropout, key) if settings.dropout else None
        adapters: Any = trainable["adapters"] if spread is None else spread.whole(trainable["adapters"])
        total = summed_losses(
            merge(trainable["params"], frozen.params),
            part,
            goal,
            architecture,
            sites=Sites(adapters=sites_of(adapters, frozen.scaling), dropout=noise, spread=spread),
            smoothing=settings.smoothing,
            dtype=jnp.dtype(settings.dtype),
            teacher=None if teacher is None or frozen.teacher is None else (teacher, frozen.teacher),
            guide=guide,
            distillation=settings.distillation,
            remat=bool(settings.remat),
        )
        return total / count  # parts add up to the mean over the whole batch

    if settings.accumulate == 1:
        value, gradient = jax.value_and_grad(objective)(state.params, batch, targets, guide, key)
        gradient = devices.kept(gradient)
    else:
        # Part i takes rows i, i + parts, …: rows that lie on one device then stay there.
        count_of = lambda leaf: (len(leaf) // settings.accumulate, settings.accumulate)  # noqa: E731
        split = lambda leaf: jnp.moveaxis(leaf.reshape(*count_of(leaf), *leaf.shape[1:]), 1, 0)  # noqa: E731
        parts = jax.tree.map(split, (batch, targets, guide)), jax.random.split(key, settings.accumulate)

        def add(total: Any, entry: Any) -> tuple[Any, None]:
            (part, goal, guide), key = entry
            part_result = jax.value_and_grad(objective)(state.params, part, goal, guide, key)
            value, gradient = jax.tree.map(jnp.add, total, part_result)
            return (value, devices.kept(gradient)), None

        nothing = jnp.zeros(()), devices.kept(jax.tree.map(jnp.zeros_like, state.params))
        (value, gradient), _ = jax.lax.scan(add, nothing, parts)
    rule = optimizer(settings, clock.steps, clock.highest, jax.random.fold_in(key, ROUNDING))
    updates, moments = rule.update(gradient, state.moments, state.params)
    return devices.kept(State(optax.apply_updates(state.params, updates), moments)), value


def spread_over(devices: Devices) -> Spread | None:
    """How a forward pass is spread over the mesh of `devices`; None: over nothing."""
    if devices.mesh is None:
        return None
    gathered = lambda params: jax.tree.map(  # noqa: E731
        _gathered, devices.shardings(params, whole=True), devices.shardings(params), params
    )
    return Spread(devices.data, gathered)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gathered(whole: NamedSharding, kept: NamedSharding, leaf: Array) -> Array:
    """A weight to compute with. Its gradient goes to where the weight is kept: no device holds all of it."""
    return jax.lax.with_sharding_constraint(leaf, whole)


_gathered.defvjp(
    lambda whole, kept, leaf: (_gathered(whole, kept, leaf), None),
    lambda whole, kept, _, gradient: (jax.lax.with_sharding_constraint(gradient, kept),),
)


@jax.jit
def all_finite(tree: Any) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
