"""The training step: only the chosen leaves move, the losses are the textbook ones, and trouble is named."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from jaxprune.errors import DataError, NumericalError, SettingsError
from jaxprune.finetuning.lora import count
from jaxprune.finetuning.losses import mean_loss
from jaxprune.finetuning.settings import Train
from jaxprune.finetuning.step import Clock, Frozen, State, everything, merge, optimizer, select, train_step
from jaxprune.finetuning.train import train
from jaxprune.finetuning.training_bytes import compiled_step
from jaxprune.model import Architecture, Batch, LayerSizes, Model, forward, parameter_shapes
from jaxprune.runtime.memory import temp_bytes

TINY = Architecture(
    family="bert", vocab=20, hidden=16, head_width=8, max_positions=12, token_types=1, pooler="tanh",
    layers=(LayerSizes(groups=2, neurons=24),), head="classification", labels=("a", "b", "c"),
)  # fmt: skip
QUESTION = replace(TINY, head="question_answering", labels=(), pooler="none")
TEXTS = [[2, 5, 6, 3], [2, 7, 3], [2, 8, 9, 10, 11, 3], [2, 6, 5, 3], [2, 12, 3]]


def model_of(architecture: Architecture, seed: int = 0) -> Model:
    random = np.random.RandomState(seed)

    def leaf(path, shape):
        value = random.normal(0, 0.1, shape) if path[-1].key != "scale" else np.ones(shape)
        return jnp.asarray(value, jnp.float32)

    shapes = parameter_shapes(architecture)
    return Model(
        architecture, jax.tree_util.tree_map_with_path(leaf, shapes, is_leaf=lambda node: isinstance(node, tuple))
    )


def rows_of(texts, layout: list[list[int]], length: int = 12) -> Batch:
    """A batch whose row i holds the texts numbered layout[i], one behind the other."""
    rows, most = len(layout), max(map(len, layout))
    ids, segments, positions = (np.zeros((rows, length), np.int32) for _ in range(3))
    pool, index = np.zeros((rows, most), np.int32), np.full((rows, most), -1, np.int32)
    for row, numbers in enumerate(layout):
        start = 0
        for slot, number in enumerate(numbers):
            stop = start + len(texts[number])
            ids[row, start:stop], segments[row, start:stop] = texts[number], slot + 1
            positions[row, start:stop] = np.arange(stop - start)
            pool[row, slot], index[row, slot] = start, number
            start = stop
    return Batch(ids, segments, positions, np.zeros_like(ids), pool, index)  # type: ignore[arg-type]


PACKED = rows_of(TEXTS, [[0, 1], [2, 3], [4]])
APART = rows_of(TEXTS, [[0], [1], [2], [3], [4]])
FAST = Train(epochs=60, learning_rate=1e-2, weight_decay=0.0, dropout=0.0)  # one object for many tests: one compilation
CLASSES = np.array([0, 1, 2, 0, 1], np.int32)
TARGETS = {
    "single_label": (TINY, CLASSES),
    "multi_label": (replace(TINY, problem="multi_label"), np.eye(3, dtype=np.float32)[CLASSES]),
    "regression": (
        replace(TINY, problem="regression", labels=("score",)),
        np.array([0.5, -1, 2, 0.5, 1], np.float32),
    ),
    "question_answering": (QUESTION, np.array([[1, 2], [1, 1], [2, 4], [1, 2], [1, 1]], np.int32)),
}


@pytest.mark.parametrize("kind, parts", [*((kind, 1) for kind in TARGETS), ("single_label", 3)])
def test_a_teacher_elsewhere_teaches_the_same(kind, parts):
    """Logits in place of the model that says them, for every head."""
    architecture, targets = TARGETS[kind]
    student, teacher = (model_of(architecture, seed) for seed in (0, 1))
    settings = replace(FAST, distill=0.7, accumulate=parts).of_program()
    guide = forward(teacher.params, jax.tree.map(jnp.asarray, PACKED), architecture).logits
    found = []
    for there in (True, False):
        variables = {"params": jax.tree.map(jnp.array, student.params), "adapters": []}
        state = State(variables, optimizer(settings, 9, np.float32(1e-2)).init(variables))
        clock = Clock(jnp.int32(3), jnp.int32(9), jnp.float32(1e-2), jax.random.key(0))
        nothing = jax.tree.map(lambda leaf: None, student.params)
        arrays = PACKED, targets[np.maximum(PACKED.index, 0)], clock
        if there:
            frozen, more = Frozen(nothing, [], teacher.params), {"teacher": architecture}
        else:
            frozen, more, arrays = Frozen(nothing, [], None), {}, (*arrays, guide)
        found.append(train_step(state, frozen, *arrays, architecture=architecture, settings=settings, **more))
    (state, loss_there), (other, loss_elsewhere) = found
    np.testing.assert_allclose(loss_there, loss_elsewhere, rtol=1e-5)
    # Moments, not weights: Adam's first step is as large where a gradient is rounding errors.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7), state.moments, other.moments)
    assert float(loss_there) != pytest.approx(batch_loss(student, PACKED, targets), rel=1e-3)


def batch_loss(model: Model, batch: Batch, targets: np.ndarray, smoothing: float = 0.0) -> float:
    goal = jnp.asarray(targets[np.maximum(batch.index, 0)])
    return float(jax.jit(mean_loss, static_argnums=(3, 4))(model.params, batch, goal, model.architecture, smoothing))


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def textbook(problem: str, logits: np.ndarray, target) -> float:
    """The loss of one text in NumPy, from its own logits."""
    if problem == "question_answering":
        return -sum(log_softmax(logits[:, side])[target[side]] for side in range(2)) / 2
    if problem == "single_label":
        return -log_softmax(logits[0])[target]
    if problem == "regression":
        return (logits[0, 0] - target) ** 2
    chance = 1 / (1 + np.exp(-logits[0]))
    return -np.mean(target * np.log(chance) + (1 - target) * np.log(1 - chance))


@pytest.mark.parametrize("problem", TARGETS)
def test_loss_of_packed_texts_is_the_mean_of_the_textbook_losses(problem):
    architecture, targets = TARGETS[problem]
    model = model_of(architecture)
    logits = np.asarray(jax.jit(forward, static_argnums=2)(model.params, APART, architecture).logits)
    own = [logits[i, : len(text) if problem == "question_answering" else 1] for i, text in enumerate(TEXTS)]
    expected = np.mean([textbook(problem, *pair) for pair in zip(own, targets, strict=True)])
    # float32, one layer, logits of about 1: errors stay near 1e-6.
    np.testing.assert_allclose(batch_loss(model, PACKED, targets), expected, rtol=1e-5)


def test_smoothing_mixes_in_the_mean_over_all_classes():
    model = model_of(TINY)
    plain = batch_loss(model, PACKED, CLASSES)
    every = np.mean([batch_loss(model, PACKED, np.full(5, label, np.int32)) for label in range(3)])
    smoothed = batch_loss(model, PACKED, CLASSES, smoothing=0.3)
    np.testing.assert_allclose(smoothed, 0.7 * plain + 0.3 * every, rtol=1e-5)


@pytest.mark.parametrize("problem", TARGETS)
def test_training_learns_the_targets(problem):
    architecture, targets = TARGETS[problem]
    losses = []
    # All leaves train in one case only: their program takes seconds to compile.
    some = everything if problem == "single_label" else lambda path: path.startswith(("head/", "layers/0/attention/"))
    train(
        model_of(architecture),
        lambda epoch: [PACKED],
        targets,
        FAST,
        trainable=some,
        on_step=lambda event: losses.append(event["loss"]),
    )
    assert losses[-1] < 0.5 * losses[0], losses[::6]


def test_only_chosen_leaves_move_and_the_model_stays_usable():
    model = model_of(TINY)
    before = jax.tree.map(np.array, model.params)
    trained = train(
        model,
        lambda epoch: [PACKED],
        CLASSES,
        FAST,
        trainable=lambda path: path.startswith("head/") or path == "layers/0/attention/q/kernel",
    ).model
    moved = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(trained.params), strict=True
        )
        if not np.array_equal(old, new)
    }
    assert moved == {"head/kernel", "head/bias", "layers/0/attention/q/kernel"}
    assert trained.params["embed"]["token"] is model.params["embed"]["token"]  # frozen leaves are shared, not copied
    jax.tree.map(np.testing.assert_array_equal, model.params, before)  # neither donated nor changed


def test_moments_exist_for_chosen_leaves_only():
    model = model_of(TINY)
    chosen, _ = select(model.params, lambda path: path.startswith("head/"))
    moments = optimizer(Train(), 10, 1e-3).init(chosen)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(moments) if leaf.ndim)
    assert sizes == [3, 3, 48, 48]  # two moments of head/bias [3] and head/kernel [16, 3]


@given(st.sets(st.integers(0, 40)))
def test_merge_undoes_select(chosen):
    params = jax.tree.map(lambda shape: shape, parameter_shapes(TINY), is_leaf=lambda node: isinstance(node, tuple))
    numbered = jax.tree.unflatten(jax.tree.structure(params), range(len(jax.tree.leaves(params))))
    numbers = iter(range(10_000))
    trainable, frozen = select(numbered, lambda path: next(numbers) in chosen)
    assert merge(trainable, frozen) == numbered
    assert len(jax.tree.leaves(trainable)) + len(jax.tree.leaves(frozen)) == len(jax.tree.leaves(numbered))


def test_rate_rises_falls_to_zero_and_spares_norms_and_biases():
    params = {"kernel": np.full(3, 2.0, np.float32), "bias": np.full(3, 2.0, np.float32)}
    still = jax.tree.map(np.zeros_like, params)  # without a gradient only the decay moves a weight: rate * decay * 2
    steps, rule = 10, optimizer(Train(warmup=0.4, weight_decay=0.1), 10, 0.5)
    state, rates = rule.init(params), []
    for _ in range(steps + 1):
        updates, state = rule.update(still, state, params)
        bias, kernel = jax.tree.leaves(updates)
        rates.append(-float(kernel[0]) / (0.1 * 2.0))
        assert not np.any(bias)
    np.testing.assert_allclose(rates[:5], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-5)
    assert np.all(np.diff(rates[4:]) < 0)
    np.testing.assert_allclose(rates[-1], 0.0, atol=1e-7)


def test_gradient_is_clipped_to_its_norm():
    params = {"kernel": np.zeros(4, np.float32)}
    rule = optimizer(Train(clip=1.0, weight_decay=0.0), 10, 1e-3)
    state = rule.init(params)
    for scale in (10.0, 1000.0):
        _, after = rule.update({"kernel": np.full(4, scale, np.float32)}, state, params)
        first_moment = next(leaf for leaf in jax.tree.leaves(after) if leaf.shape == (4,))
        np.testing.assert_allclose(np.linalg.norm(first_moment), 0.1, rtol=1e-5)  # (1 - b1) * clip
    for gradient in (
        np.array([0.1, 0.0, -0.2, 0.3], np.float32),
        np.zeros(4, np.float32),
    ):  # short ones stay as they are
        _, after = rule.update({"kernel": gradient}, state, params)
        first_moment = next(leaf for leaf in jax.tree.leaves(after) if leaf.shape == (4,))
        np.testing.assert_allclose(first_moment, 0.1 * gradient, rtol=1e-6)


def test_the_update_holds_the_gradients_once():
    wide = replace(TINY, layers=(LayerSizes(groups=2, neurons=20_000),))
    model = Model(wide, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), model_of(wide).params))
    step = compiled_step(model, 1, 8, Train(dropout=0.0, remat=True))
    assert temp_bytes(step) < 1.7 * 4 * count(model.params)


def test_one_program_serves_all_steps(compilations):
    events = []
    with compilations() as seen:
        train(
            model_of(TINY),
            lambda epoch: [PACKED, PACKED],
            CLASSES,
            FAST,
            on_step=lambda event: events.append({**event, "compiled": len(seen)}),
        )
    assert (events[-1]["done"], events[-1]["of"], events[-1]["epoch"]) == (120, 120, 59)
    first, second, third, *_, last = (event["compiled"] for event in events)
    assert first == second and third == last
    assert third <= second + 1  # what looks for NaN when the first epoch ends, where no test before this one needed it


def test_training_is_repeatable():
    first, second = (train(model_of(TINY), lambda epoch: [PACKED], CLASSES, FAST) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first.model.params, second.model.params)


def test_a_loss_that_is_not_finite_names_the_step():
    model = model_of(TINY)
    params = jax.tree.map(lambda leaf: leaf, model.params)
    params["head"]["bias"] = params["head"]["bias"].at[1].set(np.nan)
    with pytest.raises(NumericalError, match="loss is nan at step 1 of 60"):
        train(model.replace(params=params), lambda epoch: [PACKED], CLASSES, FAST)


def test_a_last_step_that_overflows_is_an_error():
    with pytest.raises(NumericalError, match="step 1 of 1 left weights that are not finite"):
        train(
            model_of(TINY),
            lambda epoch: [PACKED],
            CLASSES,
            Train(epochs=1, learning_rate=1e38, weight_decay=1e30),
            trainable=lambda path: path.startswith("head/"),
        )


@pytest.mark.parametrize(
    "architecture, targets, message",
    [
        (TINY, np.array([0, 1, 3, 0, 1]), "label 3 of example 2 is not one of the model's 3 classes"),
        (TINY, np.array([0, 1, -1, 0, 1]), "label -1 of example 2"),
        (TINY, np.zeros((5, 3)), r"targets have shape \(5, 3\), the model's head needs \(5,\)"),
        (replace(TINY, problem="multi_label"), np.zeros((5, 2)), r"needs \(5, 3\)"),
        (QUESTION, np.zeros(5), r"needs \(5, 2\)"),
        (replace(TINY, head="none"), np.zeros(5), "no task head"),
    ],
)
def test_targets_that_do_not_fit_the_head_are_refused_before_the_first_step(architecture, targets, message):
    with pytest.raises(DataError, match=message):
        train(model_of(architecture), lambda epoch: pytest.fail("reached the data"), targets)


def test_nothing_trainable_is_refused():
    with pytest.raises(SettingsError, match="no leaf of the model is trainable"):
        train(model_of(TINY), lambda epoch: [PACKED], CLASSES, trainable=lambda path: False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"warmup": 1.0},
        {"smoothing": -0.1},
        {"clip": 0.0},
        {"weight_decay": -1.0},
    ],
)
def test_settings_outside_their_range_are_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(SettingsError, match=f"{name} must .*{value}"):
        Train(**wrong)
