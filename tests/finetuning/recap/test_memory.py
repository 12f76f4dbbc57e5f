"""What RECAP needs on the device: a frozen row has no moment, and predictions are near the compiled programs."""

import tracemalloc
from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.finetuning.lora import count
from jaxprune.finetuning.masters import at_rest, result_types
from jaxprune.finetuning.recap.phase_bytes import abstract, abstract_parts, measured_bytes, phase_bytes, uniform
from jaxprune.finetuning.recap.tuning import in_result_types, trainable_of
from jaxprune.finetuning.step import select
from jaxprune.finetuning.training_bytes import FLOAT, compiled_step
from jaxprune.model import Architecture, LayerSizes, Model
from jaxprune.pruning.cost import whole_parameters
from jaxprune.runtime.memory import temp_bytes
from jaxprune.runtime.placement import Placement
from tests.finetuning.conftest import WORDS, write_tokenizer
from tests.helpers import tiny
from tests.model.test_partial_rows import parts_of

SMALL = Architecture(
    family="bert", vocab=200, hidden=64, head_width=16, layers=(LayerSizes(groups=4, neurons=256),) * 2,
    max_positions=64, token_types=2, pooler="tanh", head="classification", labels=("no", "yes"),
)  # fmt: skip
STILL = jp.Train(dropout=0.0)


def test_abstract_parts_have_the_shapes_of_real_ones():
    model = tiny.random_model(tiny.config("bert"))
    tokens = np.arange(30) % 3 > 0
    real, shapes = parts_of(model, 0.6, tokens), abstract_parts(model.architecture, 0.6, int(tokens.sum()))
    assert jax.tree.map(np.shape, real) == jax.tree.map(np.shape, shapes)
    assert jax.tree.map(lambda leaf: leaf.dtype, real) == jax.tree.map(lambda leaf: leaf.dtype, shapes)
    assert jax.tree.map(np.shape, model.params) == jax.tree.map(np.shape, abstract(model.architecture))


def test_uniform_cuts_every_sublayer_alike_and_leaves_a_unit():
    assert uniform(SMALL, 0.5).layers == (LayerSizes(groups=2, neurons=128),) * 2
    assert uniform(SMALL, 0.99).layers == (LayerSizes(groups=1, neurons=3),) * 2


def test_the_step_takes_moments_of_trained_rows_only():
    settings, rows, length = jp.Recap(outer="frozen", freeze=0.75), 4, 32
    parts = abstract_parts(SMALL, settings.freeze)
    trained = count(select(parts, trainable_of(settings, SMALL))[0])
    assert trained < 0.26 * whole_parameters(SMALL)
    step = compiled_step(Model(SMALL, parts), rows, length, STILL, trainable=trainable_of(settings, SMALL))
    taken = step.memory_analysis().argument_size_in_bytes
    batch = 4 * (4 * rows * length + 3 * rows)
    exact = 4 * (count(parts) + 2 * trained) + batch
    assert exact <= taken <= exact + 1024  # counters, the key, alignment


def test_predictions_are_near_the_compiled_programs():
    small = uniform(SMALL, 0.5)
    settings = jp.Recap(remove=0.5, freeze=0.75, measure_on="device")
    sizes = SMALL, small, settings, STILL, 8, 64
    predicted, measured = phase_bytes(*sizes), measured_bytes(*sizes)
    assert predicted.keys() == measured.keys()
    for phase, found in measured.items():
        assert predicted[phase] / 2 < found < 2 * predicted[phase], phase
    assert phase_bytes(SMALL, small, replace(settings, measure_on="host"), STILL, 8, 64)["importance"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings, training",
    [
        (jp.Recap(moments="carried"), STILL),
        (
            jp.Recap(moments="bfloat16", outer="frozen", freeze=0.75),
            replace(STILL, frozen_dtype="bfloat16", moments_dtype="bfloat16", result_dtype="bfloat16"),
        ),
    ],
    ids=lambda given: getattr(given, "moments", ""),
)
def test_host_memory_is_that_of_the_state_and_of_what_a_round_makes_of_it(tmp_path, task, settings, training):
    config = tiny.config(
        "bert", id2label={"0": "no", "1": "yes"}, vocab_size=4 + len(WORDS), hidden_size=512, num_attention_heads=8,
        intermediate_size=2048, num_hidden_layers=4,
    )  # fmt: skip
    folder = tiny.write(tmp_path / "model", config, tiny.tensors(config))
    write_tokenizer(folder)
    model, settings = jp.load(folder), replace(settings, rounds=2, epochs_per_round=1, remove=0.5, samples=8)
    training = replace(training, batch_size=16, learning_rate=1e-4)
    jp.recap(model, task, settings, training)  # what is imported and compiled is not counted
    tracemalloc.start()
    try:
        result = jp.recap(model, task, settings, training)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    predicted = result.provenance.record["training"]["host_bytes"]
    assert max(predicted.values()) == pytest.approx(peak, rel=0.1)


def test_more_frozen_is_less_to_hold():
    half = jp.Recap(remove=0.5, freeze=0.75)
    found = [
        phase_bytes(SMALL, uniform(SMALL, 0.5), settings, STILL, 8, 64, tokens)["tuning"]
        for settings, tokens in (
            (replace(half, freeze=0.0), None),
            (half, None),
            (replace(half, outer="touched"), 50),
            (replace(half, outer="frozen"), None),
        )
    ]
    assert found == sorted(found, reverse=True) and len(set(found)) == 4


@pytest.mark.parametrize("outer, vocabularies", [("frozen", 0), ("train", 1)])
def test_what_a_language_model_teaches_counts(outer, vocabularies):
    """Its words for two batches, and its vocabulary where the student's own moves."""
    a, settings = tiny.architecture(tiny.config("llama")), jp.Recap(rounds=1, outer=outer)
    still, taught = (phase_bytes(a, a, settings, replace(STILL, distill=w), 4, 16)["tuning"] for w in (0.0, 0.5))
    assert taught - still == FLOAT * (2 * 4 * 16 * a.hidden + vocabularies * a.vocab * a.hidden)


@pytest.mark.parametrize(
    "rest, result, again",
    [("bfloat16", "bfloat16", 0), ("bfloat16", "float32", 4), (None, "bfloat16", 0), (None, None, 0)],
)
def test_what_is_frozen_goes_on_in_the_types_of_the_result(rest, result, again):
    """It is sent `again`, so many bytes a number, only where it rested in another type than both."""
    frozen, place = {"a": np.float32(np.random.RandomState(0).randn(50))}, Placement.of()
    types, there = result_types(frozen, result), place.to_device(at_rest(frozen, rest))
    before = place.books.bytes_to_device
    ours = in_result_types(there, frozen, types, place)["a"]
    np.testing.assert_array_equal(ours, frozen["a"].astype(types["a"]), strict=True)
    assert place.books.bytes_to_device - before == 50 * again


@pytest.mark.slow
def test_recomputed_layers_are_not_kept():
    deep = SMALL.with_layers(SMALL.layers[:1] * 8)
    temporaries = [
        temp_bytes(compiled_step(Model(deep, abstract(deep)), 8, 64, replace(STILL, remat=remat)))
        for remat in (False, True)
    ]
    assert temporaries[1] < temporaries[0] / 2


def test_with_remat_the_gradient_of_the_token_table_is_not_there_before_its_turn():
    """The table's gradient is smaller than a layer's activations, which are gone when it is made."""
    small, large = (replace(SMALL, vocab=vocab) for vocab in (500, 8000))
    needed = [
        temp_bytes(compiled_step(Model(dense, abstract(dense)), 16, 64, replace(STILL, remat=True)))
        for dense in (small, large)
    ]
    table = FLOAT * (large.vocab - small.vocab) * SMALL.hidden
    assert table / 2 < needed[0] and needed[1] - needed[0] < table / 4
