"""Weights that are kept in bfloat16 train as float32 ones do; only what comes out is rounded, and once."""

import os
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import SettingsError
from jaxprune.finetuning.lora import Lora, adapters_of, plan_of
from jaxprune.finetuning.masters import in_types, result_types
from jaxprune.finetuning.recap import run_recap
from jaxprune.finetuning.recap.phase_bytes import phase_bytes
from jaxprune.finetuning.recap.run import first_state
from jaxprune.finetuning.step import select
from jaxprune.finetuning.training_bytes import compiled_step, training_bytes
from jaxprune.model import Architecture, LayerSizes, Model, parameter_shapes
from jaxprune.model.partial_rows import Split
from jaxprune.runtime.memory import temp_bytes

# Most weights lie between 0.1 and 1, where bfloat16's half step is 2e-4 to 2e-3: no step of this run reaches it.
TRAINING = jp.Train(epochs=1, batch_size=16, learning_rate=1e-4, seed=5)
EXACT = replace(TRAINING, result_dtype="float32")
ROUNDS = jp.Recap(rounds=1, samples=16, outer="frozen", freeze=0.0)
SOME = ("layers/0/attention/norm/*", "head/*")


@pytest.fixture
def coarse(folder) -> jp.Model:
    return jp.load(folder, dtype="bfloat16")


def types(params) -> set[str]:
    return {leaf.dtype.name for leaf in jax.tree.leaves(params)}


def moved(before, after) -> float:
    """The share of numbers that differ."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return float(np.mean(np.concatenate([np.ravel(np.asarray(x, np.float32) != y) for x, y in pairs])))


def test_small_steps_move_bfloat16_weights_and_the_result_is_rounded_once(coarse, task, tmp_path):
    exact = jp.finetune(coarse, task, EXACT, trainable=SOME)
    assert types(exact.params) == {"float32"}
    assert moved(coarse.params["head"], exact.params["head"]) > 0.9
    straight, run = jp.finetune(coarse, task, TRAINING, trainable=SOME), {"trainable": SOME, "out": tmp_path / "run"}
    assert straight.provenance.record["training"]["epochs"][0]["score"] == jp.evaluate(straight, task).score
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_array_equal(ours, theirs.astype(jnp.bfloat16), strict=True),
        straight.params, exact.params,
    )  # fmt: skip

    def stop(event):
        if event["done"] == 2:
            os.kill(os.getpid(), signal.SIGINT)  # waits for the step, and a state is saved

    with pytest.raises(KeyboardInterrupt):
        jp.finetune(coarse, task, TRAINING, on_step=stop, **run)
    with pytest.raises(SettingsError, match="result_dtype was None, is float32"):  # its scores would be others
        jp.finetune(coarse, task, EXACT, resume=True, **run)
    again = jp.finetune(coarse, task, TRAINING, resume=True, **run)
    jax.tree.map(np.testing.assert_array_equal, again.params, straight.params)


def test_what_trains_beside_adapters_has_masters_too(coarse, task):
    tuned = jp.finetune(coarse, task, EXACT, lora=jp.Lora(rank=2, projections=("q",), train=("head/*",)))
    assert types(tuned.params) == {"float32"}
    q = [params["layers"][0]["attention"]["q"]["kernel"] for params in (coarse.params, tuned.params)]
    assert min(moved(coarse.params["head"], tuned.params["head"]), moved(*q)) > 0.9


def test_recap_trains_masters_and_scores_what_it_hands_back(coarse, task):
    start = first_state(coarse, ROUNDS)
    assert (types(start.params["head"]), types(start.params["embed"])) == ({"float32"}, {"bfloat16"})
    found = run_recap(coarse, task, ROUNDS, replace(EXACT, epochs=None))
    assert types(found.full.params) == types(found.model.params) == {"float32"}
    assert found.rounds[0]["score"] == jp.evaluate(found.model, task).score
    rows = [params["layers"][1]["feed_forward"]["down"]["kernel"] for params in (coarse.params, found.full.params)]
    kept = found.full.architecture.layers[1].neurons, found.model.architecture.layers[1].neurons
    assert moved(*rows) > 0.9 * kept[1] / kept[0]


@pytest.mark.parametrize("asked, expected", [(None, "bfloat16"), ("float16", "float16")])
def test_results_have_the_type_that_was_loaded_or_the_one_asked_for(coarse, asked, expected):
    kernel = coarse.params["head"]["kernel"].astype(jnp.float32)
    params = {**coarse.params, "head": {"kernel": Split(kernel[:, :1], kernel[:, 1:], np.arange(2)), "bias": kernel[0]}}
    spent = []
    found = in_types(params, result_types(coarse.params, asked), spent.append)
    assert types(found) == {expected, "int64"}  # where the rows of a split matrix lie stays as it is
    assert len(spent) == (3 if asked is None else len(jax.tree.leaves(params)) - 1)


def test_a_weight_too_large_for_float16_is_named(coarse):
    large = jax.tree.map(lambda leaf: 1e6 + leaf, coarse.params["head"])
    with pytest.raises(SettingsError, match="too large for float16; choose bfloat16"):
        in_types(large, result_types(large, "float16"))


def test_predicted_bytes_follow_the_types():
    """Frozen bfloat16 leaves take half, those that train and their moments do not."""
    a = Architecture(
        family="bert", vocab=300, hidden=96, head_width=24, max_positions=64, token_types=2, pooler="tanh",
        layers=(LayerSizes(groups=4, neurons=384),) * 2, head="classification", labels=("a", "b"),
    )  # fmt: skip
    shapes = parameter_shapes(a)
    as_leaf = lambda shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16)  # noqa: E731
    model = Model(a, jax.tree.map(as_leaf, shapes, is_leaf=lambda node: isinstance(node, tuple)))
    adapters = adapters_of(plan_of(Lora(rank=2), a), a)
    trains = lambda path: "norm/" in path or path.startswith("head/")  # noqa: E731
    training = jp.Train(dropout=0.1)
    chosen = select(model.params, trains)[0]
    step = compiled_step(model, 8, 48, training, trainable=trains, adapters=adapters)
    found = training_bytes(model, (chosen, adapters.weights), 8, 48, training, temp_bytes(step))
    count = lambda tree: sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(tree))  # noqa: E731
    trained = count(chosen) + count(adapters.weights)
    assert found["parameters"] == 4 * trained + 2 * (count(model.params) - count(chosen))
    assert found["moments"] == 8 * trained
    assert found["parameters"] + found["moments"] <= step.memory_analysis().argument_size_in_bytes
    assert abs(found["predicted"] / found["measured"] - 1) < 0.15  # activations are an estimate


def test_recaps_predictions_follow_the_types_too(coarse):
    """What never trains keeps its bytes; a model that is scored in bfloat16 is held so, beside wide copies of a layer;
    before, what trained is there in float32.
    """
    a = coarse.architecture
    kept, results = (result_types(tree, None) for tree in (first_state(coarse, ROUNDS).params, coarse.params))
    plain = phase_bytes(a, a, ROUNDS, TRAINING, 4, 8)
    found = phase_bytes(a, a, ROUNDS, TRAINING, 4, 8, types=kept, results=results)
    pairs = zip(jax.tree.leaves(kept), jax.tree.leaves(coarse.params), strict=True)
    frozen = sum(np.size(leaf) for dtype, leaf in pairs if dtype == jnp.bfloat16)
    assert frozen >= np.size(coarse.params["embed"]["token"])
    assert plain["tuning"] - found["tuning"] == plain["write back"] - found["write back"] == 2 * frozen
    paths = jax.tree_util.tree_leaves_with_path(coarse.params["layers"][0])  # which are equal
    kernels = sum(np.size(leaf) for path, leaf in paths if path[-1].key == "kernel")
    numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(coarse.params))
    needed = max(4 * numbers - 2 * frozen, 2 * numbers + 4 * kernels)
    assert found["evaluation"] - plain["evaluation"] == needed - 4 * numbers
