"""Tiny checkpoints that were pruned, and what tests of exported folders ask of them."""

import json
from dataclasses import replace

import jax
import numpy as np

from jaxprune.checkpoint import load
from jaxprune.pruning.cut import cut, heads_stay, kept_units
from tests.helpers import tiny

IDS = np.arange(2, 16).reshape(2, 7)
WIDTHS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3", "phi3")  # with head_dim


def dense(path, family, **changes):
    settings = tiny.config(family, **changes)
    folder = tiny.write(path / "dense", settings, tiny.tensors(settings))
    (folder / "merges.txt").write_text("words")
    return load(folder)


def masks_of(model, *kept):
    """One flag a unit; `kept` per sublayer, None for all, as of heads that cannot leave."""
    if heads_stay(model.architecture):
        kept = [None if number % 2 == 0 else units for number, units in enumerate(kept)]
    counts = [count for size in model.architecture.layers for count in (size.groups, size.neurons)]
    return [np.isin(np.arange(n), range(n) if k is None else k) for n, k in zip(counts, kept, strict=True)]


def pruned(model, *kept):
    masks = masks_of(model, *kept)
    return cut(model, masks).with_record(kept=kept_units(model.architecture, masks))


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def assert_same(one, other):
    """Architecture and every number: then so are the logits."""
    assert one.architecture == other.architecture
    assert_equal(one.params, other.params)


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def with_output_biases(model):
    """As a refit with an intercept leaves it: biases on every output projection, whatever the family has."""
    random, hidden = np.random.RandomState(1), model.architecture.hidden
    layers = [
        {
            half: {name: {**leaf, "bias": random.normal(0, 0.3, hidden).astype("f")} if name in ("o", "down") else leaf
                   for name, leaf in part.items()}
            for half, part in layer.items()
        }
        for layer in model.params["layers"]
    ]  # fmt: skip
    architecture = replace(model.architecture, output_bias=True, down_bias=True)
    return model.replace(architecture=architecture, params={**model.params, "layers": layers})
