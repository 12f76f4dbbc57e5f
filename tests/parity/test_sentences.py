"""Vectors against transformers on torch, pooled as sentence-transformers defines it; run by `make parity`."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs torch: make parity installs it")

import torch

import jaxprune as jp
from tests.helpers.sentences import MODES, write_folder

pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch and transformers are not ours to fix

TOLERANCE = 2e-5  # absolute; float32, vectors of length 1
TEXTS = [
    "the film is good", "a dull book but the cast was very fine and the plot was long", "plot", "the the the a",
    "Where is my card? It has not arrived yet.", "A man is playing a guitar.",
]  # fmt: skip


def reference(folder, texts, inner="", max_length=256):
    """The hidden states and mask of texts, by transformers."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / inner)
    model = AutoModel.from_pretrained(folder / inner, torch_dtype=torch.float32).eval()
    given = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        return model(**given).last_hidden_state, given["attention_mask"]


def pooled(x, mask, mode):
    """`Pooling.forward` of sentence-transformers, rewritten."""
    m = mask[..., None].float()
    if mode == "pooling_mode_cls_token":
        return x[:, 0]
    if mode == "pooling_mode_max_tokens":
        return x.masked_fill(m == 0, -torch.inf).max(1).values
    if mode == "pooling_mode_lasttoken":
        return x[torch.arange(len(x)), mask.sum(1) - 1]
    if mode == "pooling_mode_weightedmean_tokens":
        m = m * torch.arange(1, x.shape[1] + 1)[None, :, None]
    total = m.sum(1)
    return (x * m).sum(1) / (total.sqrt() if mode == "pooling_mode_mean_sqrt_len_tokens" else total)


@pytest.mark.parametrize("inner", ["", "0_Transformer"])
def test_tiny_folders_give_the_same_vectors(tmp_path, inner):
    folder = write_folder(tmp_path / "m", MODES, ((7, "torch.nn.modules.activation.Tanh"),), inner=inner)
    x, mask = reference(folder, TEXTS[:4], inner, max_length=12)
    y = torch.cat([pooled(x, mask, mode) for mode in MODES], dim=-1)
    from safetensors.torch import load_file

    dense = load_file(folder / "2_Dense" / "model.safetensors")
    y = torch.tanh(torch.nn.functional.linear(y, dense["linear.weight"], dense["linear.bias"]))
    expected = torch.nn.functional.normalize(y).numpy()
    np.testing.assert_allclose(jp.embed(jp.load(folder), TEXTS[:4]), expected, rtol=0, atol=TOLERANCE)


def test_a_real_model_gives_the_same_vectors_and_so_does_its_export(real_model, tmp_path):
    folder = real_model("minilm")
    x, mask = reference(folder, TEXTS)
    expected = torch.nn.functional.normalize(pooled(x, mask, "pooling_mode_mean_tokens")).numpy()
    model = jp.load(folder)
    np.testing.assert_allclose(jp.embed(model, TEXTS), expected, rtol=0, atol=TOLERANCE)
    jp.export(model, tmp_path / "x")
    x, mask = reference(tmp_path / "x", TEXTS)
    again = torch.nn.functional.normalize(pooled(x, mask, "pooling_mode_mean_tokens")).numpy()
    np.testing.assert_allclose(again, expected, rtol=0, atol=TOLERANCE)
    assert json.loads((tmp_path / "x" / "1_Pooling" / "config.json").read_text())["word_embedding_dimension"] == 384
