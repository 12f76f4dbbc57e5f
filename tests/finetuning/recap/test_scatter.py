"""Cut and write back, split and join: inverse to the last bit, and nothing else moves."""

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxprune.finetuning.recap.rounds import Chosen, written
from jaxprune.finetuning.recap.scatter import cut_params, join, kept_of, split, with_trained, write_back
from jaxprune.finetuning.step import select
from jaxprune.model import Architecture, LayerSizes, parameter_shapes
from jaxprune.model.architecture import HALVES
from jaxprune.model.sublayer import INPUTS, OUTPUT
from jaxprune.pruning.cut import unit_counts

GROUPED = Architecture(
    family="llama", vocab=9, hidden=6, head_width=2, max_positions=8, positions="none", embed_norm=False, norm="rms",
    layers=(LayerSizes(groups=2, queries=2, neurons=5), LayerSizes(groups=3, neurons=4)), gated=True,
    activation="silu", attention_bias=False,
)  # fmt: skip
PLAIN = Architecture(
    family="bert", vocab=9, hidden=6, head_width=2, max_positions=8, token_types=2, pooler="tanh",
    layers=(LayerSizes(groups=3, neurons=5),) * 2, head="classification", labels=("a", "b"),
)  # fmt: skip


def params_of(architecture, seed: int, dtype=np.float32):
    random = np.random.RandomState(seed)
    shapes = parameter_shapes(architecture)
    return jax.tree.map(lambda s: random.rand(*s).astype(dtype), shapes, is_leaf=lambda n: isinstance(n, tuple))


COUNTS = {architecture: unit_counts(architecture) for architecture in (PLAIN, GROUPED)}


@st.composite
def choices(draw):
    """An architecture, masks of its units (possibly none left), and the seed and share of the rows that train."""
    architecture = draw(st.sampled_from([PLAIN, GROUPED]))
    masks = [np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n))) for n in COUNTS[architecture]]
    return architecture, masks, draw(st.integers(0, 999)), draw(st.floats(0, 1))


def rows_of(choice):
    """Which rows of what stays train, and which token embeddings, by the choice's seed."""
    architecture, masks, seed, share = choice
    random, rows = np.random.RandomState(seed), []
    for layer in cut_params(params_of(architecture, 0), kept_of(architecture, masks))["layers"]:
        rows.append({half: {} for half in HALVES})
        for half in HALVES:
            for name in (*INPUTS[half], OUTPUT[half]):
                if name in layer[half]:
                    shape = layer[half][name]["kernel"].shape
                    rows[-1][half][name] = random.rand(*(shape[:-1] if name == OUTPUT[half] else shape[1:])) < share
    return rows, random.rand(architecture.vocab) < 0.5 if seed % 2 else None


def same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@given(choices())
def test_writing_back_what_was_cut_changes_nothing(choice):
    architecture, masks, *_ = choice
    full = params_of(architecture, 0)
    same(write_back(full, kept_of(architecture, masks), cut_params(full, kept_of(architecture, masks))), full)


@given(choices())
def test_cutting_what_was_written_back_gives_it_again_and_other_units_stay(choice):
    architecture, masks, *_ = choice
    full, other, kept = params_of(architecture, 0), params_of(architecture, 1), kept_of(architecture, masks)
    new = write_back(full, kept, cut_params(other, kept))
    same(cut_params(new, kept), cut_params(other, kept))
    gone = kept_of(architecture, [~mask for mask in masks])
    for ours, theirs in zip(cut_params(new, gone)["layers"], cut_params(full, gone)["layers"], strict=True):
        for half in HALVES:
            for name in (*INPUTS[half], OUTPUT[half]):
                if name in ours[half]:
                    np.testing.assert_array_equal(ours[half][name]["kernel"], theirs[half][name]["kernel"])
    same(full, params_of(architecture, 0))  # inputs are not edited


@given(choices())
def test_joining_what_was_split_changes_nothing(choice):
    (architecture, masks, *_), (rows, tokens) = choice, rows_of(choice)
    small = cut_params(params_of(architecture, 0), kept_of(architecture, masks))
    same(join(split(small, rows, tokens)), small)


@given(choices(), st.sampled_from([None, 0.5]))
@settings(max_examples=30)
def test_only_rows_that_trained_are_written_and_other_moments_decay(choice, beta):
    """`written` goes layer by layer; it equals the plain composition of the two inverse pairs."""
    (architecture, masks, *_), (rows, tokens) = choice, rows_of(choice)
    kept, full = kept_of(architecture, masks), params_of(architecture, 0)
    start = jax.tree.map(lambda leaf: leaf * np.float32(beta or 1), full)
    parts = split(cut_params(start, kept), rows, tokens)
    random = np.random.RandomState(3)
    trained = select(parts, lambda path: path.endswith("/trained"))[0]
    trained = jax.tree.map(lambda leaf: random.rand(*leaf.shape).astype(np.float32), trained)
    expected = write_back(start, kept, join(with_trained(parts, trained)))
    found = written(params_of(architecture, 0), Chosen(masks, kept, rows, tokens), trained, beta)
    same(found, expected)
    moved = sum(int(np.sum(a != b)) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(start), strict=True))
    assert moved == sum(leaf.size for leaf in jax.tree.leaves(trained))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_moments_keep_their_type(dtype):
    full = params_of(PLAIN, 0, dtype)
    masks = [np.arange(n) > 0 for n in unit_counts(PLAIN)]
    rows = [
        {
            "attention": {name: np.ones((2, 1, 2) if name in "qo" else (2, 2), bool) for name in "qkvo"},
            "feed_forward": {name: np.arange(4) > 1 for name in ("up", "down")},
        }
    ] * 2
    chosen = Chosen(masks, kept_of(PLAIN, masks), rows, None)
    parts = split(cut_params(full, chosen.kept), rows)
    trained = select(parts, lambda path: path.endswith("/trained"))[0]
    trained = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32) + 1, trained)
    found = written(params_of(PLAIN, 0, dtype), chosen, trained, 0.9)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(dtype)}
