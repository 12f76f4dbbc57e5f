"""Embedding models as ONNX files: every pooling mode, dense layers, folders that `embed` runs."""

import json
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX files need the package onnx")
pytest.importorskip("onnxruntime", reason="ONNX files are run by onnxruntime")

import jaxprune as jp
from jaxprune.errors import DataError
from jaxprune.exports.onnx_file import as_onnx
from jaxprune.exports.onnx_graph import graph_of
from jaxprune.model import logits
from jaxprune.model.embedding import DenseActivation, DenseStep, Embedding, PoolingMode
from jaxprune.runtime.onnx import open_onnx
from tests.helpers import tiny
from tests.helpers.sentences import MODES, write_folder

IDS = np.random.RandomState(0).randint(2, 30, (3, 6))
RIGHT = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]])


def embedder(embedding: Embedding, seed: int = 0) -> Any:
    """A random model that pools so."""
    model, random = tiny.random_model(tiny.config("bert", "none"), seed), np.random.RandomState(seed)
    widths = embedding.widths(model.architecture.hidden)
    head = [
        {
            "kernel": random.normal(0, 0.4, pair).astype(np.float32),
            "bias": random.normal(0, 1, pair[1]).astype(np.float32),
        }
        for pair in zip(widths[:-1], widths[1:], strict=True)
    ]
    params = {**model.params, **({"head": head} if head else {})}
    return model.replace(architecture=replace(model.architecture, head="embedding", embedding=embedding), params=params)


@pytest.mark.parametrize("mask", [RIGHT, RIGHT[:, ::-1]], ids=["right", "left"])
def test_every_mode_and_activation_gives_the_same_vectors(mask):
    steps = tuple(DenseStep(outputs=5, activation=name) for name in get_args(DenseActivation))
    for settings in (Embedding(pooling=get_args(PoolingMode)), Embedding(dense=steps, normalize=True)):
        model = embedder(settings)
        program = open_onnx(as_onnx(graph_of(model.architecture, model.params)).SerializeToString(), threads=1)
        types = np.zeros_like(IDS)
        expected = np.asarray(logits(model, IDS, mask, types))
        np.testing.assert_allclose(program(IDS, mask, types), expected, rtol=0, atol=1e-5)  # float32, two layers


def test_an_exported_folder_embeds_texts(tmp_path):
    model = jp.load(write_folder(tmp_path / "m", (MODES[2],), ((7, "torch.nn.modules.activation.Tanh"),)))
    jp.export(model, tmp_path / "x", format="onnx")
    shipped, texts = jp.load_onnx(tmp_path / "x"), ["the film is good", "a dull book", "the plot"]
    np.testing.assert_allclose(jp.embed(shipped, texts), jp.embed(model, texts), rtol=0, atol=1e-5)
    assert (tmp_path / "x" / "2_Dense" / "model.safetensors").is_file()
    with pytest.raises(DataError, match="brings vectors to length 1; run the model"):
        jp.embed(shipped, texts, normalize=False)


@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_programs_say_that_they_pool_a_prompt_and_bring_how_texts_are_read(tmp_path, format):
    folder = write_folder(tmp_path / "m", (MODES[2],), prompts={"query": "film: "}, default_prompt_name="query")
    assert jp.export(jp.load(folder), tmp_path / "pooled", format=format).warnings == ()
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({**pooling, "include_prompt": False}))
    written = jp.export(jp.load(folder), tmp_path / "x", format=format)
    (warning,) = written.warnings
    assert "the program pools all tokens of a text, also those of a prompt, which the model leaves out" in warning
    said = json.loads((written.folder / "config_sentence_transformers.json").read_text())
    assert said["prompts"] == {"query": "film: "} and said["default_prompt_name"] == "query"
    assert json.loads((written.folder / "sentence_bert_config.json").read_text())["max_seq_length"] == 12
    jp.export(jp.load(folder), tmp_path / "x", format=format, overwrite=True)  # every file is known to be ours
