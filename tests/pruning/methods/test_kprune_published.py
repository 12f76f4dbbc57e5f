"""The preset `published` against the authors' implementation, and what its scores must be by definition."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

import jaxprune as jp
from jaxprune.model import Batch
from jaxprune.pruning.methods.kprune_published import knowledge_loss
from tests.helpers import tiny


def test_keeps_what_the_authors_code_keeps(shared, real_model):
    """Seed 0, 60 %: the same 512 texts, batches of 32 in order, FLOPs at 25 tokens."""
    theirs = next(
        run
        for run in map(json.loads, shared("reference/kprune_authors.jsonl").read_text().splitlines())
        if (run["task"], run["seed"], run["remove"]) == ("sst2", 0, 0.6)
    )
    task = jp.tasks.glue("sst2", shared("data/glue"))
    small = jp.kprune(
        jp.load(real_model("minilm-sst2")),
        task.calibration(512, seed=0),
        jp.Budget(0.6, length=25),
        jp.KPrune.presets()["published"],
    )
    heads = [size.heads for size in small.architecture.layers]
    neurons = [size.neurons for size in small.architecture.layers]
    assert sum(abs(a - b) for a, b in zip(heads, theirs["heads"], strict=True)) <= 2
    assert sum(abs(a - b) for a, b in zip(neurons, theirs["neurons"], strict=True)) <= 0.03 * 6 * 1536


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_the_loss_is_zero_at_the_dense_model_and_positive_beside_it(problem):
    model = tiny.random_model(tiny.config("bert", "classification"))
    labels = ("a",) if problem == "regression" else ("a", "b", "c")
    architecture = replace(model.architecture, labels=labels, problem=problem)
    batch = Batch(*(jnp.zeros((1, 4), jnp.int32),) * 4, *(jnp.array([[0, 1]]),) * 2)
    said = jax.random.normal(jax.random.key(0), (1, 2, len(labels)))
    assert float(knowledge_loss(said, said, batch, architecture, 2.0)) == pytest.approx(0, abs=1e-6)
    other = said + jnp.arange(len(labels)) + 0.5
    assert float(knowledge_loss(other, said, batch, architecture, 2.0)) > 1e-3
