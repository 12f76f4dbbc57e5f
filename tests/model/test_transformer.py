import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.errors import DataError
from jaxprune.model import Architecture, Batch, LayerSizes, Model, Provenance, Sites, forward, logits, parameter_shapes
from jaxprune.model.architecture import HALVES
from jaxprune.model.padded import plain_batch
from jaxprune.model.transformer import DEEP, Outputs, scannable, stack, unstack
from jaxprune.pruning.cut import cut

EQUAL = (LayerSizes(groups=4, neurons=10),) * 3
RAGGED = (LayerSizes(groups=4, neurons=10), LayerSizes(groups=1, neurons=3), LayerSizes(groups=4, neurons=7))
EMPTY = (LayerSizes(groups=0, neurons=6), LayerSizes(groups=2, neurons=0), LayerSizes(groups=0, neurons=0))

BERT = Architecture(
    family="bert",
    vocab=30,
    hidden=12,
    head_width=3,
    layers=EQUAL,
    max_positions=16,
    token_types=2,
    pooler="tanh",
    head="classification",
    labels=("a", "b", "c"),
)
ROBERTA = dataclasses.replace(BERT, position_offset=2, positions_count="tokens", pad_id=1, token_types=0)
DECODER = dataclasses.replace(
    BERT,
    layers=(LayerSizes(groups=2, queries=2, neurons=10),) * 3,
    positions="none",
    token_types=0,
    norm="rms",
    norm_position="pre",
    embed_norm=False,
    activation="silu",
    gated=True,
    causal=True,
    attention_bias=False,
    feed_forward_bias=False,
    pooler="none",
    head="none",
    labels=(),
)
SPANS = dataclasses.replace(BERT, head="question_answering", pooler="none", labels=())
FAMILIES = {"bert": BERT, "roberta": ROBERTA, "decoder": DECODER, "spans": SPANS}

families = pytest.mark.parametrize("architecture", FAMILIES.values(), ids=FAMILIES.keys())


def random_model(architecture: Architecture, seed: int = 0) -> Model:
    random = np.random.RandomState(seed)
    shapes = parameter_shapes(architecture)
    draw = lambda shape: jnp.array(random.normal(0, 0.4, shape), jnp.float32)  # noqa: E731
    return Model(architecture, jax.tree.map(draw, shapes, is_leaf=lambda node: isinstance(node, tuple)))


def random_ids(rows: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(2, 30, (rows, length)).astype(np.int32)


@partial(jax.jit, static_argnames=("section", "taps"))
def run(model: Model, batch: Batch, gates=None, adapters=None, section=None, taps=False, stream=None) -> Outputs:
    return forward(model.params, batch, model.architecture, Sites(gates, adapters, section, taps), stream)


def close(actual, expected, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# --- texts


@families
def test_padding_never_changes_the_logits(architecture):
    model, ids = random_model(architecture), random_ids(2, 5)
    alone = logits(model, ids)
    for filler in (architecture.pad_id, 7):
        if filler == 7 and architecture is ROBERTA:
            continue  # RoBERTa tells padding by its id
        padded = np.full((2, 11), filler, np.int32)
        padded[:, :5] = ids
        mask = np.zeros((2, 11), np.int32)
        mask[:, :5] = 1
        out = logits(model, padded, mask)
        close(out if architecture.head == "classification" else out[:, :5], alone)


@families
def test_packed_segments_equal_separate_texts(architecture):
    model = random_model(architecture)
    texts = [random_ids(1, length, seed=number)[0] for number, length in enumerate((4, 6, 4))]
    length = 15
    ids, segments, positions = (np.zeros((1, length), np.int32) for _ in range(3))
    types = np.zeros((1, length), np.int32)
    starts, at = [], 0
    for number, text in enumerate(texts):
        here = slice(at, at + len(text))
        ids[0, here], segments[0, here], positions[0, here] = text, number + 1, np.arange(len(text))
        starts.append(at)
        at += len(text)
    packed = run(
        model, Batch(*map(jnp.asarray, (ids, segments, positions, types, np.array([starts]), np.array([[0, 1, 2]]))))
    ).logits
    assert packed is not None
    for number, text in enumerate(texts):
        alone = logits(model, text[None])[0]
        pick = number if architecture.head == "classification" else slice(starts[number], starts[number] + len(text))
        close(packed[0, pick], alone)


def test_a_causal_model_does_not_look_ahead_and_others_do():
    ids = random_ids(1, 8)
    other = ids.copy()
    other[0, 5] += 1 if other[0, 5] < 29 else -1
    for architecture, causal in ((DECODER, True), (dataclasses.replace(DECODER, causal=False), False)):
        model = random_model(architecture)
        before, after = logits(model, ids)[0, :5], logits(model, other)[0, :5]
        assert bool(jnp.allclose(before, after, atol=1e-6)) is causal


def test_roberta_positions_follow_the_pad_id_and_not_the_mask():
    batch = plain_batch(ROBERTA, np.array([[5, 6, 1, 1], [1, 5, 6, 7]]))
    np.testing.assert_array_equal(batch.positions, [[0, 1, -1, -1], [-1, 0, 1, 2]])


def test_inputs_that_do_not_fit_are_named():
    model = random_model(BERT)
    with pytest.raises(DataError, match=r"input_ids must be \[rows, length\]"):
        logits(model, np.zeros(4, np.int32))
    with pytest.raises(DataError, match=r"attention_mask has shape \(1, 3\), input_ids \(1, 4\)"):
        logits(model, np.zeros((1, 4), np.int32), np.ones((1, 3), np.int32))
    with pytest.raises(DataError, match="17 tokens do not fit the model's 16 positions"):
        logits(model, np.zeros((1, 17), np.int32))


@pytest.mark.parametrize("architecture", [BERT, ROBERTA], ids=["bert", "roberta"])
def test_logits_can_be_compiled_into_a_larger_program(architecture):
    model, ids = random_model(architecture), random_ids(2, 6)
    inputs = (ids, np.ones_like(ids), np.zeros_like(ids))
    for count in (1, 2, 3):
        traced = jax.jit(lambda *inputs: logits(model, *inputs))(*inputs[:count])
        np.testing.assert_allclose(traced, logits(model, *inputs[:count]), rtol=1e-5, atol=1e-6)
    with pytest.raises(DataError, match="17 tokens do not fit the model's 16 positions"):
        jax.jit(lambda ids: logits(model, ids))(np.zeros((1, 17), np.int32))


# --- sites


def test_a_gate_at_zero_is_the_sublayer_without_that_unit():
    model, batch = random_model(BERT), plain_batch(BERT, random_ids(2, 6))
    heads, neurons = np.array([True, False, True, False]), np.arange(10) % 3 != 0
    by_hand = []
    for layer in model.params["layers"]:
        a, f = layer["attention"], layer["feed_forward"]
        attention = {n: {"kernel": a[n]["kernel"][:, heads], "bias": a[n]["bias"][heads]} for n in "qkv"}
        attention |= {"o": {"kernel": a["o"]["kernel"][heads], "bias": a["o"]["bias"]}, "norm": a["norm"]}
        up = {"kernel": f["up"]["kernel"][:, neurons], "bias": f["up"]["bias"][neurons]}
        down = {"kernel": f["down"]["kernel"][neurons], "bias": f["down"]["bias"]}
        by_hand.append({"attention": attention, "feed_forward": {"up": up, "down": down, "norm": f["norm"]}})
    sizes = (LayerSizes(groups=2, neurons=int(neurons.sum())),) * 3
    small = Model(BERT.with_layers(sizes), {**model.params, "layers": by_hand})
    gate = {"attention": jnp.asarray(heads, jnp.float32)[:, None, None], "feed_forward": jnp.asarray(neurons, float)}
    gated = run(model, batch, gates=[gate] * 3).logits
    close(gated, run(small, batch).logits)
    assert not jnp.allclose(gated, run(model, batch).logits, atol=1e-3)


@pytest.mark.parametrize("layers", [EQUAL, RAGGED, EMPTY], ids=["equal", "ragged", "empty"])
@pytest.mark.parametrize("architecture", [BERT, DECODER], ids=["bert", "decoder"])
def test_taps_and_sections_agree_with_the_full_forward(architecture, layers):
    queries = architecture.layers[0].queries
    model = random_model(architecture.with_layers(tuple(dataclasses.replace(size, queries=queries) for size in layers)))
    batch = plain_batch(model.architecture, random_ids(2, 6))

    @jax.jit  # all in one program: compiling is what takes the time here
    def everything(model: Model, batch: Batch):
        plain, tapped = run(model, batch), run(model, batch, taps=True)
        rests = [run(model, batch, section=(first, 6), stream=tapped.streams[first]) for first in range(6)]
        ones = [
            run(model, batch, section=(first, first + 1), taps=True, stream=tapped.streams[first]) for first in range(6)
        ]
        return plain, tapped, rests, ones

    plain, tapped, rests, ones = everything(model, batch)
    close(tapped.logits, plain.logits)
    assert plain.streams == plain.features == ()
    assert len(tapped.streams) == len(tapped.features) == 6
    for index, size in enumerate(layers):
        assert tapped.features[2 * index].shape == (2, 6, size.groups, queries, 3)
        assert tapped.features[2 * index + 1].shape == (2, 6, size.neurons)
    for first, (rest, one) in enumerate(zip(rests, ones, strict=True)):
        close(rest.logits, plain.logits)
        close(one.hidden, plain.hidden if first == 5 else tapped.streams[first + 1])
        close(one.features[0], tapped.features[first])
        assert (one.logits is None) is (first < 5)


@families
def test_adapters_add_the_explicit_product(architecture):
    model, batch = random_model(architecture), plain_batch(architecture, random_ids(2, 6))
    random, rank, scale = np.random.RandomState(1), 2, 0.5
    adapters, changed = [], []
    for layer in model.params["layers"]:
        entry: dict = {half: {} for half in HALVES}
        new = {half: dict(layer[half]) for half in HALVES}
        for half, name in (("attention", "q"), ("attention", "o"), ("feed_forward", "up"), ("feed_forward", "down")):
            kernel = layer[half][name]["kernel"]
            inputs = kernel.shape[:-1] if name in ("o", "down") else kernel.shape[:1]
            outputs = kernel.shape[len(inputs) :]
            down = jnp.asarray(random.normal(size=(int(np.prod(inputs)), rank)), jnp.float32)
            up = jnp.asarray(random.normal(size=(rank, *outputs)), jnp.float32)
            entry[half][name] = (down, up, scale)
            product = scale * jnp.tensordot(down, up, axes=1).reshape(kernel.shape)
            new[half][name] = {**layer[half][name], "kernel": kernel + product}
        adapters.append(entry)
        changed.append(new)
    adapted = run(model, batch, adapters=adapters).logits
    explicit = run(model.replace(params={**model.params, "layers": changed}), batch).logits
    close(adapted, explicit, 1e-4)
    assert not jnp.allclose(adapted, run(model, batch).logits, atol=1e-2)


# --- layers


@families
def test_scanned_layers_equal_layers_written_out(architecture):
    deep = dataclasses.replace(architecture, layers=architecture.layers[:1] * DEEP)
    model, batch = random_model(deep), plain_batch(architecture, random_ids(2, 6))
    scanned = model.replace(params=scannable(model.params, model.architecture))
    close(run(scanned, batch).logits, run(model, batch).logits)
    tapped, looped = run(scanned, batch, taps=True), run(model, batch, taps=True)
    assert len(tapped.streams) == len(tapped.features) == 2 * DEEP
    jax.tree.map(close, tapped, looped)


def test_only_deep_models_of_equal_layers_are_scanned():
    """Fewer layers compile as fast written out, and need no second copy of their weights."""
    loops = {}
    for name, layers in (("deep", EQUAL[:1] * DEEP), ("shallow", EQUAL), ("ragged", RAGGED * DEEP)):
        model = random_model(BERT.with_layers(layers))
        model = model.replace(params=scannable(model.params, model.architecture))
        batch = plain_batch(model.architecture, random_ids(1, 4))
        loops[name] = str(jax.make_jaxpr(lambda batch, model=model: run(model, batch).logits)(batch)).count("scan[")
    assert loops == {"deep": 1, "shallow": 0, "ragged": 0}


def test_a_model_grown_by_silent_units_is_still_the_same_model():
    ragged = random_model(BERT.with_layers(RAGGED))
    filled = random_model(BERT.with_layers((LayerSizes(groups=4, neurons=10),) * 3), seed=1)
    layers = []
    for small, full in zip(ragged.params["layers"], filled.params["layers"], strict=True):
        layers.append(jax.tree.map(_filled, small, full))
        for half, name in (("attention", "o"), ("feed_forward", "down")):
            units = small[half][name]["kernel"].shape[0]
            kernel = layers[-1][half][name]["kernel"]
            layers[-1][half][name]["kernel"] = kernel.at[units:].set(0.0)
    grown = filled.replace(params={**ragged.params, "layers": layers})
    ids = random_ids(2, 6)
    close(logits(grown, ids), logits(ragged, ids))


def _filled(small, full):
    return full.at[tuple(slice(0, size) for size in small.shape)].set(small)


def test_stack_and_unstack_are_inverse():
    layers = random_model(BERT).params["layers"]
    back = unstack(stack(layers), len(layers))
    jax.tree.map(np.testing.assert_array_equal, back, layers)


def test_remat_changes_no_gradient():
    model = random_model(BERT.with_layers(EQUAL[:2]))
    batch = plain_batch(model.architecture, random_ids(2, 6))

    def loss(params, remat):
        return jnp.sum(forward(params, batch, model.architecture, remat=remat).logits ** 2)  # type: ignore[operator]

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    jax.tree.map(close, gradient(model.params, True), gradient(model.params, False))


@families
def test_layers_without_heads_or_neurons_add_only_their_bias(architecture):
    queries = architecture.layers[0].queries
    model = random_model(architecture.with_layers(tuple(dataclasses.replace(s, queries=queries) for s in EMPTY)))
    batch = plain_batch(model.architecture, random_ids(2, 6))
    out = run(model, batch, taps=True)
    assert np.isfinite(out.logits).all()
    update = out.streams[5] - out.streams[4]  # the attention of the last layer has no heads
    bias = model.params["layers"][2]["attention"]["o"].get("bias", jnp.zeros(architecture.hidden))
    if architecture.norm_position == "pre":
        close(update, jnp.broadcast_to(bias, update.shape))


def test_empty_layers_have_finite_gradients():
    model = random_model(BERT.with_layers(EMPTY))
    batch = plain_batch(model.architecture, random_ids(2, 6))
    gradient = jax.jit(jax.grad(lambda model: jnp.sum(run(model, batch).logits ** 2)))(model)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert float(jnp.abs(gradient.params["layers"][0]["attention"]["o"]["bias"]).max()) > 0


# --- the pytree


def test_a_model_is_a_pytree_for_jit_grad_and_map():
    model, ids = random_model(BERT), random_ids(2, 6)
    batch = plain_batch(BERT, ids)

    def loss(model: Model) -> jax.Array:
        return jnp.sum(run(model, batch).logits ** 2)  # type: ignore[operator]

    assert float(jax.jit(loss)(model)) == pytest.approx(float(loss(model)), rel=1e-5)
    gradient = jax.jit(jax.grad(loss))(model)
    assert isinstance(gradient, Model) and gradient.architecture == BERT
    assert float(jnp.abs(gradient.params["layers"][0]["attention"]["q"]["kernel"]).max()) > 0
    doubled = jax.tree.map(lambda leaf: 2 * leaf, model)
    np.testing.assert_array_equal(doubled.params["head"]["bias"], 2 * model.params["head"]["bias"])
    leaves, structure = jax.tree.flatten(model)
    assert structure.unflatten(leaves).architecture == BERT
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(model)[0]]
    assert ".params['layers'][0]['attention']['k']['bias']" in paths


def test_models_that_differ_only_in_provenance_share_one_program(compilations):
    model, batch = random_model(BERT), plain_batch(BERT, random_ids(2, 6))
    other = random_model(BERT, seed=1).replace(provenance=Provenance("elsewhere", {"method": "x"}, ("careful",)))
    first = run(model, batch).logits
    with compilations() as seen:
        second = run(other, batch).logits
    assert seen == []
    assert not jnp.allclose(first, second)
    smaller = cut(model, [np.arange(count) > 0 for count in (4, 10) * 3])
    with compilations() as seen:
        run(smaller, batch)
    assert len(seen) > 0


def test_a_model_is_shown_in_a_line():
    shape = Architecture(
        family="bert", vocab=20, hidden=16, head_width=8, layers=(LayerSizes(groups=2, neurons=24),), max_positions=12,
        token_types=1, pooler="none", head="none",
    )  # fmt: skip
    params = jax.tree.map(
        lambda shape: np.zeros(shape), parameter_shapes(shape), is_leaf=lambda node: isinstance(node, tuple)
    )
    numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    assert repr(Model(shape, params)) == f"Model(bert, 1 layers, {numbers:,} parameters)"
