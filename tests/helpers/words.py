"""A tiny BERT-like model and a word-level tokenizer, as fixtures: import them in the conftest.py that needs them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from jaxprune.model import Architecture, LayerSizes, Model, Provenance, parameter_shapes
from tests.helpers.tokenizers import as_it_stands

WORDS = "the a film book plot cast good bad fine dull warm cold long short and but is was very not who when".split()
VOCABULARY = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}


def write_tokenizer(folder: Path) -> None:
    """A word-level tokenizer.json that asks for truncation and padding, as published ones do."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.enable_truncation(5)
    backend.enable_padding(length=40)
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    as_it_stands(folder)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


def build(folder: Path | None = None, seed: int = 0, **changes: Any) -> Model:
    """A random BERT-like model of two layers whose outputs depend on position and type."""
    settings: dict[str, Any] = {
        "family": "bert",
        "vocab": len(VOCABULARY),
        "hidden": 8,
        "head_width": 4,
        "layers": (LayerSizes(groups=2, neurons=12),) * 2,
        "max_positions": 64,
        "token_types": 2,
        "pooler": "tanh",
        "head": "classification",
        "labels": ("negative", "positive"),
    }
    architecture = Architecture(**(settings | changes))
    random = np.random.RandomState(seed)

    def leaf(path: Any, shape: tuple[int, ...]) -> np.ndarray:
        # Large kernels, small biases: the outputs then depend on the text, not on the biases alone.
        deviation, mean = {"scale": (0.1, 1), "bias": (0.1, 0)}.get(path[-1].key, (1, 0))
        return random.normal(mean, deviation, shape).astype(np.float32)

    shapes = parameter_shapes(architecture)
    params = jax.tree_util.tree_map_with_path(leaf, shapes, is_leaf=lambda node: isinstance(node, tuple))
    return Model(architecture, params, Provenance(source=None if folder is None else str(folder)))


@pytest.fixture(scope="session")
def tiny(tokenizer_folder):
    """tiny(**changes) -> a random model that finds its tokenizer; changes are fields of its `Architecture`."""
    return lambda seed=0, **changes: build(tokenizer_folder, seed, **changes)


@pytest.fixture
def write(tmp_path):
    """write("sst2/train.jsonl", rows) -> the path; rows are objects, or the file's bytes."""

    def write(name: str, rows: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rows if isinstance(rows, bytes) else "\n".join(map(json.dumps, rows)).encode())
        return path

    return write


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the hub: `hub.splits` is what loads, `hub.error` what is raised, `hub.asked` what was asked for."""
    datasets = pytest.importorskip("datasets")
    state = SimpleNamespace(splits={}, error=None, asked=[])

    def load_dataset(*arguments):
        state.asked.append(arguments)
        if state.error:
            raise state.error
        return state.splits

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return state
