"""Pruning classifiers on decoders: every family and method, with labels of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError
from jaxprune.model.padded import plain_batch
from jaxprune.model.transformer import Sites, forward, whole_forward
from jaxprune.pruning.cut import cut, gates_of
from tests.finetuning.conftest import WORDS
from tests.helpers import tiny
from tests.helpers.decoders import classifier, settings

FAMILIES = ("opt", "gpt2", "llama", "mistral", "qwen2", "qwen3")
METHODS = {
    "kprune": jp.KPrune(),
    "published": jp.KPrune.presets()["published"],
    "gates": jp.KPrune(search="gates"),
    "fisher": jp.Fisher(),
    "magnitude": jp.Magnitude(),
    "flap": jp.Flap(),
    "random": jp.Random(refit="weights"),
}
HEADS = {
    "single_label": (("a", "b", "c"), {}),
    "multi_label": (("a", "b", "c"), {"problem_type": "multi_label_classification"}),
    "regression": (("score",), {}),
}
BUDGET = jp.Budget(0.4, cost="params")


def texts(count=24, pairs=False):
    random = np.random.RandomState(0)
    drawn = [" ".join(random.choice(WORDS, random.randint(2, 9))) for _ in range(2 * count)]
    return jp.Calibration.of_texts(drawn[:count], drawn[count:] if pairs else None)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return classifier(tmp_path_factory.mktemp("base") / "model", "llama")


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_equals_cut_with_uneven_groups_and_empty_sublayers(family):
    model = tiny.random_model(settings(family, head="classification", pad_token_id=0))
    masks = [np.array(mask, bool) for mask in ([1, 0, 1], [1] * 4 + [0] * 6, [0, 0, 0], [0] * 10)]
    ids = np.random.RandomState(0).randint(0, 5, (3, 7))  # some of it padding
    batch = plain_batch(model.architecture, ids, np.array([[1] * 7, [0] * 3 + [1] * 4, [1] * 2 + [0] * 5]))
    gates = jax.tree.map(jnp.asarray, gates_of(model.architecture, masks))
    gated = np.asarray(forward(model.params, batch, model.architecture, Sites(gates=gates)).logits)
    small = cut(model, masks)
    found = whole_forward(jax.tree.map(jnp.asarray, small.params), batch, architecture=small.architecture)
    np.testing.assert_allclose(found, gated, rtol=0, atol=1e-5 * np.abs(gated).max())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_prunes_a_classifier_to_its_budget(name, model, tmp_path):
    small = jp.prune(model, texts(), BUDGET, METHODS[name])
    record = small.provenance.record
    assert 0.4 <= record["removed"]["params"] < 0.75  # a unit of attention is a sixth of this model
    assert record["masked_vs_cut"] < 1e-5 and record["calibration"]["count"] == 24
    jp.save(small, tmp_path / "small")
    again, ids = jp.load(tmp_path / "small"), np.arange(8)[None] + 3
    np.testing.assert_array_equal(jp.logits(again, ids), jp.logits(small, ids))
    jp.export(again, tmp_path / "full", fill_zeros=True)
    np.testing.assert_allclose(jp.logits(jp.load(tmp_path / "full"), ids), jp.logits(again, ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "problem"), list(zip(FAMILIES, 2 * tuple(HEADS), strict=True)))
def test_kprune_serves_every_family_and_kind_of_label(family, problem, tmp_path):
    labels, changes = HEADS[problem]
    model = classifier(tmp_path / "model", family, labels, **changes)
    assert model.architecture.problem == problem
    small = jp.kprune(model, texts(), BUDGET)
    assert small.provenance.record["masked_vs_cut"] < 1e-5
    assert small.architecture.pool == "last" and small.architecture.layers != model.architecture.layers


def test_streamed_weights_give_the_same_model(model):
    whole = jp.kprune(model, texts(), BUDGET, jp.KPrune(query_heads=True))
    streamed = jp.kprune(model, texts(), BUDGET, jp.KPrune(query_heads=True), stream=True)
    assert streamed.architecture == whole.architecture
    jax.tree.map(np.testing.assert_array_equal, streamed.params, jax.tree.map(np.asarray, whole.params))


def test_only_the_last_token_reaches_the_last_layers_neurons(model):
    """What decides is the token that is read: a text's others do not move the logits from the last feed-forward on."""
    a, ids = model.architecture, np.array([[5, 6, 7, 8]])
    batch, last = plain_batch(a, ids), len(a.sublayers()) - 1
    x = jnp.asarray(np.random.RandomState(0).normal(size=(1, 4, a.hidden)), jnp.float32)
    said = lambda x: np.asarray(forward(model.params, batch, a, Sites(section=(last, last + 1)), x).logits)  # noqa: E731
    np.testing.assert_array_equal(said(x.at[:, :3].add(1.0)), said(x))
    assert np.abs(said(x.at[:, 3, 0].add(1.0)) - said(x)).max() > 1e-3


def test_pairs_are_one_text_where_nothing_separates_them(tmp_path):
    """Letters of Qwen2, whose tokenizer adds no token of its own."""
    model = classifier(tmp_path / "model", "qwen2")
    small = jp.kprune(model, texts(pairs=True), BUDGET)
    assert sum("puts nothing between the two texts of a pair" in said for said in small.provenance.warnings) == 1
    told = jp.kprune(classifier(tmp_path / "separated", "llama"), texts(pairs=True), BUDGET).provenance.warnings
    assert not any("pair" in said for said in told)


def test_taylor_needs_next_tokens(model):
    with pytest.raises(DataError, match="taylor is for language models, the head of this one is classification; use"):
        jp.taylor(model, texts(), BUDGET)


def test_a_text_without_tokens_is_named(tmp_path):
    model = classifier(tmp_path / "model", "qwen2")
    examples = tuple(jp.Example(text, None, number % 2) for number, text in enumerate(["film", "", "book"]))
    task = jp.Task("made", "single_label", ("no", "yes"), "accuracy", examples, examples, "here")
    with pytest.raises(DataError, match="text 1 has no tokens; drop it"):
        jp.evaluate(model, task)
