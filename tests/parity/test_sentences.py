"""Vectors against transformers on torch, pooled as sentence-transformers defines it; run by `make parity`."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs torch: make parity installs it")

import torch

import jaxprune as jp
from jaxprune.model import Batch
from jaxprune.model.in_batch import ranking_loss
from jaxprune.pruning.cut import cut
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


@pytest.mark.parametrize("name, width", [("minilm", 384), ("mpnet-base", 768)])
def test_a_real_model_gives_the_same_vectors_and_so_does_its_export(real_model, tmp_path, name, width):
    folder = real_model(name)
    x, mask = reference(folder, TEXTS)
    expected = torch.nn.functional.normalize(pooled(x, mask, "pooling_mode_mean_tokens")).numpy()
    model = jp.load(folder)
    np.testing.assert_allclose(jp.embed(model, TEXTS), expected, rtol=0, atol=TOLERANCE)
    jp.export(model, tmp_path / "x")
    x, mask = reference(tmp_path / "x", TEXTS)
    again = torch.nn.functional.normalize(pooled(x, mask, "pooling_mode_mean_tokens")).numpy()
    np.testing.assert_allclose(again, expected, rtol=0, atol=TOLERANCE)
    assert json.loads((tmp_path / "x" / "1_Pooling" / "config.json").read_text())["word_embedding_dimension"] == width


@pytest.fixture
def sentence_transformers(tmp_path, monkeypatch):
    """The package, with files of code that are run copied below the test's folder."""
    package = pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", tmp_path / "modules")
    return package


def uneven(model):
    """Every layer another share of its heads and neurons, drawn at random."""
    random = np.random.RandomState(3)
    counts = [count for size in model.architecture.layers for count in (size.groups, size.neurons)]
    return cut(
        model, [np.arange(count) == 0 if at == 1 else random.rand(count) < 0.6 for at, count in enumerate(counts)]
    )


VECTORS = 5e-6  # absolute; float32, vectors of length 1


def test_sentence_transformers_makes_the_vectors_of_a_model_whose_layers_differ(tmp_path, sentence_transformers):
    """And after it has saved the model, both still do."""
    dense = ((7, "torch.nn.modules.activation.Tanh"),)
    folder = write_folder(tmp_path / "m", MODES[:4], dense, prompts={"ask": "the "}, default_prompt_name=None)
    model = uneven(jp.load(folder))
    jp.export(model, tmp_path / "x")
    with pytest.raises((RuntimeError, ValueError)):  # the class of transformers has the sizes of the dense model
        sentence_transformers.SentenceTransformer(str(tmp_path / "x"), device="cpu")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "x"), trust_remote_code=True, device="cpu")
    for name in (None, "ask"):
        expected = jp.embed(model, TEXTS[:4], prompt_name=name)
        np.testing.assert_allclose(theirs.encode(TEXTS[:4], prompt_name=name), expected, rtol=0, atol=VECTORS)
    theirs.save(str(tmp_path / "again"))
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "again"), trust_remote_code=True, device="cpu")
    expected = jp.embed(model, TEXTS[:4])
    np.testing.assert_allclose(again.encode(TEXTS[:4]), expected, rtol=0, atol=VECTORS)
    np.testing.assert_allclose(jp.embed(jp.load(tmp_path / "again"), TEXTS[:4]), expected, rtol=0, atol=VECTORS)


def test_a_real_model_in_sentence_transformers(real_model, tmp_path, sentence_transformers):
    model = uneven(jp.load(real_model("minilm")))
    jp.export(
        model, tmp_path / "x", dtype="float32"
    )  # in what the checkpoint is stored in, halves, torch would compute
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "x"), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS), jp.embed(model, TEXTS), rtol=0, atol=VECTORS)
    assert len({size.groups for size in model.architecture.layers}) > 1


def test_the_loss_of_pairs_and_its_gradient_are_those_of_multiple_negatives_ranking():
    """`MultipleNegativesRankingLoss.forward` of sentence-transformers, rewritten: anchors, positives, negatives."""
    random = np.random.RandomState(0)
    x = random.normal(0, 1, (5, 3, 8)).astype(np.float32)  # [pairs, roles, dimensions]
    vectors = torch.tensor(x, requires_grad=True)
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    scores = 20.0 * unit[:, 0] @ torch.cat([unit[:, 1], unit[:, 2]]).T
    loss = torch.nn.functional.cross_entropy(scores, torch.arange(5))
    loss.backward()
    index = np.arange(15, dtype=np.int32).reshape(5, 3)
    targets = np.stack([index // 3, index % 3, index], axis=-1)
    nothing = jnp.zeros((5, 3), jnp.int32)
    batch = Batch(nothing, nothing, nothing, nothing, nothing, jnp.asarray(index))
    mean = lambda x: jnp.sum(ranking_loss(x, jnp.asarray(targets), batch)) / 5  # noqa: E731
    value, slope = jax.value_and_grad(mean)(jnp.asarray(x))
    assert float(value) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert vectors.grad is not None
    np.testing.assert_allclose(slope, vectors.grad.numpy(), rtol=0, atol=1e-5)
