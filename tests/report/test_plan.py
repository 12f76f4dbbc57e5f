import pytest

from jaxprune.errors import BudgetError
from jaxprune.prune.budget import Budget
from jaxprune.prune.cost import flops, whole_parameters
from jaxprune.report.plan import peak_bytes, plan


def test_plan_predicts_the_budget_exactly(tiny):
    model = tiny()
    result = plan(model, 100, Budget(0.5, length=16))
    assert result["length"] == 16
    assert result["calibration"] == {"texts": 100, "tokens": 1600}
    assert result["pruned"]["prunable_flops"] == flops(model.architecture, 16) // 2
    assert result["dense"]["bytes"] == 4 * whole_parameters(model.architecture)
    assert result["pruned"]["parameters"] < result["dense"]["parameters"]
    assert result["dense_forward_seconds"] == pytest.approx(1600 / result["tokens_per_second"])
    assert result["seconds"] > result["dense_forward_seconds"] * result["dense_forwards"]["first"] > 0
    assert result["dense_forwards"]["further"] == 0


def test_plan_of_a_parameter_budget(tiny):
    result = plan(tiny(), 10, Budget(0.25, "params", length=16))
    dense, pruned = result["dense"], result["pruned"]
    assert pruned["prunable_parameters"] == pytest.approx(0.75 * dense["prunable_parameters"], abs=1)


def test_memory_grows_with_two_boundary_activations_a_token(tiny):
    architecture = tiny().architecture
    small, large = (peak_bytes(architecture, tokens, keep_bytes=0) for tokens in (100_000, 101_000))
    # Two activations of 16, weights in four sublayers' fits, four integers.
    assert large["total"] - small["total"] == 1000 * 4 * (2 * 16 + 4 + 4)
    assert large["measuring"] == small["measuring"]


def test_what_is_kept_grows_up_to_its_limit(tiny):
    architecture = tiny().architecture
    few, many, more = (peak_bytes(architecture, tokens, 10**7) for tokens in (1_000, 100_000, 10**6))
    assert few["kept"] == 4 * 1_000 * 16 * 4  # four sublayers' outputs of width 16
    assert few["fitting"] - peak_bytes(architecture, 1_000, 0)["fitting"] > few["kept"]  # one sublayer's features too
    assert many["kept"] < 10**7 and more["kept"] == 10**7  # of a million tokens features do not fit, outputs in part


def test_an_impossible_budget_is_refused_before_anything_runs(tiny):
    with pytest.raises(BudgetError, match="less than one unit"):
        plan(tiny(heads=1, neurons=1), 10, Budget(0.999, length=16))
