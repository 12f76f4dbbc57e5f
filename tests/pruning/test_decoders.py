"""Pruning language models: every family, every method, and what is particular to next-token prediction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import BudgetError, DataError, SettingsError
from jaxprune.model.architecture import HALVES
from jaxprune.model.language import SLICE, next_token_losses, next_tokens, sampled_cotangents
from jaxprune.model.padded import plain_batch
from jaxprune.model.transformer import Sites, apply_head, forward, whole_forward, whole_losses
from jaxprune.pruning.cost import parameters
from jaxprune.pruning.cut import cut, gates_of, with_output_biases
from jaxprune.runtime.programs import Programs
from tests.finetuning.conftest import WORDS
from tests.helpers import tiny
from tests.helpers.decoders import language_model, settings

FAMILIES = ("opt", "gpt2", "llama", "mistral", "qwen2", "qwen3")
METHODS = {
    "kprune": (jp.kprune, jp.KPrune()),
    "gates": (jp.kprune, jp.KPrune(search="gates", refit=False)),
    "fisher": (jp.fisher, jp.Fisher()),
    "flap": (jp.flap, jp.Flap()),
    "wanda": (jp.flap, jp.Flap(criterion="wanda", compensate=False)),
    "taylor": (jp.taylor, jp.Taylor()),
    "random": (jp.random_prune, jp.Random(refit="weights")),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return language_model(tmp_path_factory.mktemp("base") / "model", "llama")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("text"), np.random.RandomState(0)
    for name, count in (("scored.txt", 300), ("calibration.txt", 900)):
        (folder / name).write_text(" ".join(random.choice(WORDS, count)))
    return jp.tasks.text(folder / "scored.txt", calibration=folder / "calibration.txt", length=32)


def ids_of(model, rows=2, length=7, seed=0):
    return np.random.RandomState(seed).randint(4, model.architecture.vocab, (rows, length))


# --- next-token prediction


def test_losses_are_those_of_the_logits(model):
    batch = plain_batch(model.architecture, ids_of(model), np.array([[1] * 7, [0, 0] + [1] * 5]))
    logits = whole_forward(model.params, batch, architecture=model.architecture)
    following, present = next_tokens(batch)
    expected = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), np.asarray(following)[..., None], 2)[..., 0]
    found = whole_losses(model.params, batch, architecture=model.architecture)
    assert np.asarray(present).sum() == 6 + 4
    np.testing.assert_allclose(found, np.where(present, expected, 0), rtol=1e-5, atol=1e-6)


def test_more_tokens_than_a_slice(model):
    """Whatever the slices, every token keeps its place."""
    rows = SLICE // 7 + 3
    batch = plain_batch(model.architecture, ids_of(model, rows))
    whole = whole_losses(model.params, batch, architecture=model.architecture)
    last = jax.tree.map(lambda leaf: leaf[-1:], batch)
    np.testing.assert_allclose(
        whole[-1:], whole_losses(model.params, last, architecture=model.architecture), rtol=1e-5, atol=1e-6
    )


def test_sampled_cotangents_are_the_fisher_information_in_expectation(model):
    """E[c cᵀ] = Jᵀ (diag p - p pᵀ) J for one token, J the logits' derivative by the stream; 4,000 draws."""
    a, batch = model.architecture, plain_batch(model.architecture, ids_of(model, 1, 3))
    hidden = forward(model.params, batch, a).hidden
    head = lambda x: apply_head(model.params, hidden.at[0, 1].set(x), batch, a)[0, 1]  # noqa: E731
    jacobian = jax.jacobian(head)(hidden[0, 1])
    p = jax.nn.softmax(head(hidden[0, 1]) / 2.0)
    expected = jacobian.T @ (jnp.diag(p) - jnp.outer(p, p)) @ jacobian
    draw = lambda key: sampled_cotangents(model.params, hidden, batch, a, 2.0, key)[0, 1]  # noqa: E731
    drawn = jax.lax.map(draw, jax.random.split(jax.random.key(0), 4000))
    found = drawn.T @ drawn / len(drawn)
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert np.abs(drawn.mean(0)).max() < 0.1 * np.sqrt(np.abs(expected).max())


# --- cutting


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_equals_cut_with_uneven_groups_and_empty_sublayers(family):
    model = tiny.random_model(settings(family))
    masks = [np.array(mask, bool) for mask in ([1, 0, 1], [1] * 4 + [0] * 6, [0, 0, 0], [0] * 10)]
    ids = ids_of(model)
    gates = jax.tree.map(jnp.asarray, gates_of(model.architecture, masks))
    gated = forward_with_gates(model, ids, gates)
    small = cut(model, masks)
    assert [(size.groups, size.neurons) for size in small.architecture.layers] == [(2, 4), (0, 0)]
    np.testing.assert_allclose(jp.logits(small, ids), gated, rtol=0, atol=1e-5 * np.abs(gated).max())


def forward_with_gates(model, ids, gates):
    batch = plain_batch(model.architecture, ids)
    return np.asarray(forward(model.params, batch, model.architecture, Sites(gates=gates)).logits)


def test_output_biases_change_nothing_until_they_are_set(model):
    biased = with_output_biases(model)
    ids = ids_of(model)
    np.testing.assert_array_equal(jp.logits(biased, ids), jp.logits(model, ids))
    assert biased.params["layers"][0]["attention"]["o"]["bias"].shape == (model.architecture.hidden,)


# --- methods


@pytest.mark.parametrize("name", METHODS)
def test_a_method_prunes_a_language_model_to_its_budget(name, model, task):
    function, chosen = METHODS[name]
    small, smaller = function(model, task.calibration(8, 0), [jp.Budget(r, cost="params") for r in (0.2, 0.5)], chosen)
    for pruned, least in ((small, 0.2), (smaller, 0.5)):
        record = pruned.provenance.record
        assert least <= record["removed"]["params"] < least + 0.35  # a unit of attention is a sixth of this model
        assert record["masked_vs_cut"] < 1e-5 and record["calibration"]["count"] == 8
        assert record["calibration"]["tokens"] == 8 * 32
        assert np.isfinite(jp.evaluate(pruned, task).score)


@pytest.mark.parametrize("family", FAMILIES)
def test_kprune_serves_every_family_and_its_folder_reloads(family, task, tmp_path):
    model = language_model(tmp_path / "model", family)
    small = jp.kprune(model, task.calibration(8, 0), jp.Budget(0.4, cost="params"))
    assert small.provenance.record["masked_vs_cut"] < 1e-5
    jp.save(small, tmp_path / "small")
    again = jp.load(tmp_path / "small")
    np.testing.assert_array_equal(jp.logits(again, ids_of(model)), jp.logits(small, ids_of(model)))
    assert jp.evaluate(again, task).score == jp.evaluate(small, task).score


def test_query_heads_leave_their_groups(task, tmp_path):
    """As many from every group of a layer; exact in the books, in the folder, and filled up with zeros."""
    model = language_model(tmp_path / "model", "llama", num_key_value_heads=2)
    calibration, shares = task.calibration(8, 3), (0.4, 0.6)
    budgets = [jp.Budget(share, cost="params") for share in shares]
    results = jp.kprune(model, calibration, budgets, jp.KPrune(query_heads=True))
    before = model.architecture.layers[0].queries
    assert any(size.groups and size.queries < before for small in results for size in small.architecture.layers)
    for share, small in zip(shares, results, strict=True):
        record = small.provenance.record
        assert record["masked_vs_cut"] < 1e-5 and record["settings"]["query_heads"]
        left = sum(np.size(leaf) for leaf in jax.tree.leaves(small.params))
        gone = sum(np.size(leaf) for leaf in jax.tree.leaves(model.params)) - left
        assert gone == round(record["removed"]["params"] * parameters(model.architecture)) and (
            share <= record["removed"]["params"] < share + 0.2
        )
        said = jp.logits(small, ids_of(model))
        jp.save(small, tmp_path / f"small-{share}")
        again = jp.load(tmp_path / f"small-{share}")
        np.testing.assert_array_equal(jp.logits(again, ids_of(model)), said)
        jp.export(again, tmp_path / f"full-{share}", fill_zeros=True)
        filled = jp.load(tmp_path / f"full-{share}")
        assert filled.architecture.layers == model.architecture.layers
        np.testing.assert_allclose(jp.logits(filled, ids_of(model)), said, rtol=1e-4, atol=1e-5)
    streamed = jp.kprune(model, calibration, budgets[0], jp.KPrune(query_heads=True), stream=True)
    jax.tree.map(np.testing.assert_array_equal, streamed.params, jax.tree.map(np.asarray, results[0].params))


def test_query_heads_where_they_cannot_leave(model, task):
    with pytest.raises(BudgetError, match="uniform keeps key-value groups whole"):
        budget = jp.Budget(0.4, cost="params", uniform=True)
        jp.kprune(model, task.calibration(8), budget, jp.KPrune(query_heads=True))
    with pytest.raises(SettingsError, match="query_heads needs search surgeon, got gates"):
        jp.KPrune(query_heads=True, search="gates")


@pytest.mark.parametrize("name", ["kprune", "fisher", "flap", "random"])
def test_uniform_layers_keep_the_budget(name, model, task):
    function, chosen = METHODS[name]
    calibration = task.calibration(8, 0)
    small = function(model, calibration, jp.Budget(0.4, cost="params", uniform=True, round_to=2), chosen)
    (size,) = set(small.architecture.layers)
    assert size.groups >= 1 and size.neurons % 2 == 0 and small.provenance.record["removed"]["params"] >= 0.4
    assert small.provenance.record["budget"]["uniform"] and small.provenance.record["masked_vs_cut"] < 1e-5
    small = function(model, calibration, jp.Budget(0.2, cost="params", uniform=True, keep_heads=True), chosen)
    assert {(size.groups, size.neurons < 10) for size in small.architecture.layers} == {(3, True)}


@pytest.mark.parametrize("family", FAMILIES)
def test_uniform_keeps_heads_that_an_export_can_write(family, task, tmp_path):
    """Of 3 groups of 2 heads, width 24: 4 divides it and 6 does; OPT and GPT-2 say no width of a head."""
    model = language_model(tmp_path / "model", family)
    fixed = family in ("opt", "gpt2")
    budget = jp.Budget(0.2 if fixed else 0.5, cost="params", uniform=True)
    small = jp.random_prune(model, task.calibration(8, 0), budget)
    (size,) = set(small.architecture.layers)
    assert size.groups == 3 if fixed else size.groups < 3
    jp.export(small, tmp_path / "out")
    np.testing.assert_allclose(
        jp.logits(jp.load(tmp_path / "out"), ids_of(model)), jp.logits(small, ids_of(model)), rtol=1e-5, atol=1e-6
    )


def test_uniform_layers_that_cannot_be(model, task):
    with pytest.raises(BudgetError, match="with at least 8 neurons in each of 2 layers fit into the budget"):
        jp.random_prune(model, task.calibration(8), jp.Budget(0.8, cost="params", uniform=True, round_to=8))
    uneven = jp.random_prune(model, task.calibration(8), jp.Budget(0.3, cost="params"))
    with pytest.raises(BudgetError, match="uniform needs a model whose layers are all alike"):
        jp.random_prune(uneven, task.calibration(8), jp.Budget(0.3, cost="params", uniform=True))
    with pytest.raises(BudgetError, match="keep_heads goes with uniform"):
        jp.Budget(0.3, keep_heads=True)


def test_the_refit_lowers_the_loss_that_cutting_raised(model, task):
    calibration, budget = task.calibration(24, 0), jp.Budget(0.4, cost="params")
    drift = {}
    dense = jp.logits(model, ids_of(model, 8, 32))
    for refit in (False, True):
        small = jp.kprune(model, calibration, budget, jp.KPrune(refit=refit))
        drift[refit] = float(np.mean((jp.logits(small, ids_of(model, 8, 32)) - dense) ** 2))
    assert drift[True] < drift[False]


def test_flap_writes_the_mean_of_what_goes_into_the_bias(model, task):
    plain, biased = (
        jp.flap(model, task.calibration(24, 0), jp.Budget(0.4, cost="params"), jp.Flap(compensate=compensate))
        for compensate in (False, True)
    )
    assert plain.architecture.layers == biased.architecture.layers
    assert "bias" not in plain.params["layers"][0]["feed_forward"]["down"]
    dense = jp.logits(model, ids_of(model, 8, 32))
    far = [float(np.mean((jp.logits(m, ids_of(model, 8, 32)) - dense) ** 2)) for m in (plain, biased)]
    assert far[1] < far[0]


def test_taylor_scores_are_gradients_times_weights(model):
    """Against a gradient of the plain logits' loss, without slices or rematerialisation."""
    from jaxprune.pruning.methods.taylor import summed_gradient, taylor_scores

    a, batch = model.architecture, plain_batch(model.architecture, ids_of(model))

    def loss(layers):
        whole = {**model.params, "layers": layers}
        return jnp.sum(next_token_losses(whole, forward(whole, batch, a).hidden, batch, a))

    expected = jax.grad(loss)(model.params["layers"])
    found = summed_gradient(model.params, a, [batch], Programs())
    halves = [layer[half] for layer in expected for half in HALVES]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), found, halves)
    scores = taylor_scores(model, found)
    p, g = (tree[0]["feed_forward"] for tree in (model.params["layers"], expected))
    by_hand = sum(np.abs(p[name]["kernel"] * g[name]["kernel"]).sum(0) for name in ("up", "gate"))
    by_hand = by_hand + np.abs(p["down"]["kernel"] * g["down"]["kernel"]).sum(1)
    np.testing.assert_allclose(scores[1], by_hand, rtol=1e-4)


def test_methods_that_do_not_fit_say_so(model, task):
    from jaxprune.assets import demo_data_path, demo_model_path

    classifier, texts = jp.load(demo_model_path()), jp.tasks.folder(demo_data_path())
    with pytest.raises(DataError, match="taylor is for language models, the head of this one is classification"):
        jp.taylor(classifier, texts.calibration(8), jp.Budget(0.5))
    with pytest.raises(DataError, match="the published K-prune is for classifiers"):
        jp.kprune(model, task.calibration(8), jp.Budget(0.5), jp.KPrune.presets()["published"])
    with pytest.raises(DataError, match="text needs a causal_lm head, the model has classification"):
        jp.evaluate(classifier, task)
