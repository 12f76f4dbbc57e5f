"""Logits against transformers on torch, live; run by `make parity`."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs torch: make parity installs it")

import torch

from jaxprune.checkpoint import load
from jaxprune.model import logits
from jaxprune.model.attention_kinds import Relative
from jaxprune.model.relative import pair_buckets
from tests.helpers import tiny
from tests.parity.reference import (
    CLASSES,
    DECODERS,
    ENCODERS,
    PAIRS,
    cases,
    compared,
    random_reference,
    reference_logits,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch and transformers are not ours to fix

TOLERANCE = 2e-5  # absolute; float32, two layers


def assert_parity(folder, reference, family, **asked):
    model = load(folder, **asked)
    assert model.provenance.warnings == ()
    for name, inputs in cases(family).items():
        ours, theirs = np.asarray(logits(model, **inputs)), reference_logits(reference, inputs)
        assert ours.shape == theirs.shape
        if ours.ndim == 3:
            ours, theirs = ours[compared(inputs, family)], theirs[compared(inputs, family)]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize(("family", "head"), PAIRS)
def test_logits_match_transformers(tmp_path, family, head):
    reference = random_reference(family, head, seed=1)
    reference.save_pretrained(tmp_path)
    assert_parity(tmp_path, reference, family)


@pytest.mark.parametrize("form", ["sharded", "bin", "msgpack"])
@pytest.mark.parametrize("family", CLASSES)
def test_every_file_format_gives_the_same_logits(tmp_path, family, form):
    reference = random_reference(family, "classification" if family in ENCODERS else "causal_lm", seed=2)
    if form == "sharded":
        reference.save_pretrained(tmp_path, max_shard_size="4KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    else:
        reference.config.architectures = [type(reference).__name__]
        reference.config.save_pretrained(tmp_path)
    state = reference.state_dict()
    if form == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    if form == "msgpack":
        from flax.serialization import msgpack_serialize

        tree = tiny.flax_tree({name: tensor.numpy() for name, tensor in state.items() if "position_ids" not in name})
        (tmp_path / "flax_model.msgpack").write_bytes(msgpack_serialize(tree))
    assert_parity(tmp_path, reference, family)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_half_precision_files_are_computed_in_float32(tmp_path, dtype, form):
    reference = random_reference("bert", "classification", seed=3).to(dtype)
    reference.save_pretrained(tmp_path)
    if form == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(reference.state_dict(), tmp_path / "pytorch_model.bin")
    assert_parity(tmp_path, reference.float(), "bert")


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python"])
def test_activations(tmp_path, activation):
    reference = random_reference("bert", "classification", hidden_act=activation)
    reference.save_pretrained(tmp_path)
    assert_parity(tmp_path, reference, "bert")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_labels": 1}, "regression"),
        ({"num_labels": 1, "problem_type": "regression"}, "regression"),
        ({"problem_type": "multi_label_classification"}, "multi_label"),
        ({"problem_type": "single_label_classification"}, "single_label"),
    ],
)
def test_problems(tmp_path, changes, problem):
    reference = random_reference("distilbert", "classification", **changes)
    reference.save_pretrained(tmp_path)
    assert load(tmp_path).architecture.problem == problem
    assert_parity(tmp_path, reference, "distilbert")


@pytest.mark.parametrize("family", ENCODERS)
def test_a_masked_language_model_is_its_encoder(tmp_path, family):
    import transformers

    reference = random_reference(family, "none", seed=4)
    whole = getattr(transformers, f"{CLASSES[family]}ForMaskedLM")(reference.config)
    encoder = getattr(whole, whole.base_model_prefix)
    encoder.load_state_dict(reference.state_dict(), strict=False)
    whole.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [type(whole).__name__]
    assert_parity(tmp_path, reference, family, head="none")


def test_tensors_may_share_storages_and_be_views(tmp_path):
    """Whatever strides torch.save wrote, the numbers come back."""
    config = tiny.config("bert")
    named = {name: torch.from_numpy(array.copy()) for name, array in tiny.tensors(config).items()}
    whole = torch.cat([tensor.reshape(-1) for tensor in named.values()])
    offset, views = 0, {}
    for name, tensor in named.items():
        views[name] = whole[offset : offset + tensor.numel()].view(tensor.shape)
        offset += tensor.numel()
        if tensor.ndim == 2:
            views[name] = views[name].T.contiguous().T
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(views, folder / "pytorch_model.bin")
    ids = np.arange(10).reshape(2, 5) + 2
    np.testing.assert_array_equal(logits(load(folder), ids), logits(tiny.random_model(config), ids))


@pytest.mark.parametrize(("family", "length"), [("mpnet", 190), ("xlm-roberta", 17), ("camembert", 17)])
def test_texts_as_long_as_the_model_reads(tmp_path, family, length):
    """Of MPNet beyond the farthest distance that has a bucket of its own."""
    reference = random_reference(family, "none", seed=7, max_position_embeddings=length + 2)
    reference.save_pretrained(tmp_path)
    random, mask = np.random.RandomState(0), np.ones((2, length), int)
    mask[1, : length // 3] = 0
    inputs = {"input_ids": np.where(mask > 0, random.randint(2, 30, mask.shape), 1), "attention_mask": mask}
    ours, theirs = np.asarray(logits(load(tmp_path), **inputs)), reference_logits(reference, inputs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def test_buckets_of_all_distances():
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    ahead = torch.arange(-700, 701)
    theirs = MPNetEncoder.relative_position_bucket(ahead).numpy()
    pairs = np.asarray(pair_buckets(Relative(), 701))
    np.testing.assert_array_equal(np.concatenate([pairs[700, :700], pairs[0]]), theirs)


# --- decoders: the switches of their families


def rope(kind: str, **settings) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0, **settings}}


VARIANTS = {
    "OPT-350m: norms after, projected embeddings": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 8}),
    "OPT, norms before, projected embeddings": ("opt", {"word_embed_proj_dim": 8}),
    "OPT, gelu": ("opt", {"activation_function": "gelu"}),
    "OPT, untied": ("opt", {"tie_word_embeddings": False}),
    "GPT-2, neurons by default": ("gpt2", {"n_inner": None}),
    "Llama, every head its own keys": ("llama", {"num_key_value_heads": 4}),
    "Llama, one group": ("llama", {"num_key_value_heads": 1}),
    "Llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "Llama, tied": ("llama", {"tie_word_embeddings": True}),
    "Llama, linear": ("llama", rope("linear", factor=2.0)),
    "Llama, dynamic": ("llama", rope("dynamic", factor=2.0)),
    "Llama 3": ("llama", rope("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                              original_max_position_embeddings=10)),
    "Llama, yarn": ("llama", rope("yarn", factor=4.0, original_max_position_embeddings=10)),
    "Llama, yarn, mscale": ("llama", rope("yarn", factor=4.0, original_max_position_embeddings=10, truncate=False,
                                          mscale=0.7, mscale_all_dim=0.4, beta_fast=4.0, beta_slow=2.0)),
    "Llama, yarn, attention factor": ("llama", rope("yarn", factor=4.0, attention_factor=1.3)),
    "Qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "Qwen3, biases": ("qwen3", {"attention_bias": True}),
    "Qwen3, heads wider than the stream": ("qwen3", {"head_dim": 6}),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_switches_of_decoders(tmp_path, name):
    family, changes = VARIANTS[name]
    reference = random_reference(family, "causal_lm", seed=5, **changes)
    reference.save_pretrained(tmp_path)
    assert_parity(tmp_path, reference, family)


@pytest.mark.parametrize("family", DECODERS)
def test_bfloat16_stays_close_to_float32(tmp_path, family):
    """Root mean square of the difference: below 5 % of the logits' own spread (8 bits, two layers, random weights)."""
    reference = random_reference(family, "causal_lm", seed=6)
    reference.save_pretrained(tmp_path)
    model, inputs = load(tmp_path), cases(family)["full"]
    half = np.asarray(logits(model, **inputs, dtype=jnp.bfloat16))
    full = reference_logits(reference, inputs)
    assert np.sqrt(np.mean((half - full) ** 2)) < 0.05 * full.std()
