import pytest
from hypothesis import given, strategies as st

from jaxprune.errors import BudgetError
from jaxprune.model import Architecture, LayerSizes
from jaxprune.pruning.budget import Budget
from jaxprune.pruning.cost import total_cost
from tests.helpers import tiny


def model(*sizes):
    layers = tuple(LayerSizes(groups=heads, neurons=neurons) for heads, neurons in sizes)
    return Architecture(family="bert", vocab=50, hidden=384, head_width=32, layers=layers, max_positions=64)


@pytest.mark.parametrize("remove", [0.0, 1.0, 40.0, -0.1, float("nan"), float("inf")])
def test_a_fraction_outside_its_range_says_what_to_pass(remove):
    with pytest.raises(BudgetError, match=r"remove must lie in \(0, 1\), got .* To remove 40 % pass 0.4"):
        Budget(remove)


@pytest.mark.parametrize("changes", [{"length": 0}, {"length": -3}, {"round_to": 0}])
def test_other_fields_are_checked(changes):
    with pytest.raises(BudgetError, match="at least 1"):
        Budget(0.5, **changes)


def test_allowed_is_exact():
    # 40 % of 536,601,600 is a whole number; in binary floating point 1 - 0.6 is a little more than 2/5.
    assert Budget(0.6, length=25).allowed(model(*[(12, 1536)] * 6)) == 214_640_640
    assert Budget(0.6).allowed(model(*[(12, 1536)] * 6), 25) == 214_640_640
    assert Budget(0.6, length=25).allowed(model(*[(12, 1536)] * 6), 53) == 214_640_640  # the budget's own length wins


@given(st.floats(0.001, 0.98), st.sampled_from(["flops", "params", "bytes"]))
def test_what_may_stay_never_exceeds_the_fraction(remove, cost):
    dense = model((12, 1536), (6, 100))
    allowed = Budget(remove, cost).allowed(dense, 32)
    total = total_cost(dense, cost, 32)
    assert 0 < allowed < total
    assert total - allowed >= remove * total * (1 - 1e-12)


def test_an_impossible_budget_says_how_much_would_do():
    with pytest.raises(BudgetError, match="less than one unit .*; remove less than 0.5"):
        Budget(0.9, length=8).allowed(model((0, 2)))
    with pytest.raises(BudgetError, match="no heads and no neurons"):
        Budget(0.5, length=8).allowed(model((0, 0)))


def test_a_length_that_no_text_of_the_model_has_is_refused():
    with pytest.raises(BudgetError, match="the budget's length 65 is more than the model's 64 positions; lower it"):
        Budget(0.5, length=65).allowed(model((2, 20)))
    images = tiny.architecture(tiny.config("vit"))
    assert images.patches is not None
    tokens = images.patches.tokens
    with pytest.raises(BudgetError, match=f"images are {tokens} tokens to the model, and the budget's length is 500"):
        Budget(0.5, length=500).allowed(images)
    assert Budget(0.5, length=tokens).allowed(images) == Budget(0.5).allowed(images, tokens)
