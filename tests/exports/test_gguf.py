"""GGUF files, read back by a reader of their own: tensors, keys, what they compute, and what has no place in them.

llama.cpp itself does not run here; what was done with it is told in docs/use.md.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gguf", reason="GGUF files are written by the package gguf")

import jaxprune as jp
from jaxprune.model import logits
from jaxprune.pruning.cut import cut
from tests.helpers import tiny
from tests.helpers.gguf_reader import logits_of, read_gguf

UNEVEN = ([0, 2], [1, 7, 8], [0], [0, 3])
EMPTY = ([], [1, 7], [1], [])  # llama.cpp does not load the first, and passes over the attention beside the second
NOTHING = ([], [], [], [])
EVEN = ([0, 2], [1, 7, 8], [1, 2], [0, 3, 4])
FEWER_NEURONS = ([0, 1, 2], [1, 7, 8], [0, 1, 2], [0, 3, 4])
GROUPED = {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 24}


def model_of(family, kept=None, biases=False, **changes):
    """A tiny random model with a record of its checkpoint, cut to the units that are `kept`."""
    settings = tiny.config(family, "causal_lm", **changes)
    model = tiny.random_model(settings).with_record(source_config=settings)
    if kept is not None:
        counts = [count for size in model.architecture.layers for count in (size.groups, size.neurons)]
        model = cut(model, [np.isin(np.arange(n), units) for n, units in zip(counts, kept, strict=True)])
    return with_output_biases(model) if biases else model


def with_output_biases(model):
    """As a refit with an intercept leaves it: biases on every output projection."""
    random, hidden = np.random.RandomState(1), model.architecture.hidden
    layers = [
        {
            half: {name: {**leaf, "bias": random.normal(0, 0.3, hidden)} if name in ("o", "down") else leaf
                   for name, leaf in part.items()}
            for half, part in layer.items()
        }
        for layer in model.params["layers"]
    ]  # fmt: skip
    architecture = replace(model.architecture, output_bias=True, down_bias=True)
    return model.replace(architecture=architecture, params={**model.params, "layers": layers})


def exported(model, folder, **settings):
    written = jp.export(model, folder, format="gguf", **settings)
    return written, read_gguf(folder / "model.gguf")


def assert_same_logits(model, file, tolerance=1e-5):
    """float32, two layers: 1e-5 of the largest logit."""
    ids = np.random.RandomState(0).randint(0, model.architecture.vocab, 13)
    expected, got = np.asarray(logits(model, ids[None]))[0], logits_of(file, ids)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


CASES: dict[str, tuple[str, dict[str, Any], Any, bool, str]] = {
    # name: family, settings, kept units, output biases, architecture of the file
    "llama": ("llama", {}, None, False, "llama"),
    "llama, uneven": ("llama", {}, UNEVEN, False, "deci"),
    "llama, uneven, biases": ("llama", GROUPED | {"attention_bias": True, "mlp_bias": True}, UNEVEN, True, "deci"),
    "llama, empty sublayers": ("llama", {}, EMPTY, True, "deci"),
    "llama, nothing left": ("llama", GROUPED, NOTHING, True, "llama"),
    "llama, even": ("llama", GROUPED, EVEN, False, "llama"),
    "llama, even, output biases": ("llama", {}, EVEN, True, "llama"),
    "llama, tied": ("llama", {"tie_word_embeddings": True}, UNEVEN, False, "deci"),
    "mistral": ("mistral", GROUPED, None, False, "llama"),
    "mistral, uneven": ("mistral", GROUPED, UNEVEN, True, "deci"),
    "qwen2": ("qwen2", GROUPED, FEWER_NEURONS, False, "qwen2"),
    "qwen2, fewer heads": ("qwen2", GROUPED, EVEN, False, "llama"),
    "qwen2, output biases": ("qwen2", {}, FEWER_NEURONS, True, "llama"),
    "qwen2, uneven": ("qwen2", GROUPED, UNEVEN, True, "deci"),
    "qwen2, empty sublayers": ("qwen2", {}, EMPTY, False, "deci"),
    "qwen3": ("qwen3", GROUPED, None, False, "qwen3"),
    "qwen3, even": ("qwen3", GROUPED, EVEN, False, "qwen3"),
    "qwen3, uneven": ("qwen3", GROUPED | {"tie_word_embeddings": True}, UNEVEN, False, "openelm"),
    "qwen3, empty sublayers": ("qwen3", {"tie_word_embeddings": True}, EMPTY, False, "openelm"),
    "gpt2": ("gpt2", {}, None, False, "gpt2"),
    "gpt2, fewer neurons": ("gpt2", {}, FEWER_NEURONS, False, "gpt2"),
    "gpt2, head of its own": ("gpt2", {"tie_word_embeddings": False}, None, False, "gpt2"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_alone_gives_the_same_logits(tmp_path, name):
    family, changes, kept, biases, architecture = CASES[name]
    model = model_of(family, kept, biases, **changes)
    written, file = exported(model, tmp_path / "out")
    assert (file.name, written.config["architectures"]) == (architecture, [architecture])
    assert set(file.types.values()) == {"F32"} and written.dtype == "float32"
    assert written.bytes == sum(4 * tensor.size for tensor in file.tensors.values())
    assert_same_logits(model, file)
