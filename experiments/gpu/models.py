"""Models by their shape alone: random weights, and texts that are token ids from the start."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

import jaxprune as jp
from jaxprune.model import Architecture, LayerSizes, Model, Provenance, parameter_shapes

BERT = Architecture(  # google-bert/bert-base-uncased
    family="bert",
    vocab=30522,
    hidden=768,
    head_width=64,
    layers=(LayerSizes(groups=12, neurons=3072),) * 12,
    max_positions=512,
    token_types=2,
    pooler="tanh",
    head="classification",
    labels=("negative", "positive"),
)
OPT = Architecture(  # facebook/opt-125m
    family="opt",
    vocab=50272,
    hidden=768,
    head_width=64,
    layers=(LayerSizes(groups=12, neurons=3072),) * 12,
    max_positions=2048,
    position_offset=2,
    positions_count="mask",
    pad_id=1,
    embed_norm=False,
    norm_position="pre",
    norm_eps=1e-5,
    activation="relu",
    causal=True,
    head="causal_lm",
    tied=True,
)
LLAMA = Architecture(  # meta-llama/Llama-3.2-1B; its scaling of rotary frequencies changes no cost
    family="llama",
    vocab=128256,
    hidden=2048,
    head_width=64,
    layers=(LayerSizes(groups=8, queries=4, neurons=8192),) * 16,
    max_positions=131072,
    positions="rotary",
    rotary=tuple(float(500000.0 ** (-pair / 32)) for pair in range(32)),
    embed_norm=False,
    norm="rms",
    norm_position="pre",
    norm_eps=1e-5,
    activation="silu",
    gated=True,
    attention_bias=False,
    output_bias=False,
    feed_forward_bias=False,
    down_bias=False,
    causal=True,
    head="causal_lm",
    tied=True,
)


def shrunk(architecture: Architecture, layers: int = 2) -> Architecture:
    """The same family at a size that a CPU compiles and runs in seconds."""
    size = architecture.layers[0]
    small = LayerSizes(groups=2, queries=min(size.queries, 2), neurons=64)
    rotary = architecture.rotary and tuple(float(10000.0 ** (-pair / 4)) for pair in range(4))
    return replace(
        architecture, vocab=101, hidden=32, head_width=8, layers=(small,) * layers, max_positions=64, rotary=rotary
    )


def shape_of(architecture: Architecture, tiny: bool, layers: int | None = None) -> Architecture:
    """The architecture with so many layers (all: None), or with `tiny` its shrunk form."""
    if tiny:
        return shrunk(architecture, min(layers or 2, 2))
    return architecture if layers is None else architecture.with_layers(architecture.layers[:layers])


def random_model(architecture: Architecture, seed: int = 0, dtype: str = "float32", deviation: float = 0.02) -> Model:
    """Weights from N(0, deviation²), norms' scales 1, biases 0, as NumPy arrays: the device holds nothing of it."""
    random, kind = np.random.default_rng(seed), np.dtype(getattr(ml_dtypes, dtype, dtype))

    def leaf(path: Any, shape: tuple[int, ...]) -> np.ndarray:
        name = path[-1].key
        if name in ("scale", "bias"):
            return np.full(shape, name == "scale", kind)
        drawn = random.standard_normal(shape, np.float32)
        drawn *= np.float32(deviation)
        return drawn.astype(kind, copy=False)

    shapes = parameter_shapes(architecture)
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    return Model(architecture, jax.tree_util.tree_map_with_path(leaf, shapes, is_leaf=is_shape))


def on_device(model: Model) -> Model:
    return model.replace(params=jax.tree.map(jnp.asarray, model.params))


def digest(model: Model) -> str:
    """SHA-256 of all weights: whether two machines drew the same ones."""
    sha = hashlib.sha256()
    for array in jax.tree.leaves(model.params):
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def random_ids(architecture: Architecture, texts: int, length: int, seed: int = 0) -> np.ndarray:
    """[texts, length] token ids."""
    return np.random.RandomState(seed).randint(0, architecture.vocab, (texts, length)).astype(np.int32)


def calibration(architecture: Architecture, texts: int, length: int, seed: int = 0) -> jp.Calibration:
    return jp.Calibration.of_ids(random_ids(architecture, texts, length, seed), None, source="random token ids")


def with_number_tokenizer(model: Model, folder: Path) -> Model:
    """The model with a tokenizer that reads a text of numbers as token ids, for methods that begin with texts."""
    vocabulary = {str(number): number for number in range(model.architecture.vocab)}
    settings = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "0"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    # The class that takes the file as it is: a family's own would put special tokens around every text.
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return model.replace(provenance=Provenance(source=str(folder)))


def number_task(architecture: Architecture, train: int, validation: int, length: int) -> jp.Task:
    """Random texts of so many tokens for `with_number_tokenizer`, their labels in turn."""

    def examples(count: int, seed: int) -> tuple[jp.Example, ...]:
        rows = random_ids(architecture, count, length, seed).tolist()
        return tuple(jp.Example(" ".join(map(str, row)), None, number % 2) for number, row in enumerate(rows))

    return jp.Task(
        "random", "single_label", architecture.labels, "accuracy", examples(train, 1), examples(validation, 2),
        "random token ids", max_length=length,
    )  # fmt: skip
