"""What rests in bfloat16 while a model trains: frozen weights, and Adam's moments."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.finetuning.narrow_moments import narrow_moments, rounded_at_random
from jaxprune.finetuning.recap import run_recap
from jaxprune.finetuning.recap.phase_bytes import phase_bytes
from jaxprune.finetuning.step import optimizer, select
from jaxprune.finetuning.training_bytes import compiled_step, training_bytes
from jaxprune.runtime.memory import temp_bytes

TRAINING = jp.Train(epochs=2, batch_size=16, learning_rate=2e-3, dropout=0.0, seed=5)
SOME = ("layers/1/*", "pooler/*", "head/*")


def same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_rounding_at_random_is_right_in_the_mean_and_never_further_than_the_neighbours():
    x = jnp.float32([1.0, 1.001, -1.007, 3e-12, 0.0, 5e8])
    drawn = np.stack([rounded_at_random(x, jax.random.key(seed)).astype(jnp.float32) for seed in range(2000)])
    np.testing.assert_allclose(drawn.mean(0), x, rtol=3e-4)
    for column, value in zip(drawn.T, np.asarray(x), strict=True):
        nearest = np.float32(jnp.bfloat16(value))
        assert len(set(column)) <= 2 and np.all(np.abs(column - value) <= 2**-7 * np.abs(value))
        assert (len(set(column)) == 1) == (nearest == value)


def test_the_second_moment_follows_what_to_the_nearest_would_stand_still():
    """A gradient that grows once: after 600 steps the moment is less than half of the way there."""
    adam: Any = optax.scale_by_adam()
    params = jnp.zeros(4000)
    rule = lambda step: narrow_moments(adam, jax.random.fold_in(jax.random.key(0), step))  # noqa: E731
    exact: Any = adam.init(params)
    narrow: Any = rule(0).init(params)
    stuck = exact.nu.astype(jnp.bfloat16)
    step_of = jax.jit(lambda gradient, state, step: rule(step).update(gradient, state))
    for step in range(600):
        gradient = jnp.full_like(params, 1.0 if step < 40 else 3.0)
        ours, narrow = step_of(gradient, narrow, step)
        theirs, exact = adam.update(gradient, exact)
        stuck = (0.999 * stuck.astype(jnp.float32) + 0.001 * gradient**2).astype(jnp.bfloat16)
    assert {leaf.dtype.name for leaf in (narrow.mu, narrow.nu)} == {"bfloat16"}
    assert float(jnp.mean(narrow.nu.astype(jnp.float32))) == pytest.approx(float(exact.nu[0]), rel=2e-3)
    assert float(stuck[0]) < 0.8 * float(exact.nu[0])  # the reason for all this
    np.testing.assert_allclose(ours, theirs, rtol=0.2)
    assert float(jnp.mean(ours)) == pytest.approx(float(theirs[0]), rel=0.01)


def test_the_update_holds_wide_moments_of_one_leaf():
    leaf = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    params, adam = [leaf] * 12, optax.scale_by_adam()
    rule = lambda key: narrow_moments(adam, key)  # noqa: E731
    state = jax.eval_shape(rule(None).init, params)  # type: ignore[arg-type]
    update = lambda gradient, state, key: rule(key).update(gradient, state)  # noqa: E731
    step = jax.jit(update, donate_argnums=(0, 1)).lower(params, state, jax.eval_shape(lambda: jax.random.key(0)))
    assert temp_bytes(step.compile()) < 4 * 4 * 256 * 256  # of 12 leaves' two moments in float32: 24


def test_narrow_moments_train_as_wide_ones_do(model, task):
    wide = jp.finetune(model, task, TRAINING)
    narrow = jp.finetune(model, task, replace(TRAINING, moments_dtype="bfloat16"))
    losses = [[e["loss"] for e in each.provenance.record["training"]["epochs"]] for each in (wide, narrow)]
    np.testing.assert_allclose(*losses, rtol=0.02)
    assert losses[0] != losses[1]
    spans = [
        leaf for leaf in jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), wide.params, narrow.params))
    ]
    assert max(spans) < 0.01


def test_a_run_with_narrow_moments_goes_on_to_the_bit(model, task, tmp_path):
    training = replace(TRAINING, moments_dtype="bfloat16", accumulate=2)
    straight, run = jp.finetune(model, task, training), {"out": tmp_path / "run"}

    def stop(event):
        if event["done"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jp.finetune(model, task, training, on_step=stop, **run)
    same(jp.finetune(model, task, training, resume=True, **run).params, straight.params)


def test_frozen_weights_rest_in_fewer_bits_and_come_back_whole(model, task):
    training = replace(TRAINING, frozen_dtype="bfloat16")
    tuned = jp.finetune(model, task, training, trainable=SOME)
    same(tuned.params["embed"], model.params["embed"])
    same(tuned.params["layers"][0], model.params["layers"][0])
    # As a model whose frozen leaves were rounded beforehand trains.
    coarse = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), model.params)
    rounded = {**coarse, **{name: model.params[name] for name in ("pooler", "head")}}
    rounded["layers"] = [coarse["layers"][0], model.params["layers"][1]]
    other = jp.finetune(model.replace(params=rounded), task, TRAINING, trainable=SOME)
    for name in ("pooler", "head"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), tuned.params[name], other.params[name])
    plain = jp.finetune(model, task, TRAINING, trainable=SOME)
    assert float(np.abs(plain.params["head"]["kernel"] - tuned.params["head"]["kernel"]).max()) > 1e-6


@pytest.mark.slow
def test_recap_with_both(model, task):
    settings = jp.Recap(rounds=2, samples=16, outer="frozen", remove=0.3, freeze=0.5)
    half = replace(TRAINING, epochs=None, frozen_dtype="bfloat16", moments_dtype="bfloat16")
    plain, narrow = (run_recap(model, task, settings, training) for training in (replace(half, frozen_dtype=None, moments_dtype="float32"), half))  # fmt: skip  # noqa: E501
    same(narrow.full.params["embed"], model.params["embed"])
    assert {leaf.dtype.name for leaf in jax.tree.leaves(narrow.model.params)} == {"float32"}
    assert narrow.rounds[-1]["score"] == jp.evaluate(narrow.model, task).score
    losses = [[record["loss"] for record in each.rounds] for each in (plain, narrow)]
    np.testing.assert_allclose(*losses, rtol=0.05)


def test_predicted_bytes_follow(model):
    a, training = model.architecture, replace(TRAINING, frozen_dtype="bfloat16", moments_dtype="bfloat16")
    trains = lambda path: path.startswith(("layers/1/", "pooler/", "head/"))  # noqa: E731
    chosen, frozen = select(model.params, trains)
    step = compiled_step(model, 8, 16, training, trainable=trains)
    found = training_bytes(model, (chosen, []), 8, 16, training, temp_bytes(step))
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert found["parameters"] == 4 * count(chosen) + 2 * count(frozen)
    assert found["moments"] == 4 * count(chosen)
    state = jax.eval_shape(optimizer(training, 9, 1e-3).init, chosen)
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) == found["moments"] + 8  # two counts
    plain = compiled_step(model, 8, 16, TRAINING, trainable=trains)  # held between steps
    less = plain.memory_analysis().argument_size_in_bytes - step.memory_analysis().argument_size_in_bytes
    assert less == pytest.approx(4 * count(chosen) + 2 * count(frozen), rel=0.01)
    settings = jp.Recap(outer="frozen", remove=0.5, freeze=0.75)
    tuning, back = ([phase_bytes(a, a, settings, each, 8, 16)[phase] for each in (TRAINING, training)]
                    for phase in ("tuning", "write back"))  # fmt: skip
    assert tuning[1] < tuning[0] and back[1] < back[0]
