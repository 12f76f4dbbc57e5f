"""Families with switches of their own: derivatives, what is fitted, and that units leave as they are masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import BudgetError, SettingsError
from jaxprune.model.padded import plain_batch
from jaxprune.model.transformer import Sites, forward
from jaxprune.pruning.backward import empty_statistics, sweep_back, unit_width
from jaxprune.pruning.cut import cut, everything_kept, gates_of
from jaxprune.pruning.refit import follow
from jaxprune.pruning.refit_settings import Fit
from jaxprune.runtime.by_sublayer import advance
from jaxprune.runtime.programs import Programs
from tests.finetuning.conftest import WORDS, task, write_tokenizer  # noqa: F401  (a fixture)
from tests.helpers import tiny
from tests.helpers.decoders import language_model

FAMILIES = ("gemma3_text", "olmo2", "modernbert")
TEXTS = jp.Calibration.of_ids(np.random.RandomState(0).randint(4, 4 + len(WORDS), size=(16, 12)), None)
IDS = np.random.RandomState(1).randint(4, 4 + len(WORDS), size=(2, 12))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_way_back_is_the_derivative(family):
    model = tiny.random_model(tiny.config(family))
    a, batch = model.architecture, plain_batch(model.architecture, IDS[:1, :7] % 30)
    x = jnp.asarray(np.random.RandomState(2).normal(size=(1, 7, a.hidden)), jnp.float32)
    up = jnp.asarray(np.random.RandomState(3).normal(size=x.shape), jnp.float32)
    gates = jax.tree.map(jnp.asarray, gates_of(a, everything_kept(a)))

    def read(x, gates):
        section = (0, len(a.sublayers()))
        return jnp.vdot(up, forward(model.params, batch, a, Sites(gates, section=section), stream=x).hidden)

    expected, of_gates = jax.jit(jax.grad(read, argnums=(0, 1)))(x, gates)
    traces = []
    for at in a.sublayers():
        kind = a.of_layer(at.layer)
        x, trace = advance(at.of(model.params["layers"]), x, batch, half=at.half, architecture=kind)
        traces.append(trace)
    cotangent = up[None]
    for at in reversed(a.sublayers()):
        p = at.of(model.params["layers"])
        units = a.layers[at.layer].units[at.half]
        sums = empty_statistics(units, unit_width(p, at.half), a.hidden, grams=False, gates=True, blocks=False)[2:]
        static = {"half": at.half, "architecture": a.of_layer(at.layer), "floor": 0.0, "features": False}
        cotangent, sums, *_ = sweep_back(p, traces[at.index], batch, cotangent, sums, **static)
        slope = np.asarray(of_gates[at.layer][at.half]).reshape(-1)
        np.testing.assert_allclose(sums[1], slope**2, rtol=1e-3, atol=1e-6 * np.max(slope**2))
    np.testing.assert_allclose(cotangent[0], expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    return lambda family: language_model(tmp_path_factory.mktemp("base") / "model", family)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fit_of_all_units_changes_nothing(family):
    """Both streams leave every half as the model's own does: what is fitted is what its norm reads."""
    model = tiny.random_model(tiny.config(family))
    a = model.architecture
    batch = plain_batch(a, np.random.RandomState(1).randint(1, 30, size=(6, 12)))
    weights = [[batch.real.astype(jnp.float32)] * len(a.sublayers())]
    fitted, reports = follow(model, model.params, everything_kept(a), [batch], weights, Fit(), Programs())
    assert max(entry["residual"] for entry in reports) < 1e-5
    expected, got = (
        np.asarray(forward(jax.tree.map(jnp.asarray, entry.params), batch, a).hidden) for entry in (model, fitted)
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "family, budget",
    [
        ("gemma3_text", jp.Budget(0.3, cost="params")),
        ("olmo2", jp.Budget(0.3, cost="params", uniform=True, keep_heads=True)),
        ("modernbert", jp.Budget(0.3, cost="params")),
    ],
)
def test_a_method_prunes_to_its_budget(family, budget, model_of, tmp_path):
    small = jp.prune(model_of(family), TEXTS, budget)
    assert small.report.masked_vs_cut < 1e-5
    again = jp.load(jp.save(small, tmp_path / "small"))
    assert again.architecture == small.architecture
    np.testing.assert_array_equal(jp.logits(again, IDS), jp.logits(small, IDS))


def test_heads_that_are_normed_together_stay():
    model = tiny.random_model(tiny.config("olmo2"))
    with pytest.raises(
        BudgetError,
        match=r"in olmo2 models queries and keys are normed over all heads .*, Budget\(uniform=True, keep_hea",
    ):
        jp.prune(model, TEXTS, jp.Budget(0.3))
    masks = everything_kept(model.architecture)
    masks[0][1] = False
    with pytest.raises(SettingsError, match="so that none can leave without changing the others; remove neurons alone"):
        cut(model, masks)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    labels = {"id2label": {"0": "no", "1": "yes"}, "vocab_size": 4 + len(WORDS)}
    config = tiny.config("modernbert", **labels, max_position_embeddings=64)
    tiny.write(folder, config, {name: 0.5 * tensor for name, tensor in tiny.tensors(config).items()})
    write_tokenizer(folder)
    return jp.load(folder)


@pytest.mark.parametrize(
    "tune",
    [
        lambda base, texts: jp.prune_lora(base, texts, jp.PruneLora(remove_neurons=0.3), jp.Train(epochs=1)),
        lambda base, texts: jp.recap(base, texts, jp.Recap(rounds=2, remove=0.3, freeze=0.5)),
    ],
    ids=["prune-lora", "recap"],
)
def test_modernbert_is_tuned(tune, classifier, task, tmp_path):  # noqa: F811
    """Layers of two kinds, the first without a norm; the head has one."""
    tuned = tune(classifier, task)
    tuned = getattr(tuned, "model", tuned)
    assert np.isfinite(np.asarray(jp.logits(tuned, IDS))).all()
    assert tuned.architecture.attention == classifier.architecture.attention
    again = jp.load(jp.save(tuned, tmp_path / "tuned"))
    assert again.architecture == tuned.architecture


def test_a_new_head_starts_from_the_masked_language_models(tmp_path):
    """As transformers reads such a file: the dense layer and the norm before the classifier are those before words."""
    named = tiny.tensors(tiny.config("modernbert", "classification"))
    masked = {name: tensor for name, tensor in named.items() if not name.startswith("classifier.")}
    masked["decoder.bias"] = np.zeros(30, np.float32)
    settings = tiny.config("modernbert", "none", architectures=["ModernBertForMaskedLM"])
    model = jp.load(tiny.write(tmp_path / "model", settings, masked), head="classification", labels=2)
    np.testing.assert_array_equal(np.asarray(model.params["pooler"]["kernel"]).T, named["head.dense.weight"])
    np.testing.assert_array_equal(model.params["pooler"]["norm"]["scale"], named["head.norm.weight"])
    (warning,) = model.provenance.warnings
    assert "no weights for the classification head: " in warning
