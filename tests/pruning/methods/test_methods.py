"""Every method on the embedded model: budgets, records, and each method's own claim."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.assets import demo_data_path, demo_model_path
from jaxprune.errors import BudgetError, DataError, NumericalError, SettingsError
from jaxprune.model import Architecture, LayerSizes, Provenance
from jaxprune.pruning.cost import flops, removed
from jaxprune.pruning.methods.fisher import fisher_masks, rearrange
from jaxprune.pruning.methods.magnitude import weight_norms
from jaxprune.pruning.refit_settings import kind_of
from jaxprune.tokens.tokenizer import Tokenizer
from jaxprune.tokens.windows import encode_calibration

METHODS = {
    "kprune": (jp.kprune, jp.KPrune()),
    "published": (jp.kprune, jp.KPrune.presets()["published"]),
    "gates": (jp.kprune, jp.KPrune(search="gates")),
    "fisher": (jp.fisher, jp.Fisher()),
    "magnitude": (jp.magnitude, jp.Magnitude()),
    "random": (jp.random_prune, jp.Random(refit="weights")),
}


@pytest.fixture(scope="module")
def demo():
    return jp.load(demo_model_path()), jp.tasks.folder(demo_data_path())


@pytest.fixture(scope="module")
def calibration(demo):
    return demo[1].calibration(96, seed=0)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_keeps_its_budget_and_its_promises(name, demo, calibration):
    model = demo[0]
    function, settings = METHODS[name]
    small = function(model, calibration, jp.Budget(0.5, length=16), settings)
    record = small.provenance.record
    assert 0.5 <= record["removed"]["flops"] < 0.56  # never less than asked; the published rule leaves ties unused
    assert flops(small.architecture, 16) <= flops(model.architecture, 16) // 2
    assert record["removed"] == removed(model.architecture, small.architecture, 16)
    assert record["masked_vs_cut"] < 1e-5
    for size, kept, layer in zip(small.architecture.layers, record["kept"], small.params["layers"], strict=True):
        assert len(kept["heads"]) == size.heads and len(kept["neurons"]) == size.neurons
        assert layer["feed_forward"]["down"]["kernel"].shape[0] == size.neurons
    assert {"phases", "seconds", "dense_forwards", "peak_bytes", "calibration", "warnings"} <= record.keys()


@pytest.fixture(scope="module")
def by_seed(demo, calibration):
    """Validation scores at 80 % removed."""
    model, task = demo
    budget = jp.Budget(0.8, length=16)

    def score(function, settings):
        return jp.evaluate(function(model, calibration, budget, settings), task, limit=400).score

    return score


def test_the_refit_is_worth_something(by_seed):
    assert by_seed(jp.kprune, jp.KPrune()) > by_seed(jp.kprune, jp.KPrune(refit=False)) + 0.03


def test_scores_beat_chance_choices(by_seed):
    chosen = by_seed(jp.kprune, jp.KPrune())
    assert chosen > by_seed(jp.random_prune, jp.Random(refit="weights"))
    assert chosen > by_seed(jp.magnitude, jp.Magnitude()) + 0.05


def test_several_budgets_from_one_pass_equal_one_at_a_time(demo, calibration):
    model = demo[0]
    budgets = [jp.Budget(0.3, length=16), jp.Budget(0.7, cost="params")]
    together = jp.kprune(model, calibration, budgets)
    assert together[1].provenance.record["reused"]
    alone = jp.kprune(model, calibration, budgets[1])
    assert alone.architecture == together[1].architecture
    same = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), alone.params, together[1].params)
    assert all(jax.tree.leaves(same))


def test_compilations_do_not_grow_with_depth(demo, calibration, compilations):
    model = demo[0]
    few = dataclasses.replace(calibration, examples=calibration.examples[:64])

    def deep(layers: int):
        repeated = [model.params["layers"][index % 4] for index in range(layers)]
        architecture = model.architecture.with_layers((model.architecture.layers[0],) * layers)
        return model.replace(architecture=architecture, params={**model.params, "layers": repeated})

    counts = []
    for layers in (5, 10):
        architecture_bound = deep(layers)
        with compilations() as seen:
            jp.magnitude(architecture_bound, few, jp.Budget(0.4, length=16), jp.Magnitude(refit="weights"))
        counts.append(len(seen))
    # The architecture is a static argument, so a second depth compiles its own programs: as many, not twice as many.
    assert counts[1] <= counts[0] + 2


def test_round_to_keeps_multiples_within_budget(demo, calibration):
    small = jp.magnitude(demo[0], calibration, jp.Budget(0.5, length=16, round_to=16))
    assert all(size.neurons % 16 == 0 for size in small.architecture.layers)
    assert small.provenance.record["removed"]["flops"] >= 0.5


def test_nan_weights_are_named(demo, calibration):
    model = demo[0]
    broken = model.replace(params=jax.tree.map(lambda leaf: leaf, model.params))
    broken.params["layers"][1]["attention"]["q"]["bias"] = jnp.full_like(
        model.params["layers"][1]["attention"]["q"]["bias"], jnp.nan
    )
    with pytest.raises(NumericalError, match="layers.1.attention.q.bias"):
        jp.kprune(broken, calibration, jp.Budget(0.5))


def test_budgets_and_settings_out_of_range(demo, calibration):
    with pytest.raises(BudgetError, match="To remove 40 % pass 0.4"):
        jp.Budget(40.0)
    with pytest.raises(BudgetError):
        jp.kprune(demo[0], calibration, jp.Budget(0.9999999, length=16))
    with pytest.raises(SettingsError, match="temperature"):
        jp.KPrune(temperature=0.0)
    with pytest.raises(SettingsError, match="refit"):
        kind_of("glue")  # the type checker of the tests would refuse Fisher(refit="glue") first
    with pytest.raises(DataError):
        jp.Calibration.of_texts([])


@pytest.mark.slow
def test_token_ids_prune_as_their_texts_do_and_need_no_tokenizer(demo, calibration):
    model, budget = demo[0], jp.Budget(0.5, length=16)
    encoded = encode_calibration(Tokenizer.of(model), calibration)
    given = jp.Calibration.of_ids(encoded.ids, None, types=encoded.types)
    bare = model.replace(provenance=Provenance())  # no source, so no tokenizer
    ours, theirs = jp.flap(bare, given, budget), jp.flap(model, calibration, budget)
    assert ours.provenance.record["kept"] == theirs.provenance.record["kept"]
    record, texts = ours.provenance.record["calibration"], theirs.provenance.record["calibration"]
    assert (record["count"], record["tokens"]) == (texts["count"], texts["tokens"])
    planned, known = (jp.plan(one, texts, budget).calibration for one, texts in ((bare, given), (model, calibration)))
    assert planned == known
    with pytest.raises(DataError, match="token types run from 0 to 9, the model has 2"):
        wrong = jp.Calibration.of_ids([[5, 6]], None, types=[[0, 9]])
        jp.magnitude(bare, wrong, budget)
    with pytest.raises(DataError, match="token ids run from 5 to 99999999999"):
        jp.magnitude(bare, jp.Calibration.of_ids([[5, 99999999999]], None), budget)


def test_published_needs_a_head(demo, calibration):
    bare = dataclasses.replace(demo[0].architecture, head="none", pooler="none", labels=())
    params = {name: value for name, value in demo[0].params.items() if name not in ("pooler", "head")}
    model = demo[0].replace(architecture=bare, params=params)
    with pytest.raises(DataError, match="is for classifiers and question answering"):
        jp.kprune(model, calibration, jp.Budget(0.5, length=16), jp.KPrune.presets()["published"])
    small = jp.kprune(model, calibration, jp.Budget(0.5, length=16))  # the default measures hidden states
    assert small.provenance.record["masked_vs_cut"] < 1e-5


def test_fisher_masks_keep_most_information():
    scores = [np.array([5.0, 1.0]), np.array([4.0, 3.0, 1.0, 0.5])]
    architecture = Architecture(
        family="bert", vocab=4, hidden=4, head_width=2, layers=(LayerSizes(groups=2, neurons=4),), max_positions=4
    )
    masks = fisher_masks(scores, [2, 1], 5, architecture=architecture)
    assert masks[0].tolist() == [True, False] and masks[1].tolist() == [True, True, True, False]


def test_rearrangement_sees_units_that_share_their_information():
    # Units 0 and 1 cancel each other: together they can go for nothing.
    block = np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.9]])
    assert rearrange(block, 2).tolist() == [True, True, False]  # greedy: the first step takes the cheapest alone
    block[2, 2] = 1.5
    assert rearrange(block, 1).tolist() == [False, False, True]


def test_weight_norms_count_every_weight_of_a_unit(demo):
    model = demo[0]
    layer = model.params["layers"][0]["feed_forward"]
    expected = np.sum(np.asarray(layer["up"]["kernel"])[:, 3] ** 2) + np.asarray(layer["up"]["bias"])[3] ** 2
    expected += np.sum(np.asarray(layer["down"]["kernel"])[3] ** 2)
    np.testing.assert_allclose(weight_norms(model)[1][3], expected, rtol=1e-6)


def test_settings_that_are_not_settled_say_so():
    for wanted, name in ((lambda: jp.KPrune().fit, "ridge"), (lambda: jp.KPrune().scoring, "elimination_ridge")):
        with pytest.raises(jp.JaxpruneError, match=f"{name} is open: .* ask settled"):
            wanted()
    assert jp.KPrune(refit=False).fit.kind == "none" and jp.KPrune(ridge=3.0).fit.ridge == 3.0
