"""One round's training on the device: only the trainable rows have gradients and moments."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ...errors import NumericalError
from ...model import Architecture, Batch, Params
from ...model.heads import head_of
from ...model.language import vocabulary
from ...runtime.placement import Placement, free
from ..losses import targets_of, unit_count
from ..masters import at_rest, in_types
from ..settings import Train
from ..step import Clock, Frozen, State, Trainable, all_finite, merge, optimizer, select, train_step
from ..taught import Taught
from .settings import Recap

BETAS = (0.9, 0.999)  # of optax's AdamW: what moments that did not train decay by, once a round


class AdamMoments(NamedTuple):
    """Adam's moments; shaped like the parameters they belong to, None in place of one that never trains."""

    first: Any
    second: Any


def trainable_of(settings: Recap, architecture: Architecture) -> Trainable:
    """Which leaves of a split model train, by their path."""
    new = _has_task_head(architecture)

    def trains(path: str) -> bool:
        if path.endswith(("/frozen", "/place")):
            return False
        if path.endswith("/trained") or settings.outer != "frozen":
            return True
        return new and path.startswith("head/")  # one that did not train would leave the rest without a goal

    return trains


def ever_trains(settings: Recap, architecture: Architecture) -> Trainable:
    """Which leaves of the full model train in some round: those that have moments."""
    new = _has_task_head(architecture)
    units = ("q", "k", "v", "o", "up", "gate", "down")

    def trains(path: str) -> bool:
        names = path.split("/")
        of_units = names[0] == "layers" and names[-2] in units and names[-2:] not in (["o", "bias"], ["down", "bias"])
        return settings.outer != "frozen" or of_units or (new and names[0] == "head")

    return trains


def _has_task_head(architecture: Architecture) -> bool:
    """False of a language model, whose head is its vocabulary: it counts with the embeddings."""
    return head_of(architecture).language is None


def zeros(params: Params, dtype: Any = np.float32) -> AdamMoments:
    """Moments before the first step."""
    return AdamMoments(*[jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), dtype), params) for _ in range(2)])


def as_state(chosen: Any, moments: AdamMoments, settings: Train, *, steps: int, done: int, since: int) -> State:
    """What `train_step` takes, from trainable leaves and their moments.

    `done` steps of the run lie behind, `since` of them since the moments were zero.
    """

    def fill(node: Any) -> Any:
        if isinstance(node, optax.ScaleByAdamState):
            typed = jax.tree.map(lambda leaf: np.asarray(leaf, settings.moments_dtype), moments)
            return node._replace(count=np.int32(since), mu=typed.first, nu=typed.second)
        if isinstance(node, optax.ScaleByScheduleState):
            return node._replace(count=np.int32(done))
        return node

    known = (optax.ScaleByAdamState, optax.ScaleByScheduleState)
    shapes = jax.eval_shape(optimizer(settings, steps, np.float32(0)).init, chosen)
    return State(chosen, jax.tree.map(fill, shapes, is_leaf=lambda node: isinstance(node, known)))


def moments_of(state: State) -> AdamMoments:
    """The moments in what `train_step` gives back."""
    states = [
        node
        for node in jax.tree.leaves(state.moments, is_leaf=lambda node: isinstance(node, optax.ScaleByAdamState))
        if isinstance(node, optax.ScaleByAdamState)
    ]
    return AdamMoments(states[0].mu, states[0].nu)


class Sent(NamedTuple):
    """What a round trains, on the device."""

    state: State
    there: Params  # what is frozen, in the type in which it rests
    again: Params  # the same, of which the host keeps what the result has in more bits


def send_round(
    parts: Params,
    moments: AdamMoments,
    architecture: Architecture,
    training: Train,
    settings: Recap,
    placement: Placement,
    *,
    types: Params,
    steps: int,
    done: int,
    since: int,
) -> Sent:
    """Bring a split model and the moments of what trains to the device, or the mesh; `parts` and `moments` are NumPy's.

    What is frozen goes in `training.frozen_dtype`; `types` are those of the model that is scored. The run is at step
    `done` of `steps`, `since` of them since the moments were zero.
    """
    chosen, frozen = select(parts, trainable_of(settings, architecture))
    state = as_state({"params": chosen, "adapters": []}, AdamMoments(*[{"params": m, "adapters": []} for m in moments]),
                     training, steps=steps, done=done, since=since)  # fmt: skip
    send = lambda tree: placement.to_device(tree, places=placement.of_weights(tree))  # noqa: E731
    sent, there = send(state), send(at_rest(frozen, training.frozen_dtype))

    def kept(dtype: np.dtype, rested: Any, whole: Any) -> Any:
        return rested if rested.dtype in (whole.dtype, dtype) else whole

    part = lambda dtype, *trees: jax.tree.map(partial(kept, dtype), *trees)  # noqa: E731
    return Sent(sent, there, jax.tree.map(part, types, there, frozen))


class TunedRound(NamedTuple):
    """A round's result, still on the device."""

    chosen: Params  # the trained leaves; None in place of every other
    frozen: Params  # the other ones, in the types of the result
    moments: AdamMoments  # of the trained leaves
    losses: list[float]  # of every step
    counts: list[float]  # of texts, or learnt tokens, that each step's loss is the mean of


def tune_round(
    sent: Sent,
    architecture: Architecture,
    epochs: Sequence[Callable[[], Sequence[Batch]]],
    targets: np.ndarray,
    training: Train,
    placement: Placement,
    taught: Taught | None = None,
    *,
    words: Params | None = None,
    types: Params,
    steps: int,
    done: int,
    on_step: Callable[[int, float], None],
) -> TunedRound:
    """Train what was sent to the device, or the mesh, for some epochs; step and rate go on from `done` of `steps`.

    What is frozen comes out in `types`, those of the model that is scored.

    `epochs` give their batches, `taught` what a teacher says of their texts. Of a language model the vocabulary is its
    teacher's too, unless that has `words` of its own.
    Raises `NumericalError` where a loss is not finite.
    """
    state, there, again = sent
    send = lambda tree: placement.to_device(tree, places=placement.of_weights(tree))  # noqa: E731
    rows_there = partial(placement.to_device, places=placement.rows)
    key = jax.device_put(jax.random.key(training.seed), placement.whole)
    highest, losses, counts = np.float32(training.learning_rate or 0), [], []
    static = {"architecture": architecture, "settings": training.of_program()}
    if placement.devices.mesh is not None:
        static["devices"] = placement.devices
    own = send(at_rest(words, training.frozen_dtype)) if words is not None else None
    lesson = own
    if taught is not None and head_of(architecture).language is not None:
        static["teacher"] = architecture
        lesson = vocabulary(there, architecture) if own is None else own
    constants, todo = Frozen(there, [], lesson), _arrays(epochs, targets, taught, architecture, counts)
    coming = rows_there(next(todo))
    while coming is not None:
        arrays, clock = coming, Clock(np.int32(done), np.int32(steps), highest, key)  # type: ignore[arg-type]
        batch, goal, *guide = arrays
        state, value = placement.programs(train_step, state, constants, batch, goal, clock, *guide, **static)
        # The device is at work: the next batch goes there before anything waits for this one's loss.
        following = next(todo, None)
        coming = None if following is None else rows_there(following, wait=False)
        losses.append(float(value))
        free(arrays)
        done += 1
        if not np.isfinite(losses[-1]):
            raise NumericalError(
                f"the loss is {losses[-1]} at step {done} of {steps}; lower the learning rate, now "
                f"{training.learning_rate}, or check the texts and the weights"
            )
        on_step(done, losses[-1])
    if not bool(all_finite(state.params)):
        raise NumericalError(f"step {done} of {steps} left weights that are not finite; lower the learning rate")
    free(own)
    final = moments_of(state)
    there = in_result_types(there, again, types, placement)
    return TunedRound(
        state.params["params"], there, AdamMoments(final.first["params"], final.second["params"]), losses, counts
    )


def in_result_types(there: Params, frozen: Params, types: Params, placement: Placement) -> Params:
    """What was `frozen`, on the device in `types`, from what rested `there`, which is consumed.

    It is sent again only where it was rounded to another type.
    """

    def leaf(dtype: np.dtype, rested: Any, whole: Any) -> Any:
        if rested.dtype in (whole.dtype, dtype):
            return in_types(rested, dtype, free)
        place = rested.sharding
        free(rested)
        return placement.to_device(in_types(whole, dtype), places=place)

    part = lambda dtype, *trees: jax.tree.map(partial(leaf, dtype), *trees)  # noqa: E731
    return jax.tree.map(part, types, there, frozen)


def _arrays(
    epochs: Sequence[Callable[[], Sequence[Batch]]],
    targets: np.ndarray,
    taught: Taught | None,
    architecture: Architecture,
    counts: list[float],
) -> Iterator[tuple[Any, ...]]:
    """What a step reads of every batch: itself, its targets and, where there is a teacher, what that says of it.

    Adds what its loss is the mean of to `counts`.
    """
    for batches in epochs:
        for batch in batches():
            goal = targets_of(batch, targets)
            counts.append(float(unit_count(batch, goal, architecture)))
            yield (batch, goal) if taught is None else (batch, goal, taught.of(batch))


def whole_parts(tuned: TunedRound) -> Params:
    """The split model that was tuned, on the device."""
    return merge(tuned.chosen, tuned.frozen)


def decayed(moments: Any, beta: float) -> Any:
    """Moments of one kind after a round in which they did not train."""
    return jax.tree.map(lambda leaf: (leaf * np.asarray(beta, np.float32)).astype(leaf.dtype), moments)


def in_float32(moments: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), moments)
