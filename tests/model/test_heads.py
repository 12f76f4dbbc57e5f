"""Rows of the table of heads against their definitions, on packed texts."""

from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.errors import DataError
from jaxprune.model import Batch
from jaxprune.model.architecture import LAST_LAYERS, HeadKind, Problem
from jaxprune.model.heads import HEADS
from jaxprune.model.targets import IGNORED

TAGS = HEADS["token_classification", "single_label"]
# Two texts of three and two tokens in the first row, one of four in the second; the last slot holds none.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]], np.int32)
POSITIONS = np.array([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0]], np.int32)
INDEX = np.array([[0, 1], [2, -1]], np.int32)
BATCH = Batch(
    *map(jnp.asarray, (SEGMENTS, SEGMENTS, POSITIONS, 0 * SEGMENTS, np.array([[0, 3], [0, 0]], np.int32), INDEX))
)
GOALS = np.array([[IGNORED, 2, IGNORED, IGNORED], [0, 1, IGNORED, IGNORED], [IGNORED, 1, 1, IGNORED]], np.int32)


def test_every_kind_of_head_is_a_row():
    assert HEADS.keys() == {(kind, problem) for kind in get_args(HeadKind) for problem in get_args(Problem)}
    assert LAST_LAYERS.keys() == set(get_args(HeadKind))
    for (kind, _), row in HEADS.items():
        assert (row.fisher is None) == (row.language is not None)
        assert row.divergence is not None or row.loss is None  # vectors are learnt from a teacher only
        assert (row.check_targets is None) == (row.loss is None and row.language is None)
        assert not row.classes or LAST_LAYERS[kind].labelled
        assert not row.smooths or row.classes


def softmax(x):
    values = np.exp(x - x.max(axis=-1, keepdims=True))
    return values / values.sum(axis=-1, keepdims=True)


def test_the_loss_of_tags_is_the_mean_over_a_texts_labelled_tokens():
    logits = np.random.RandomState(0).normal(0, 2, (2, 6, 3)).astype(np.float32)
    logs = np.log(softmax(logits))
    expected = [-logs[0, 1, 2], -(logs[0, 3, 0] + logs[0, 4, 1]) / 2, -(logs[1, 1, 1] + logs[1, 2, 1]) / 2]
    assert TAGS.loss is not None
    found = TAGS.loss(jnp.asarray(logits), jnp.asarray(GOALS[np.maximum(INDEX, 0)]), BATCH, 0.0)
    np.testing.assert_allclose(np.asarray(found)[INDEX >= 0], expected, rtol=1e-5)  # float32


def test_the_divergence_of_tags_is_the_mean_over_all_of_a_texts_tokens():
    student, teacher = np.random.RandomState(1).normal(0, 2, (2, 2, 6, 3)).astype(np.float32)
    p, q = softmax(teacher / 2), softmax(student / 2)
    each = 4 * np.sum(p * np.log(p / q), axis=-1)
    expected = [each[0, :3].mean(), each[0, 3:5].mean(), each[1, :4].mean()]
    assert TAGS.divergence is not None
    found = TAGS.divergence(jnp.asarray(student), jnp.asarray(teacher), BATCH, 2.0)
    np.testing.assert_allclose(np.asarray(found)[INDEX >= 0], expected, rtol=1e-5)  # float32


@pytest.mark.parametrize("targets", [np.array([[0, 3]]), np.array([0, 1]), np.zeros((2, 2, 2), int)])
def test_tags_that_a_model_cannot_give_are_refused(targets):
    assert TAGS.check_targets is not None
    TAGS.check_targets(GOALS, 3)
    with pytest.raises(DataError, match="targets"):
        TAGS.check_targets(targets, 3)
