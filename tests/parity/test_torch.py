"""Logits against transformers on torch, live; run by `make parity`."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs torch: make parity installs it")

import torch

import jaxprune as jp
from jaxprune.checkpoint import load
from jaxprune.model import logits
from jaxprune.model.attention_kinds import Disentangled, Relative
from jaxprune.model.disentangled import distance_rows, pair_rows
from jaxprune.model.relative import pair_buckets
from tests.helpers import tiny
from tests.parity.reference import (
    CLASSES,
    CLOSE,
    DECODERS,
    ENCODERS,
    PAIRS,
    cases,
    compared,
    random_reference,
    reference_logits,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch and transformers are not ours to fix


def assert_parity(folder, reference, family, **asked):
    model = load(folder, **asked)
    assert model.provenance.warnings == ()
    for name, inputs in cases(family).items():
        ours, theirs = np.asarray(logits(model, **inputs)), reference_logits(reference, inputs)
        assert ours.shape == theirs.shape
        if ours.ndim == 3:
            ours, theirs = ours[compared(inputs, family)], theirs[compared(inputs, family)]
        np.testing.assert_allclose(ours, theirs, **CLOSE, err_msg=name)


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
    np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_buckets_of_all_distances():
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    ahead = torch.arange(-700, 701)
    theirs = MPNetEncoder.relative_position_bucket(ahead).numpy()
    pairs = np.asarray(pair_buckets(Relative(), 701))
    np.testing.assert_array_equal(np.concatenate([pairs[700, :700], pairs[0]]), theirs)


DISTANCES = {"position_buckets": 6, "max_position_embeddings": 40}


@pytest.mark.parametrize(
    "changes",
    [
        {"pos_att_type": "c2p"},
        {"pos_att_type": ["p2c"], "share_att_key": False},
        {"share_att_key": False, "norm_rel_ebd": "none", "max_relative_positions": 5, "position_buckets": -1},
        {"position_biased_input": True, "type_vocab_size": 2, "pooler_hidden_act": "tanh"},
        {"relative_attention": False, "norm_rel_ebd": "none", "position_biased_input": True},
        {"pos_att_type": None, "attention_head_size": 4, "embedding_size": 12, "layer_norm_eps": 1e-3},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_switches_of_deberta(tmp_path, changes):
    reference = random_reference("deberta-v2", "classification", seed=5, **changes)
    reference.save_pretrained(tmp_path)
    assert_parity(tmp_path, reference, "deberta-v2")


@pytest.mark.parametrize("shared", [True, False])
def test_texts_of_deberta_beyond_its_buckets(tmp_path, shared):
    """Farther apart than distances have rows of their own, and than the table reaches."""
    reference = random_reference(
        "deberta-v2", "token_classification", seed=5, max_relative_positions=20, share_att_key=shared, **DISTANCES
    )
    reference.save_pretrained(tmp_path)
    random, mask = np.random.RandomState(0), np.ones((2, 39), int)
    mask[1, :13] = 0
    inputs = {"input_ids": np.where(mask > 0, random.randint(2, 30, mask.shape), 0), "attention_mask": mask}
    ours, theirs = np.asarray(logits(load(tmp_path), **inputs)), reference_logits(reference, inputs)
    np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_the_new_words_of_deberta(tmp_path):
    """Of "legacy": false: other modules, which transformers computes with tables as wide as the model alone."""
    reference = random_reference("deberta-v2", "masked_lm", seed=5, legacy=False, embedding_size=12)
    reference.save_pretrained(tmp_path)
    assert_parity(tmp_path, reference, "deberta-v2")
    old = json.loads((tmp_path / "config.json").read_text()) | {"legacy": True}
    (tmp_path / "config.json").write_text(json.dumps(old))
    model = load(tmp_path)
    assert model.architecture.head == "none" and '"legacy": false reads it' in model.provenance.warnings[0]


@pytest.mark.parametrize(("buckets", "reach"), [(256, 512), (6, 40), (10, 24), (32, 512), (2, 9)])
def test_rows_of_all_distances(buckets, reach):
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    ahead = torch.arange(-3 * reach, 3 * reach + 1)
    theirs = make_log_bucket_position(ahead, buckets, reach).long().clamp(-buckets, buckets - 1).numpy()
    pairs = np.asarray(pair_rows(Disentangled(reach=reach, buckets=buckets), 3 * reach + 1))
    first = distance_rows(Disentangled(reach=reach, buckets=buckets), 3 * reach + 1)[0]
    rows = np.concatenate([pairs[0, :0:-1], pairs[:, 0]]) + first - buckets
    np.testing.assert_array_equal(rows, theirs)


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_bias": True, "classifier_bias": True, "attention_bias": True, "mlp_bias": True},
        {"num_hidden_layers": 4, "local_attention": 2},
        {"layer_types": ["sliding_attention", "full_attention"]},
    ],
    ids=["biases", "four layers", "types of layers"],
)
def test_switches_of_modernbert(tmp_path, changes):
    reference = random_reference("modernbert", "token_classification", seed=5, **changes)
    reference.save_pretrained(tmp_path)
    assert_parity(tmp_path, reference, "modernbert")


def test_modernbert_may_pool_the_first_token(tmp_path):
    reference = random_reference("modernbert", "classification", seed=5, classifier_pooling="cls")
    reference.save_pretrained(tmp_path)
    for name in ("full", "right"):  # of a text padded left it would be padding
        inputs = cases("modernbert")[name]
        ours, theirs = np.asarray(logits(load(tmp_path), **inputs)), reference_logits(reference, inputs)
        np.testing.assert_allclose(ours, theirs, **CLOSE)


@pytest.mark.parametrize("head", ["none", "classification"])
def test_gemma_3_may_read_both_ways(tmp_path, head):
    """As EmbeddingGemma does."""
    reference = random_reference("gemma3_text", head, seed=5, use_bidirectional_attention=True, sliding_window=6)
    reference.save_pretrained(tmp_path)
    assert not load(tmp_path).architecture.causal
    assert_parity(tmp_path, reference, "gemma3_text")
    with pytest.raises(jp.JaxpruneError, match="use_bidirectional_attention is true, and a language model that reads"):
        load(tmp_path, head="causal_lm")


def test_long_factors_of_phi3_are_refused_by_length(tmp_path):
    """Up to the length that the model was made for, short factors are computed as in transformers."""
    scaling = {"rope_type": "longrope", "short_factor": [1.5], "long_factor": [4.0], "rope_theta": 100.0}
    changes = {"rope_parameters": scaling | {"partial_rotary_factor": 0.5}, "original_max_position_embeddings": 9}
    reference = random_reference("phi3", "causal_lm", seed=5, **changes)
    reference.save_pretrained(tmp_path)
    model, inputs = load(tmp_path), cases("phi3")["full"]
    assert model.architecture.max_positions == 9 and "texts are read up to 9 tokens" in model.provenance.warnings[0]
    np.testing.assert_allclose(logits(model, **inputs), reference_logits(reference, inputs), **CLOSE)
    with pytest.raises(jp.JaxpruneError, match="10 tokens do not fit the model's 9 positions"):
        logits(model, np.ones((1, 10), int))


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
    "Mistral, a window": ("mistral", {"sliding_window": 4}),
    "Qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "Qwen2, a window in late layers": ("qwen2", {"use_sliding_window": True, "sliding_window": 4,
                                                 "max_window_layers": 1}),
    "Qwen3, a window in an early layer": ("qwen3", {"use_sliding_window": True, "sliding_window": 3,
                                                    "layer_types": ["sliding_attention", "full_attention"]}),
    "Qwen3, biases": ("qwen3", {"attention_bias": True}),
    "Qwen3, heads wider than the stream": ("qwen3", {"head_dim": 6}),
    "Gemma, as the first files say it": ("gemma", {"hidden_act": "gelu"}),
    "Gemma, biases, untied": ("gemma", {"attention_bias": True, "tie_word_embeddings": False}),
    "Gemma 2, no caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "Gemma 2, types of layers by default": ("gemma2", {"num_hidden_layers": 3}),
    "Gemma 3, capped logits": ("gemma3_text", {"final_logit_softcapping": 3.0}),
    "Gemma 3, scaled": ("gemma3_text", {"rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10.0}}}),
    "SmolLM3, every other layer": ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 2,
                                               "use_sliding_window": False}),
    "OLMo 2, biases, every head its own keys": ("olmo2", {"attention_bias": True, "num_key_value_heads": 4}),
    "Phi-3, whole heads, no window": ("phi3", {"partial_rotary_factor": 1.0, "sliding_window": None}),
    "Phi-3, every head its own keys": ("phi3", {"num_key_value_heads": 4}),
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
