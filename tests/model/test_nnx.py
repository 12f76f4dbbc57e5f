import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprune.errors import CheckpointError
from jaxprune.model import Architecture, LayerSizes, Model, Provenance, logits, parameter_shapes
from jaxprune.model.nnx import from_nnx, to_nnx

EQUAL = (LayerSizes(groups=2, neurons=6),) * 2
RAGGED = (LayerSizes(groups=2, neurons=6), LayerSizes(groups=0, neurons=1))


def random_model(layers=RAGGED, **changes) -> Model:
    settings: dict = {"head": "classification", "labels": ("a", "b"), "pooler": "tanh", "token_types": 2} | changes
    architecture = Architecture(
        family="bert", vocab=20, hidden=8, head_width=4, layers=layers, max_positions=16, **settings
    )
    random = np.random.RandomState(0)
    shapes = parameter_shapes(architecture)
    params = jax.tree.map(
        lambda shape: random.normal(0, 0.4, shape).astype(np.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )
    return Model(architecture, params, Provenance("somewhere", {"method": "none"}, ("careful",)))


IDS = np.array([[2, 3, 4, 5, 6], [7, 8, 9, 0, 0]], np.int32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
TYPES = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]], np.int32)


@pytest.mark.parametrize("layers", [EQUAL, RAGGED], ids=["equal", "ragged"])
def test_the_module_gives_the_same_logits(layers):
    model = random_model(layers)
    module = to_nnx(model)
    np.testing.assert_array_equal(module(IDS, MASK, TYPES), logits(model, IDS, MASK, TYPES))
    np.testing.assert_array_equal(module(IDS), logits(model, IDS))


def test_the_round_trip_is_exact():
    model = random_model()
    assert from_nnx(to_nnx(model)).provenance.dropped and "somewhere" not in str(nnx.graphdef(to_nnx(model)))
    back = from_nnx(to_nnx(model)).with_notes_of(model)
    assert back.architecture == model.architecture
    assert (back.provenance.source, back.provenance.record) == ("somewhere", {"method": "none"})
    assert back.provenance.warnings == ("careful",)
    assert jax.tree.structure(back) == jax.tree.structure(model)
    jax.tree.map(np.testing.assert_array_equal, back.params, model.params)


def test_split_and_merge():
    model = random_model()
    graph, state = nnx.split(to_nnx(model))
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(model.params))
    np.testing.assert_array_equal(nnx.merge(graph, state)(IDS, MASK), logits(model, IDS, MASK))
    assert graph == nnx.split(to_nnx(random_model()))[0]
    assert graph != nnx.split(to_nnx(random_model(EQUAL)))[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positions_count": "tokens", "position_offset": 1, "token_types": 0},
        {"head": "question_answering", "labels": (), "pooler": "none"},
    ],
    ids=["bert", "roberta", "spans"],
)
def test_traced_ids_give_what_plain_ids_give(changes):
    model = random_model(**changes)
    call = nnx.jit(lambda module, *inputs: module(*inputs))
    for inputs in ((IDS,), (IDS, MASK), (IDS, MASK, TYPES)):
        traced = call(to_nnx(model), *map(jnp.asarray, inputs))
        np.testing.assert_allclose(traced, logits(model, *inputs), rtol=1e-5, atol=1e-6)


def test_a_gradient_step_changes_the_module_and_not_the_model():
    model = random_model()
    before = jax.tree.map(np.array, model.params)
    module = to_nnx(model)

    @nnx.jit
    def step(module):
        gradients = nnx.grad(lambda module: jnp.sum(module(IDS, MASK) ** 2))(module)
        parameters = nnx.state(module, nnx.Param)
        nnx.update(module, jax.tree.map(lambda p, g: p - 0.01 * g, parameters, gradients))

    step(module)
    trained = from_nnx(module)
    assert not np.allclose(trained.params["head"]["kernel"], before["head"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, model.params, before)
    assert float(jnp.sum(module(IDS, MASK) ** 2)) < float(jnp.sum(logits(model, IDS, MASK) ** 2))


def test_parameters_have_readable_names():
    module = to_nnx(random_model())
    assert module.layers[0].attention.q.kernel.shape == (8, 2, 1, 4)  # type: ignore[attr-defined]


def test_other_modules_and_changed_shapes_are_refused():
    with pytest.raises(CheckpointError, match="Linear is no module that to_nnx made"):
        from_nnx(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    module = to_nnx(random_model())
    module.layers[0].feed_forward.up.bias = nnx.Param(jnp.zeros(3))  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"layers\.0\.feed_forward\.up\.bias has shape \(3,\).*\(6,\)"):
        from_nnx(module)
    module = to_nnx(random_model())
    del module.head  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"head\.bias has shape none \(missing\)"):
        from_nnx(module)
