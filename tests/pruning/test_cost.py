import json

import jax
import numpy as np
import pytest

from jaxprune.errors import BudgetError
from jaxprune.model import Architecture, LayerSizes, forward, parameter_shapes
from jaxprune.model.embedding import DenseStep, Embedding
from jaxprune.pruning.cost import flops, parameters, removed, total_cost, unit_costs, whole_flops, whole_parameters
from jaxprune.report.bench import full_batch


def architecture(heads, neurons, **changes):
    sizes = tuple(LayerSizes(groups=h, neurons=n) for h, n in zip(heads, neurons, strict=True))
    defaults = dict(family="bert", vocab=50, hidden=384, head_width=32, layers=sizes, max_positions=64)
    return Architecture(**{**defaults, **changes})


MINILM = architecture([12] * 6, [1536] * 6)


def test_costs_by_hand():
    # Head: q, k, v, o are 384 x 32 each; scores and mix 25 x 25 x 32 each. Neuron: a column of up and a row of down.
    assert unit_costs(MINILM, "flops", 25)[0] == (2 * (25 * 4 * 384 * 32 + 2 * 25 * 25 * 32), 2 * 25 * 2 * 384)
    assert unit_costs(MINILM, "params")[0] == (4 * 384 * 32 + 3 * 32, 2 * 384 + 1)
    assert flops(MINILM, 25) == 72 * 2_537_600 + 9216 * 38_400


def test_grouped_queries_share_keys_and_values():
    grouped = architecture([2], [8], layers=(LayerSizes(groups=2, queries=3, neurons=8),))
    single = architecture([6], [8])
    per_group, _ = unit_costs(grouped, "params")[0]
    per_head, _ = unit_costs(single, "params")[0]
    assert 3 * per_head - per_group == 2 * 2 * (384 * 32 + 32)  # two of three keys and values are not there
    scores = 2 * 2 * 10 * 10 * 32
    assert unit_costs(grouped, "flops", 10)[0][0] == 2 * 10 * 8 * 384 * 32 + 3 * scores


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_parameters_of_a_unit_are_what_leaves_the_tree(gated, bias):
    switches = dict(gated=gated, attention_bias=bias, feed_forward_bias=bias, hidden=12, head_width=4)
    full = architecture([3, 3], [7, 7], **switches)
    head, neuron = unit_costs(full, "params")[0]
    assert whole_parameters(full) - whole_parameters(architecture([2, 3], [7, 7], **switches)) == head
    assert whole_parameters(full) - whole_parameters(architecture([3, 3], [5, 7], **switches)) == 2 * neuron
    assert parameters(full) == 2 * (3 * head + 7 * neuron)


def test_gate_costs_half_as_much_again():
    assert unit_costs(architecture([1], [1], gated=True), "flops", 8)[0][1] == 2 * 3 * 8 * 384


CAUSAL = dict(head="causal_lm", causal=True, norm_position="pre")
WORDS = 2 * 9 * 50  # times the width of the table


@pytest.mark.parametrize(
    "changes, outside",
    [
        ({**CAUSAL, "tied": True}, WORDS * 16),
        ({**CAUSAL, "tied": False}, WORDS * 16),
        ({**CAUSAL, "tied": True, "embed_width": 12, "embed_projects": "tokens"}, WORDS * 12 + 2 * 9 * 2 * 12 * 16),
        ({"head": "none", "embed_width": 12, "embed_projects": "sum"}, 2 * 9 * 12 * 16),
        ({"head": "masked_lm", "tied": True, "transform": "gelu"}, WORDS * 16 + 2 * 9 * 16 * 16),
        ({"head": "embedding", "embedding": Embedding(dense=(DenseStep(outputs=5),))}, 2 * 16 * 5),
    ],
)
def test_whole_flops_count_every_product_outside_the_layers(changes, outside):
    small = architecture([2, 2], [32, 32], hidden=16, head_width=8, **changes)
    assert whole_flops(small, 9) - flops(small, 9) == outside


@pytest.mark.parametrize("head, tokens", [("classification", 1), ("question_answering", 9), ("none", 0)])
def test_whole_flops_agree_with_the_compiled_program(head, tokens):
    labels = ("a", "b", "c") if head == "classification" else ()
    small = architecture([2, 2], [32, 32], hidden=16, head_width=8, head=head, labels=labels)
    outputs = len(labels) or 2
    assert whole_flops(small, 9) - flops(small, 9) == 2 * tokens * outputs * 16
    # Matrix products XLA counts itself, in the traced program: one row, no padding.
    shapes = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32),
        parameter_shapes(small),
        is_leaf=lambda x: type(x) is tuple,
    )
    jaxpr = jax.make_jaxpr(lambda params, batch: forward(params, batch, small))(shapes, full_batch(small, 1, 9))
    assert matmul_flops(jaxpr.jaxpr) == whole_flops(small, 9)


def matmul_flops(jaxpr, times=1):
    """FLOPs of all dot products in a traced program; a scan counts once per step."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contract, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += times * 2 * int(np.prod([left[i] for i in contract]) * np.prod(equation.outvars[0].aval.shape))
        steps = times * equation.params["length"] if equation.primitive.name == "scan" else times
        for inner in _inner(equation):
            total += matmul_flops(inner, steps)
    return total


def _inner(equation):
    for value in equation.params.values():
        if hasattr(value, "jaxpr"):
            yield value.jaxpr
        elif hasattr(value, "eqns"):
            yield value


def test_removed_is_a_fraction_of_what_can_be_pruned():
    assert removed(MINILM, architecture([6] * 6, [768] * 6), 25) == {"flops": 0.5, "params": 0.5}
    assert removed(MINILM, MINILM, 25) == {"flops": 0.0, "params": 0.0}


def test_obtained_budgets_match_the_authors_implementation(shared):
    for line in shared("reference/kprune_authors.jsonl").read_text().splitlines():
        run = json.loads(line)
        pruned = architecture(run["heads"], run["neurons"])
        length = 25 if run["task"] == "sst2" else 53
        assert removed(MINILM, pruned, length)["flops"] == pytest.approx(
            run["flops"], abs=1e-4
        )  # four digits are given


def test_flops_need_a_length():
    with pytest.raises(BudgetError, match="length"):
        total_cost(MINILM, "flops")
