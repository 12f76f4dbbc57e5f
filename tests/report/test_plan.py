"""What a run will cost: figures that are exact, those that `forecast` measures, and the parts of its memory."""

import jax
import jax.numpy as jnp
import pytest

from jaxprune.errors import BudgetError, DataError
from jaxprune.pruning.budget import Budget
from jaxprune.pruning.cost import flops, whole_parameters
from jaxprune.pruning.methods import KPrune
from jaxprune.report import plan as module
from jaxprune.report.forecast import Forecast
from jaxprune.report.plan import peak_bytes, plan
from jaxprune.settings import FormerName


@pytest.fixture
def asked(monkeypatch):
    """Stands in for `forecast`, whose own tests run it; what it was asked is kept."""
    asked = []

    def forecast(model, method, budgets, lengths, **where):
        asked.append((method.name, budgets, lengths))
        return Forecast(30.0, 8.0, 2.0, 10.0, 2.0)

    monkeypatch.setattr(module, "forecast", forecast)
    return asked


def test_plan_predicts_the_budget_exactly(tiny, asked):
    model, budget = tiny(), Budget(0.5, length=16)
    result = plan(model, 100, budget).as_json()
    assert result["length"] == 16
    assert result["calibration"] == {"texts": 100, "tokens": 1600}
    assert result["pruned"]["prunable_flops"] == flops(model.architecture, 16) // 2
    assert result["dense"]["bytes"] == 4 * whole_parameters(model.architecture)
    assert result["pruned"]["parameters"] < result["dense"]["parameters"]
    typed = plan(model, 100, budget)
    assert typed.pruned[0].prunable_flops == result["pruned"]["prunable_flops"] and typed.dense_forwards.first == 10.0
    with pytest.warns(FormerName, match=r"Plan\['dense'\] is .dense now"):
        assert typed["dense"] == result["dense"]
    assert asked == [("kprune", [budget], [16] * 100)] * 2
    assert result["tokens_per_second"] == 800 and result["dense_forward_seconds"] == 2.0
    assert result["seconds"] == 30.0 and result["compile_seconds"] == 8.0
    assert result["dense_forwards"] == {"first": 10.0, "further": 2.0}


def test_plan_of_several_budgets_and_another_method(tiny, asked):
    budgets = [Budget(0.25, "params", length=16), Budget(0.75, "params", length=16)]
    result = plan(tiny(), 10, budgets, "magnitude").as_json()
    dense = result["dense"]["prunable_parameters"]
    for left, share in zip(result["pruned"], (0.75, 0.25), strict=True):
        assert left["prunable_parameters"] == pytest.approx(share * dense, abs=1)
    assert asked == [("magnitude", budgets, [16] * 10)] and result["method"] == "magnitude"
    with pytest.raises(BudgetError, match="no budgets"):
        plan(tiny(), 10, [])


def test_flops_of_every_budget_are_those_at_one_length(tiny, asked):
    budgets = [Budget(0.3, length=8), Budget(0.3, length=32)]
    result = plan(tiny(), 10, budgets, "magnitude").as_json()
    assert result["length"] == 8
    for left in result["pruned"]:
        assert left["prunable_flops"] == pytest.approx(0.7 * result["dense"]["prunable_flops"], abs=1)


def test_the_run_to_come_is_planned_where_and_how_it_will_run(tiny, monkeypatch):
    told = {}

    def forecast(model, method, budgets, lengths, **where):
        told.update(where, settings=method)
        return Forecast(30.0, 8.0, 2.0, 10.0, 2.0)

    monkeypatch.setattr(module, "forecast", forecast)
    budget = Budget(0.5, length=16)
    result = plan(tiny(), 10, budget, KPrune(refit=False), keep_bytes=1000).as_json()
    assert told == {
        "mesh": None,
        "stream": False,
        "keep_bytes": 1000,
        "settings": KPrune(refit=False),
    }
    assert result["peak_bytes"]["kept"] <= 1000 < plan(tiny(), 10, budget).as_json()["peak_bytes"]["kept"]
    half = tiny().replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny().params))
    parameters = [plan(model, 10, budget).as_json()["peak_bytes"]["parameters"] for model in (tiny(), half)]
    assert parameters[0] == 2 * parameters[1]
    assert plan(tiny(), 10, budget, stream=True).peak_bytes is None and told["stream"]


def test_memory_grows_with_two_boundary_activations_a_token(tiny):
    architecture = tiny().architecture
    small, large = (peak_bytes(architecture, tokens, keep_bytes=0) for tokens in (100_000, 101_000))
    # Two activations of 16, weights in four sublayers' fits, four integers.
    assert large["total"] - small["total"] == 1000 * 4 * (2 * 16 + 4 + 4)
    assert large["measuring"] == small["measuring"]


def test_what_is_kept_grows_up_to_its_limit(tiny):
    architecture = tiny().architecture
    few, many = (peak_bytes(architecture, tokens, 10**7) for tokens in (1_000, 10**6))
    assert few["kept"] == 4 * 1_000 * 16 * 4  # four sublayers' outputs of width 16
    assert few["fitting"] - peak_bytes(architecture, 1_000, 0)["fitting"] > few["kept"]  # one sublayer's features too
    assert many["kept"] == 10**7  # features of a million tokens do not fit, outputs in part


def test_a_run_on_no_texts_is_not_planned(tiny):
    with pytest.raises(DataError, match="calibrates on one text at least, got 0"):
        plan(tiny(), 0, Budget(0.5))


def test_an_impossible_budget_is_refused_before_anything_runs(tiny):
    with pytest.raises(BudgetError, match="less than one unit"):
        plan(tiny(heads=1, neurons=1), 10, Budget(0.999, length=16))
