"""Which token stands for a text, by hand and in every layout; tests/parity compares with transformers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.evaluation.outputs import text_outputs
from jaxprune.model import Batch, logits
from jaxprune.model.padded import plain_batch
from jaxprune.model.pooling import pool_slots, pooled
from jaxprune.report.bench import full_batch
from jaxprune.tokens.packing import Encoded, pack
from tests.helpers import tiny

PAD = 9
MODEL = tiny.random_model(tiny.config("llama", "classification", pad_token_id=PAD))
ARCHITECTURE = MODEL.architecture
IDS = np.array([[3, PAD, 4, PAD, 5, PAD, PAD, PAD], [PAD, PAD, 6, PAD, PAD, PAD, PAD, PAD]], np.int32)
SEGMENTS = np.array([[1, 1, 1, 1, 2, 2, 0, 0], [1, 1, 2, 2, 2, 3, 0, 0]], np.int32)
SLOTS = {
    "first": [[0, 4, 0, 0], [0, 2, 5, 0]],
    "last": [[3, 5, 0, 0], [1, 4, 5, 0]],  # where nothing is padding
    "last but padding": [[2, 4, 0, 0], [0, 2, 5, 0]],  # texts of padding alone: their first token
}


@pytest.mark.parametrize("rule", SLOTS)
def test_the_slot_of_every_text(rule):
    pad = PAD if rule == "last but padding" else None
    a = replace(ARCHITECTURE, pool=rule.split()[0], pool_pad=pad)
    assert pool_slots(a, IDS, SEGMENTS, 4).tolist() == SLOTS[rule]
    zeros = jnp.zeros((2, 4), jnp.int32)
    ids, segments = jnp.asarray(IDS), jnp.asarray(SEGMENTS)
    batch = Batch(ids, segments, segments, segments, zeros, zeros)
    assert jax.jit(lambda batch: pooled(batch, a))(batch).pool.tolist() == SLOTS[rule]


def test_slots_of_plainly_padded_rows():
    """As transformers: by the id where padding has one, whatever the mask; slot 0 for an encoder, even of padding."""
    ids, mask = np.array([[3, 4, PAD], [PAD, 5, 6], [7, 8, 2]]), np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0]])
    slots = lambda a: plain_batch(a, ids, mask).pool[:, 0].tolist()  # noqa: E731
    assert slots(ARCHITECTURE) == [1, 2, 2]
    assert slots(replace(ARCHITECTURE, pool_pad=None)) == [1, 2, 0]
    assert slots(replace(ARCHITECTURE, pool="first", pool_pad=None)) == [0, 0, 0]


@pytest.mark.parametrize("pad", [PAD, None])
def test_packed_and_padded_texts_say_the_same(pad):
    a, random = replace(ARCHITECTURE, pool_pad=pad), np.random.RandomState(0)
    model = MODEL.replace(architecture=a)
    texts = [random.randint(3, PAD, length).astype(np.int32) for length in (5, 1, 8, 3, 7, 2, 6)]
    encoded = Encoded(texts, [np.zeros_like(text) for text in texts])
    assert pack(encoded, a)[0].index.shape[1] > 1  # several to a row
    for side in ("left", "right"):
        ids, mask = np.full((7, 8), PAD, np.int32), np.zeros((7, 8), np.int32)
        for row, text in enumerate(texts):
            at = slice(8 - len(text), 8) if side == "left" else slice(0, len(text))
            ids[row, at], mask[row, at] = text, 1
        np.testing.assert_allclose(text_outputs(model, encoded), logits(model, ids, mask), rtol=0, atol=1e-5)


def test_a_row_of_random_tokens_is_read_at_its_end():
    assert full_batch(replace(ARCHITECTURE, pool_pad=None), 3, 6).pool.tolist() == [[5]] * 3
