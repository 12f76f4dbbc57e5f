"""The loss over the vocabulary in slices: what it computes, and that it never holds all logits."""

import re
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune.model import Batch, forward
from jaxprune.model.ends import head_input
from jaxprune.model.language import (
    SLICE,
    Guide,
    Lesson,
    learnt,
    next_tokens,
    slice_tokens,
    sum_in_slices,
    summed_next_tokens,
    vocabulary,
)
from jaxprune.model.predictions import class_divergence
from jaxprune.model.transformer import apply_head
from jaxprune.tokens.packing import Encoded, batch_of
from tests.helpers import tiny


def packed(architecture, rows=7, seed=0) -> Batch:
    """Rows of two texts, of 9 and 7 tokens, and padding: more than one slice, and a part of one."""
    random = np.random.RandomState(seed)
    rows = SLICE // 9 + 2
    texts = [random.randint(0, architecture.vocab, length) for _ in range(rows) for length in (9, 7)]
    encoded = Encoded(texts, [np.zeros_like(text) for text in texts])
    places = [[2 * row, 2 * row + 1] for row in range(rows)]
    return jax.tree.map(jnp.asarray, batch_of(places, encoded, architecture, (rows, 18, 2)))


@pytest.fixture(params=["llama", "gpt2"])
def model(request):
    """Llama's vocabulary is a matrix of its own, GPT-2's is the embedding."""
    changes: dict[str, Any] = {} if request.param == "gpt2" else {"tie_word_embeddings": False}
    return tiny.random_model(tiny.config(request.param, **changes))


def all_learnt(batch):
    return jnp.zeros((*batch.index.shape, 0), jnp.int8)


def some_learnt(batch, seed=1):
    return jnp.asarray(np.random.RandomState(seed).randint(0, 2, (*batch.index.shape, 9)), jnp.int8)


def by_hand(params, batch, architecture, counts, guide=None, lesson=None):
    """The same sum from whole logits."""
    logits = apply_head(params, forward(params, batch, architecture).hidden, batch, architecture)
    values = optax.losses.softmax_cross_entropy_with_integer_labels(logits, next_tokens(batch)[0])
    if guide is not None and lesson is not None:
        gap = class_divergence(logits, guide, batch, lesson.temperature)
        values = (1 - lesson.weight) * values + lesson.weight * gap
    return jnp.sum(jnp.where(counts, values, 0))


def close(ours, theirs, rtol=2e-5):
    """Equal to `rtol` of the largest entry of all arrays: some gradients, as that of a key's bias, are 0."""
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(theirs))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * largest), ours, theirs)


@pytest.mark.parametrize("targets", [all_learnt, some_learnt])
def test_the_loss_and_its_gradient_are_those_of_whole_logits(model, targets):
    a, batch = model.architecture, packed(model.architecture)
    goal = targets(batch)

    def sliced(params):
        return summed_next_tokens(params, forward(params, batch, a).hidden, batch, goal, a)

    counts = learnt(batch, goal)
    assert 0 < int(counts.sum()) <= int(next_tokens(batch)[1].sum())
    expected = jax.jit(jax.value_and_grad(lambda params: by_hand(params, batch, a, counts)))(model.params)
    close(jax.jit(jax.value_and_grad(sliced))(model.params), expected)
    close(jax.jit(sliced)(model.params), expected[0])  # without a gradient it is another program


def test_targets_say_of_each_token_of_each_text_whether_it_is_learnt(model):
    batch = packed(model.architecture)
    goal = np.zeros((*batch.index.shape, 9), np.int8)
    goal[0, 0, 3] = goal[0, 1, 1] = goal[1, 1, 0] = 1  # the first token of a text has nothing that predicts it
    assert np.argwhere(np.asarray(learnt(batch, jnp.asarray(goal)))).tolist() == [[0, 2], [0, 9]]


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_a_teacher_is_followed_over_the_whole_vocabulary(model, weight):
    a, batch = model.architecture, packed(model.architecture)
    other = tiny.random_model(tiny.config("llama", hidden_size=24, num_attention_heads=6), seed=5)
    goal = some_learnt(batch)
    theirs = jax.jit(lambda params: forward(params, batch, other.architecture))(other.params)
    read = head_input(other.params, theirs.hidden, other.architecture)
    guide, lesson = Guide(read, vocabulary(other.params, other.architecture)), Lesson(other.architecture, weight, 2.0)

    def sliced(params):
        return summed_next_tokens(params, forward(params, batch, a).hidden, batch, goal, a, guide, lesson)

    whole = partial(
        by_hand, batch=batch, architecture=a, counts=learnt(batch, goal), guide=theirs.logits, lesson=lesson
    )
    close(jax.jit(jax.value_and_grad(sliced))(model.params), jax.jit(jax.value_and_grad(whole))(model.params), 5e-5)


VOCABULARY, HIDDEN, ROWS, LENGTH = 262_144, 8, 4, 512
WHOLE = 4 * VOCABULARY * ROWS * LENGTH  # bytes of all logits


@pytest.mark.parametrize("trains", [True, False])
def test_no_program_holds_all_logits(trains):
    """Two thousand tokens of a vocabulary of 262,144 would be 2 GiB; what is there is a few slices."""
    tied = tiny.random_model(tiny.config("gpt2")).architecture
    a = replace(tied, vocab=VOCABULARY, hidden=HIDDEN)
    shape: Any = lambda *size, dtype=jnp.float32: jax.ShapeDtypeStruct(size, dtype)  # noqa: E731
    whole = partial(shape, ROWS, LENGTH, dtype=jnp.int32)
    batch = Batch(whole(), whole(), whole(), whole(), shape(ROWS, 1, dtype=jnp.int32), shape(ROWS, 1, dtype=jnp.int32))
    norm = {"scale": shape(HIDDEN), "bias": shape(HIDDEN)}
    params = {"embed": {"token": shape(VOCABULARY, HIDDEN)}, "final_norm": norm}
    lesson = Lesson(a, 0.5, 2.0)

    def total(params, x, batch, goal, theirs, taught):
        return summed_next_tokens(params, x, batch, goal, a, Guide(theirs, taught), lesson)

    stream, goal = shape(ROWS, LENGTH, HIDDEN), shape(ROWS, 1, 0, dtype=jnp.int8)
    program = jax.jit(jax.value_and_grad(total, argnums=(0, 1) if trains else 1))
    compiled = program.lower(params, stream, batch, goal, stream, {"embed": params["embed"]}).compile()
    memory, text = compiled.memory_analysis(), str(compiled.as_text())
    assert memory is not None
    assert memory.temp_size_in_bytes < WHOLE / 4
    assert not re.search(rf"\[({ROWS * LENGTH}|{ROWS},{LENGTH}),{VOCABULARY}\]", text)
    assert f"[{slice_tokens(VOCABULARY)},{VOCABULARY}]" in text


def test_a_vocabulary_that_does_not_train_has_no_gradient():
    """Neither computed nor kept: the program has fewer operations, and no second matrix."""

    def function(params, x, constants, tokens):
        return jnp.sum(jnp.where(tokens[0], jax.nn.logsumexp(x @ params["m"], axis=-1), 0))

    arguments = {"m": jnp.ones((64, 4096))}, jnp.ones((2, 512, 64)), None, (jnp.ones((2, 512), bool),)
    compiled = [
        jax.jit(jax.grad(partial(sum_in_slices, function, 256), argnums=argnums)).lower(*arguments).compile()
        for argnums in ((0, 1), (1,))
    ]
    costs: list[Any] = [program.cost_analysis() for program in compiled]
    flops = [cost["flops"] for cost in costs]
    assert flops[1] < 0.8 * flops[0]


def test_bfloat16_sums_in_float32(model):
    a, batch = model.architecture, packed(model.architecture)
    goal = all_learnt(batch)
    total = lambda params, dtype: summed_next_tokens(  # noqa: E731
        params, forward(params, batch, a, dtype=dtype).hidden, batch, goal, a
    )
    value, slope = jax.jit(jax.value_and_grad(partial(total, dtype=jnp.bfloat16)))(model.params)
    wide = jax.jit(partial(total, dtype=jnp.float32))(model.params)
    assert value.dtype == jnp.float32
    assert abs(float(value / wide) - 1) < 0.01
    assert {leaf.dtype for leaf in jax.tree.leaves(slope)} == {jnp.dtype("float32")}
