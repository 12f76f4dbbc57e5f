"""Prune-LoRA: what it promises of heads, ranks, records and folders; and the paper's arithmetic."""

import json
from dataclasses import replace
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

import jaxprune as jp
from jaxprune.errors import CheckpointError, DataError, OutputError, SettingsError
from jaxprune.finetuning.importance import check_importance, normalised
from jaxprune.finetuning.lora import Lora, adapters_of, count, plan_of, projection_shapes
from jaxprune.finetuning.prune_lora import (
    choose,
    least_cost,
    measured_importance,
    proportional_ranks,
    rank_plan,
    warm_head,
)
from jaxprune.finetuning.texts import prepare
from jaxprune.finetuning.training_bytes import activation_bytes, compiled_step
from jaxprune.model import Architecture, LayerSizes, Model, parameter_shapes
from jaxprune.pruning.cost import unit_costs, whole_parameters
from jaxprune.pruning.cut import compose_kept, cut, cut_architecture
from jaxprune.runtime.memory import program_bytes
from jaxprune.tokens.packing import pack

TRAINING = jp.Train(epochs=1, batch_size=16, learning_rate=3e-3)
PUBLISHED = replace(jp.PruneLora.presets()["published"], high_blocks=1, high_rank=4, low_rank=2, samples=32)
NO_RANKS = {"high_blocks": None, "high_rank": None, "low_rank": None}  # where a budget decides them
GIVEN = replace(PUBLISHED, samples=None)  # with importance handed in, or not measured


def test_published_cuts_the_least_important_heads_and_trains_the_rest(model, task, tmp_path):
    settings = replace(PUBLISHED, remove_heads=0.5)
    phases = []
    small = jp.prune_lora(
        model, task, settings, TRAINING, out=tmp_path / "run", adapter_out=tmp_path / "adapter",
        on_step=lambda event: phases.append(event["phase"]),
    )  # fmt: skip
    assert list(dict.fromkeys(phases)) == ["importance", "train"]
    record = small.provenance.record
    heads = record["importance"]["heads"]
    gone = sorted((layer, head) for layer, many in enumerate(record["pruned_heads"]) for head in many)
    order = sorted((value, (layer, head)) for layer, values in enumerate(heads) for head, value in enumerate(values))
    assert gone == sorted(place for _, place in order[:3])
    assert [3 - len(many) for many in record["pruned_heads"]] == [size.groups for size in small.architecture.layers]
    assert min(map(min, heads)) == 0 and max(map(max, heads)) == 1
    most = int(np.argmax([sum(values) for values in heads]))
    assert all(rank == (4 if f"/{most}/" in name else 2) for name, rank in record["ranks"].items())
    assert {name.rpartition("/")[2] for name in record["ranks"]} == {"q", "k", "v"}
    assert record["masked_vs_cut"] < 1e-5
    json.dumps(record)
    assert record["removed"]["flops"] > 0 and record["parameters"]["after"] == whole_parameters(small.architecture)
    assert jax.tree.map(np.shape, small.params) == parameter_shapes(small.architecture)
    # The folder, and the adapter on the cut base, are the same model.
    jp.save(small, tmp_path / "small", run_folder=tmp_path / "run")
    again = jp.load(tmp_path / "small")
    jax.tree.map(np.testing.assert_array_equal, again.params, small.params)
    kept = [
        np.isin(np.arange(n), units[name]) for units in record["kept"] for name, n in (("heads", 3), ("neurons", 10))
    ]
    base = cut(model, kept)
    for fitting in (base, jp.load(tmp_path / "adapter" / "base")):
        merged = jp.load_adapter(fitting, tmp_path / "adapter")
        for ours, theirs in zip(jax.tree.leaves(merged.params), jax.tree.leaves(small.params), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    for merged in (small, again):
        with pytest.raises(CheckpointError, match="has the adapter of .* in it already"):
            jp.load_adapter(merged, tmp_path / "adapter")
    picture = jp.heat_map(again, tmp_path / "importance.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(DataError, match="no importance of heads"):
        jp.heat_map(model, tmp_path / "none.png")


def test_neurons_go_too_and_a_budget_sets_the_ranks(model):
    settings = jp.PruneLora(remove_heads=0.3, remove_neurons=0.5, rank_budget=600, projections=("q", "v", "o"))
    random = np.random.RandomState(0)
    heads, neurons = ([random.rand(size) for _ in range(2)] for size in (3, 10))
    masks = choose(heads, neurons, model.architecture, settings)
    assert [sum(mask.sum() for mask in masks[half::2]) for half in (0, 1)] == [4, 10]
    kept = np.concatenate([values[mask] for values, mask in zip(neurons, masks[1::2], strict=True)])
    assert kept.min() > np.sort(np.concatenate(neurons))[9]
    small = cut(model, masks).architecture
    plan = rank_plan(heads, small, settings)
    spent = count(adapters_of(plan, small).weights)
    assert 500 < spent <= 600
    assert len({size.rank for name, size in plan.items() if name.startswith("layers/0/")}) == 1


@pytest.mark.parametrize("score", ["fisher", "magnitude", "random"])
def test_any_score_ranks_every_unit(model, task, score):
    texts = prepare(model, replace(task, train=task.train[:9]))
    settings = replace(GIVEN, score=score, remove_neurons=0.1)
    found = measured_importance(model, pack(texts.encoded, model.architecture), texts.targets, settings, seed=3)
    check_importance(found, model.architecture)
    assert all(len(np.unique(entry)) == len(entry) for entry in (*found.heads, *found.neurons))


def test_given_importance_decides_even_where_a_block_loses_every_head(model, task, tmp_path):
    importance = jp.Importance([np.zeros(3), np.arange(3.0)], [np.zeros(0)] * 2)
    settings = replace(GIVEN, remove_heads=0.5)
    small = jp.prune_lora(model, task, settings, TRAINING, importance=importance, out=tmp_path / "run")
    assert [size.groups for size in small.architecture.layers] == [0, 3]
    assert {name[:9] for name in small.provenance.record["ranks"]} == {"layers/1/"}
    assert np.isfinite(jp.evaluate(small, task).score)
    jp.save(small, tmp_path / "small")
    jax.tree.map(np.testing.assert_array_equal, jp.load(tmp_path / "small").params, small.params)
    with pytest.raises(SettingsError, match="remove_neurons needs the importance of neurons"):
        jp.prune_lora(model, task, replace(settings, remove_neurons=0.5), TRAINING, importance=importance)


def test_kept_units_are_numbered_as_in_the_first_model(model):
    earlier = [{"heads": [0, 2, 5], "neurons": list(range(10, 20))}, {"heads": [1, 2, 3], "neurons": list(range(10))}]
    now = [{"heads": [1, 2], "neurons": [0, 9]}, {"heads": [], "neurons": [4]}]
    expected = [{"heads": [2, 5], "neurons": [10, 19]}, {"heads": [], "neurons": [4]}]
    assert compose_kept(earlier, now, model.architecture) == expected
    assert compose_kept(None, now, model.architecture) == now
    assert compose_kept(earlier[:1], now, model.architecture) == now  # a record of some other model


def test_a_killed_run_resumes_to_the_same_model(model, task, tmp_path):
    importance = jp.Importance([np.zeros(3), np.arange(3.0)], [np.zeros(0)] * 2)
    settings, training = replace(GIVEN, remove_heads=0.5), replace(TRAINING, epochs=2)
    straight = jp.prune_lora(model, task, settings, training, importance=importance)

    def stop(event):
        if event["phase"] == "train" and event["done"] == 4:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        jp.prune_lora(model, task, settings, training, importance=importance, out=tmp_path / "run", on_step=stop)
    steps = []
    resumed = jp.prune_lora(
        model, task, settings, training, importance=importance, out=tmp_path / "run", resume=True,
        on_step=lambda event: steps.append(event["done"]) if event["phase"] == "train" else None,
    )  # fmt: skip
    assert steps == [4, 5, 6]
    jax.tree.map(np.testing.assert_array_equal, resumed.params, straight.params)


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"remove_heads": 30.0}, "remove_heads must lie in .0, 1., got 30.0. To remove 30 % pass 0.3"),
        ({"remove_neurons": -0.1}, "remove_neurons must lie"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"low_rank": 0}, "low_rank must be at least 1, got 0"),
        ({"high_rank": 13}, "rank 13 is above the width of layers/0/attention/q, 12"),
        ({"rank_budget": 10, **NO_RANKS}, "rank_budget 10 is less than rank 1 everywhere takes"),
        ({"projections": ("w",)}, "projections must be some of"),
        ({"projections": ("gate",)}, "no projection gate"),
        ({"alpha": -1.0}, "alpha must be a positive number"),
        ({"train": ("heads/*",)}, "'heads/\\*' matches no leaf"),
    ],
)
def test_bad_settings_are_one_line(model, task, wrong, says):
    with pytest.raises(SettingsError, match=says) as error:
        jp.prune_lora(model, task, replace(PUBLISHED, **wrong), TRAINING)
    assert "\n" not in str(error.value)


def test_a_model_without_a_head_is_refused_in_those_words(model, task):
    with pytest.raises(DataError, match="the model has no task head.*load it with one"):
        jp.prune_lora(model.replace(architecture=replace(model.architecture, head="none")), task, PUBLISHED, TRAINING)


def test_outputs_are_checked_before_the_work(model, task, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxprune.finetuning.prune_lora.prepare", lambda *_: pytest.fail("work began"))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not an empty folder"):
        jp.prune_lora(model, task, PUBLISHED, TRAINING, adapter_out=tmp_path / "adapter")


def test_a_budget_that_no_cut_leaves_room_for_is_refused_before_the_work(model, task, monkeypatch):
    """Whichever units go, rank 1 everywhere takes as much as is said."""
    random, a = np.random.RandomState(0), model.architecture
    for share in (0.0, 0.34, 0.5, 0.7):
        settings = jp.PruneLora(remove_heads=share, remove_neurons=0.5, rank_budget=10**6, projections=("q", "o", "up"))
        costs = []
        for _ in range(40):
            heads, neurons = ([random.rand(count) for _ in range(2)] for count in (3, 10))
            small = cut_architecture(a, choose(heads, neurons, a, settings))
            shapes = projection_shapes(small)
            costs.append(sum(shapes[name][0] + prod(shapes[name][1]) for name in rank_plan(heads, small, settings)))
        assert least_cost(a, settings) <= min(costs)
    settings = jp.PruneLora(remove_heads=0.0, rank_budget=1)
    everything = sum(shape[0] + prod(shape[1]) for name, shape in projection_shapes(a).items() if name[-1] in "qkv")
    assert least_cost(a, settings) == everything
    monkeypatch.setattr("jaxprune.finetuning.prune_lora.prepare", lambda *_: pytest.fail("work began"))
    with pytest.raises(SettingsError, match=f"less than rank 1 everywhere takes, at least {everything}; raise it"):
        jp.prune_lora(model, task, replace(settings, rank_budget=everything - 1), TRAINING)


def test_the_warm_up_moves_the_head_alone(model, task):
    warm = warm_head(model, task, jp.PruneLora(head_steps=3), TRAINING, None)
    assert np.any(warm.params["head"]["kernel"] != model.params["head"]["kernel"])
    assert warm.params["layers"][0]["attention"]["q"]["kernel"] is model.params["layers"][0]["attention"]["q"]["kernel"]


# --- ranks


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 30), st.integers(1, 12)), min_size=1, max_size=6),
    st.integers(0, 400),
)
def test_proportional_ranks_stay_in_budget_and_waste_nothing(blocks, budget):
    importance = np.array([block[0] for block in blocks])
    costs, widest = [block[1] for block in blocks], [block[2] for block in blocks]
    if budget < sum(costs):
        with pytest.raises(SettingsError, match="raise it"):
            proportional_ranks(importance, costs, widest, budget)
        return
    ranks = proportional_ranks(importance, costs, widest, budget)
    left = budget - sum(rank * cost for rank, cost in zip(ranks, costs, strict=True))
    assert left >= 0
    for rank, cost, most in zip(ranks, costs, widest, strict=True):
        assert rank == 0 if cost == 0 else 1 <= rank <= most
        assert cost == 0 or rank == most or cost > left
    for i in range(len(blocks)):  # more important, as wide and as dear: never the lower rank
        for j in range(len(blocks)):
            if importance[i] >= importance[j] and costs[i] == costs[j] and widest[i] >= widest[j]:
                assert ranks[i] >= ranks[j] - (importance[i] == importance[j])


def test_a_budget_gives_ranks_in_proportion():
    assert proportional_ranks(np.array([1.0, 2.0, 5.0]), [10, 10, 10], [99] * 3, 800) == [10, 20, 50]


# --- BERT-base, whose weights are not needed to count them

BASE = Architecture(
    family="bert", vocab=30522, hidden=768, head_width=64, layers=(LayerSizes(groups=12, neurons=3072),) * 12,
    max_positions=512, token_types=2, pooler="tanh",
)  # fmt: skip


def test_the_papers_arithmetic_on_bert_base():
    assert whole_parameters(BASE) == 109_482_240
    assert unit_costs(BASE, "params")[0][0] == 196_800
    assert round(0.3 * 144) == 43
    low = adapters_of(plan_of(Lora(rank=4), BASE), BASE)
    norms = 25 * 2 * 768
    assert count(low.weights) + norms == 259_584
    # 308.7 k and 101.29 M: the high rank on two of three projections in 4 blocks, norms counted as trainable.
    four = Lora(rank=4, rank_pattern=tuple(f"layers/{i}/attention/[qv]=8" for i in range(4)))
    high = count(adapters_of(plan_of(four, BASE), BASE).weights)
    assert high + norms == 308_736
    assert 109_482_240 - 43 * 196_800 + high == 101_290_176


def test_published_ranks_on_bert_base():
    heads = normalised([np.random.RandomState(layer).rand(12) for layer in range(12)])
    plan = rank_plan(heads, BASE, jp.PruneLora())
    assert sorted(size.rank for size in plan.values()) == [4] * 24 + [8] * 12
    assert set(plan) == {name for name in projection_shapes(BASE) if name[-1] in "qkv"}


def test_all_heads_of_all_blocks_may_go(model, task, tmp_path):
    settings = replace(PUBLISHED, remove_heads=1.0, head_steps=0)
    small = jp.prune_lora(model, task, settings, TRAINING)
    assert [size.groups for size in small.architecture.layers] == [0, 0]
    assert small.provenance.record["ranks"] == {}
    assert np.any(np.asarray(small.params["head"]["kernel"]) != np.asarray(model.params["head"]["kernel"]))
    with pytest.raises(SettingsError, match="no projection is left for an adapter"):
        jp.prune_lora(model, task, settings, TRAINING, adapter_out=tmp_path / "adapter")


# --- memory


def test_predicted_bytes_are_near_the_compiled_program():
    """Of a small BERT at 8 x 64: parts that are counted exactly, and activations within a factor of 2."""
    size = LayerSizes(groups=4, neurons=256)
    a = replace(
        BASE, vocab=500, hidden=64, head_width=16, layers=(size, size), head="classification", labels=("no", "yes")
    )
    shapes = parameter_shapes(a)
    params = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s, jnp.float32), shapes, is_leaf=lambda n: isinstance(n, tuple)
    )
    model, still = Model(a, params), jp.Train(dropout=0.0)
    full = compiled_step(model, 8, 64, still).memory_analysis()
    adapters = adapters_of(plan_of(Lora(rank=2), a), a)
    part = lambda path: "norm/" in path or path.startswith("head/")  # noqa: E731
    light = compiled_step(model, 8, 64, still, trainable=part, adapters=adapters)
    weights = 4 * whole_parameters(a)
    assert full.argument_size_in_bytes >= 3 * weights  # weights and two moments
    assert program_bytes(light) < program_bytes(compiled_step(model, 8, 64, still)) - 2 * weights
    predicted = activation_bytes(a, 8, 64, still, trained=1.0)
    assert predicted / 2 < full.temp_size_in_bytes - weights < predicted * 2
