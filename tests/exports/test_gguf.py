"""GGUF files, read back by a reader of their own: tensors, keys, what they compute, and what has no place in them.

llama.cpp itself does not run here; what was done with it is told in docs/use.md.
"""

import errno
import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gguf", reason="GGUF files are written by the package gguf")

import jaxprune as jp
from jaxprune.checkpoint import load, write
from jaxprune.errors import CheckpointError, NumericalError, OutputError, SettingsError
from jaxprune.exports import gguf as gguf_module
from jaxprune.exports.gguf_layout import matching_layouts
from jaxprune.model import logits
from jaxprune.pruning.cut import cut
from tests.helpers import tiny
from tests.helpers.exports import with_output_biases
from tests.helpers.gguf_reader import logits_of, read_gguf

UNEVEN = ([0, 2], [1, 7, 8], [0], [0, 3])
EMPTY = ([], [1, 7], [1], [])  # llama.cpp does not load the first, and passes over the attention beside the second
NOTHING = ([], [], [], [])
EVEN = ([0, 2], [1, 7, 8], [1, 2], [0, 3, 4])
FEWER_NEURONS = ([0, 1, 2], [1, 7, 8], [0, 1, 2], [0, 3, 4])
GROUPED = {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 24}

WHOLE = {"partial_rotary_factor": 1.0, "sliding_window": None}

SCALED = {"query_pre_attn_scalar": 4}  # as a head is wide
SIX = {"num_hidden_layers": 6, "sliding_window_pattern": 6}
LINEAR = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}


def model_of(family, kept=None, biases: Any = False, **changes: Any) -> Any:
    """A tiny random model with a record of its checkpoint, cut to the units that are `kept`."""
    settings = tiny.config(family, "causal_lm", **changes)
    model = tiny.random_model(settings).with_record(source_config=settings)
    if kept is not None:
        counts = [count for size in model.architecture.layers for count in (size.groups, size.neurons)]
        model = cut(model, [np.isin(np.arange(n), units) for n, units in zip(counts, kept, strict=True)])
    return with_output_biases(model) if biases else model


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
    "phi3": ("phi3", GROUPED | WHOLE, None, False, "phi3"),
    "phi3, turned in part": ("phi3", GROUPED | {"sliding_window": None}, FEWER_NEURONS, False, "phi3"),
    "phi3, fewer heads": ("phi3", GROUPED | WHOLE, EVEN, False, "llama"),
    "phi3, uneven": ("phi3", GROUPED | WHOLE, UNEVEN, False, "deci"),
    "qwen2": ("qwen2", GROUPED, FEWER_NEURONS, False, "qwen2"),
    "qwen2, fewer heads": ("qwen2", GROUPED, EVEN, False, "llama"),
    "qwen2, output biases": ("qwen2", {}, FEWER_NEURONS, True, "llama"),
    "qwen2, uneven": ("qwen2", GROUPED, UNEVEN, True, "deci"),
    "qwen2, empty sublayers": ("qwen2", {}, EMPTY, False, "deci"),
    "qwen3": ("qwen3", GROUPED, None, False, "qwen3"),
    "qwen3, even": ("qwen3", GROUPED, EVEN, False, "qwen3"),
    "qwen3, uneven": ("qwen3", GROUPED | {"tie_word_embeddings": True}, UNEVEN, False, "openelm"),
    "qwen3, empty sublayers": ("qwen3", {"tie_word_embeddings": True}, EMPTY, False, "openelm"),
    "gemma": ("gemma", {}, EVEN, False, "gemma"),
    "gemma2": ("gemma2", SCALED | {"attn_logit_softcapping": 2.0}, EVEN, False, "gemma2"),
    "gemma3": ("gemma3_text", SCALED | SIX | LINEAR, None, False, "gemma3"),
    "gemma3, open windows": ("gemma3_text", SCALED | SIX | {"sliding_window": 99}, None, False, "gemma3"),
    "smollm3": ("smollm3", GROUPED | {"num_hidden_layers": 4, "no_rope_layer_interval": 4}, None, False, "smollm3"),
    "olmo2": ("olmo2", GROUPED, FEWER_NEURONS, False, "olmo2"),
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


def test_the_keys_say_what_every_layer_has(tmp_path):
    model = model_of("llama", EMPTY, **GROUPED, rope_theta=5000.0)
    _, file = exported(model, tmp_path / "out")
    own = {key.removeprefix("deci."): value for key, value in file.keys.items() if key.startswith("deci.")}
    assert own == {
        "block_count": 2,
        "context_length": 20,
        "embedding_length": 24,
        "vocab_size": 30,
        "feed_forward_length": [2, 1],
        "attention.head_count": [1, 2],
        "attention.head_count_kv": [1, 1],
        "attention.key_length": 4,
        "attention.value_length": 4,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "rope.dimension_count": 4,
        "rope.freq_base": 5000.0,
    }
    rest = {key: value for key, value in file.keys.items() if not key.startswith("deci.")}
    assert rest == {
        "general.architecture": "deci",
        "general.type": "model",
        "general.name": "llama",
        "general.quantization_version": 2,
        "general.file_type": 0,
        "tokenizer.ggml.model": "none",
    }
    # What was nothing is one unit that adds nothing.
    nothing = {
        "blk.0.attn_q": (4, 24),
        "blk.0.attn_output": (24, 4),
        "blk.1.ffn_up": (1, 24),
        "blk.1.ffn_down": (24, 1),
    }
    assert {name: file.tensors[f"{name}.weight"].shape for name in nothing} == nothing
    assert not any(file.tensors[f"{name}.weight"].any() for name in nothing)
    kinds = {key: file.kinds[key] for key in own_kinds}
    assert kinds == own_kinds


own_kinds = {  # as llama.cpp's converter types them: 4 is uint32, 5 int32, 6 float32
    "deci.block_count": 4,
    "deci.feed_forward_length": 5,
    "deci.attention.head_count": 5,
    "deci.attention.layer_norm_rms_epsilon": 6,
    "deci.rope.freq_base": 6,
    "general.file_type": 4,
}


def test_queries_and_keys_lie_as_llama_rotates_them(tmp_path):
    """Row 2 i of a head is feature i, row 2 i + 1 is feature i + width / 2; qwen2's rows stay."""
    for family, order in (("llama", [0, 2, 1, 3]), ("qwen2", [0, 1, 2, 3])):
        model = model_of(family, **GROUPED)
        _, file = exported(model, tmp_path / family)
        p = model.params["layers"][1]["attention"]
        for name, heads in (("q", 6), ("k", 3)):
            rows = np.asarray(p[name]["kernel"]).reshape(24, heads, 4)[:, :, order].reshape(24, -1).T
            np.testing.assert_array_equal(file.tensors[f"blk.1.attn_{name}.weight"], rows)
            if "bias" in p[name]:
                bias = np.asarray(p[name]["bias"]).reshape(heads, 4)[:, order].reshape(-1)
                np.testing.assert_array_equal(file.tensors[f"blk.1.attn_{name}.bias"], bias)


def test_every_parameter_is_in_the_file(tmp_path):
    """By numbers: a file has as many as the model, and sums of squares do not depend on their order."""
    for family in ("llama", "qwen2", "qwen3", "gpt2"):
        model = model_of(family)
        _, file = exported(model, tmp_path / family)
        leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(model.params)]
        assert sum(tensor.size for tensor in file.tensors.values()) == sum(leaf.size for leaf in leaves)
        total = sum(float((leaf**2).sum()) for leaf in leaves)
        assert sum(float((tensor.astype(np.float64) ** 2).sum()) for tensor in file.tensors.values()) == pytest.approx(
            total, rel=1e-6
        )


def test_a_window_bounds_the_files_context(tmp_path):
    """llama.cpp's architectures for these families see all tokens."""
    settings = {"use_sliding_window": True, "sliding_window": 13, "max_window_layers": 1}
    model = model_of("qwen2", **GROUPED, **settings)
    written, file = exported(model, tmp_path / "out")
    assert file.keys["qwen2.context_length"] == 13 < model.architecture.max_positions
    assert any("context is 13 tokens, the model's sliding window" in entry for entry in written.warnings)
    assert_same_logits(model, file)


OTHERWISE: dict[str, tuple[str, dict[str, Any], str]] = {
    # what no architecture of llama.cpp computes
    "another scale": ("gemma2", {}, r"this gemma2 model with scores scaled by 0.57735 does"),
    "no cap": ("gemma2", SCALED | {"final_logit_softcapping": None}, "this gemma2 model with logit cap None does"),
    "another pattern": ("gemma3_text", SCALED, "this gemma3_text model with a layer 1 that sees all tokens does"),
    "other layers turn": ("smollm3", {}, "this smollm3 model with a layer 1 that turns nothing does"),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_no_architecture_computes_is_refused(tmp_path, name):
    family, changes, says = OTHERWISE[name]
    with pytest.raises(CheckpointError, match=says):
        exported(model_of(family, **changes), tmp_path / "out")


def test_scores_of_the_largest_gemma_are_scaled_by_the_hidden_size():
    """llama.cpp knows it by its number of layers."""
    wide: dict[str, Any] = {"num_hidden_layers": 46, "head_dim": 8, "hidden_size": 12, "num_attention_heads": 3}
    model = tiny.architecture(tiny.config("gemma2", **wide, query_pre_attn_scalar=4))
    assert matching_layouts(model)[0].name == "gemma2"
    with pytest.raises(CheckpointError, match="with scores scaled by 0.353553 does"):
        matching_layouts(tiny.architecture(tiny.config("gemma2", **wide, query_pre_attn_scalar=8)))


# --- rotary scalings

_YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 16}  # fmt: skip
SCALINGS: dict[str, tuple[str, dict[str, Any], Any, str, dict[str, Any]]] = {
    # name: family, rope_scaling, kept units, architecture, keys
    "linear": ("llama", {"rope_type": "linear", "factor": 2.0}, UNEVEN, "deci",
               {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}),
    "llama3": ("llama", _LLAMA3, UNEVEN, "deci", {}),
    "yarn": ("llama", _YARN, UNEVEN, "deci",
             {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.original_context_length": 64}),
    "yarn, of its own": ("qwen2", _YARN | {"attention_factor": 1.5, "beta_fast": 4.0, "beta_slow": 0.5}, None, "qwen2",
                         {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.yarn_beta_fast": 4.0,
                          "rope.scaling.yarn_beta_slow": 0.5, "rope.scaling.original_context_length": 64,
                          "rope.scaling.attn_factor": pytest.approx(1.5 / (1 + 0.1 * np.log(2)))}),
    "yarn, not rounded": ("qwen2", _YARN | {"truncate": False}, None, "llama",
                          {"rope.scaling.attn_factor": pytest.approx(1 + 0.1 * np.log(2))}),
    "llama3 on qwen2": ("qwen2", _LLAMA3, UNEVEN, "deci", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALINGS)
def test_rotary_scalings_are_said(tmp_path, name):
    family, scaling, kept, architecture, keys = SCALINGS[name]
    wide = {"head_dim": 16, "num_attention_heads": 3, "hidden_size": 48}
    model = model_of(family, kept, **wide, rope_scaling=scaling)
    _, file = exported(model, tmp_path / "out")
    assert file.name == architecture
    said = {key for key in file.keys if ".rope.scaling." in key}
    assert {key.partition(".")[2]: file.keys[key] for key in said} == keys
    assert ("rope_freqs.weight" in file.tensors) == (name in ("llama3", "llama3 on qwen2", "yarn, not rounded"))
    assert_same_logits(model, file, tolerance=2e-5)


@pytest.mark.parametrize(("share", "kept"), [(0.5, None), (1.0, FEWER_NEURONS)])
def test_long_factors_are_for_longer_contexts(tmp_path, share, kept):
    """A context that is longer than the model was made for reads as a model whose short factors are the long ones."""
    short, long = [1.0, 1.25, 1.5, 2.0][: int(4 * share)], [2.0, 3.0, 4.0, 8.0][: int(4 * share)]
    scaling = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    changes = {"head_dim": 8, "hidden_size": 24, "num_key_value_heads": 1, "partial_rotary_factor": share}
    changes |= {"sliding_window": None, "max_position_embeddings": 64}
    model = model_of("phi3", kept, **changes, original_max_position_embeddings=16, rope_scaling=scaling)
    written, file = exported(model, tmp_path / "out")
    factor = np.sqrt(1 + np.log(64 / 16) / np.log(16))
    assert (file.name, file.own("context_length")) == ("phi3", 16)
    assert file.own("rope.scaling.original_context_length") == 256  # llama.cpp's contexts are multiples of it
    assert file.own("rope.dimension_count") == 8 * share
    assert file.own("rope.scaling.attn_factor") == pytest.approx(factor, rel=1e-6)
    np.testing.assert_allclose(file.tensors["rope_factors_short.weight"], short, rtol=1e-6)
    np.testing.assert_array_equal(file.tensors["rope_factors_long.weight"], long)
    assert "in contexts of more than 256 tokens llama.cpp takes the long factors" in written.warnings[0]
    assert_same_logits(model, file)
    scaling |= {"short_factor": long, "attention_factor": float(factor)}
    longer = model_of("phi3", kept, **changes, original_max_position_embeddings=64, rope_scaling=scaling)
    ids = np.random.RandomState(1).randint(0, model.architecture.vocab, 40)
    expected = np.asarray(logits(longer, ids[None]))[0]
    np.testing.assert_allclose(logits_of(file, ids, context=257), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.abs(logits_of(file, ids, context=256) - expected).max() > 1e-2


def test_long_factors_of_another_number_are_refused(tmp_path):
    scaling = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0, 3.0]}
    model = model_of("phi3", original_max_position_embeddings=16, rope_scaling=scaling)
    with pytest.raises(CheckpointError, match=r"long_factor of the rotary settings is '\[2.0, 3.0\]', expected 1"):
        exported(model, tmp_path / "out")


def test_a_scaling_without_a_place_is_refused(tmp_path):
    dynamic = model_of("llama", rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    with pytest.raises(CheckpointError, match=r"this llama model with rotary dynamic \(2.0, 20.0\) does"):
        jp.export(dynamic, tmp_path / "out", format="gguf")
    scaling = _YARN | {"truncate": False}
    model = model_of("qwen3", rope_scaling=scaling, tie_word_embeddings=True, head_dim=16)
    with pytest.raises(CheckpointError, match="qwen3: it does not have its kind of rotary scaling; openelm: it does"):
        jp.export(model, tmp_path / "out", format="gguf")


# --- types


def blocks_of_eight_bits(array, axis):
    """What Q8_0 makes of numbers: of every 32 along an axis the largest is 127 steps."""
    moved = np.moveaxis(np.asarray(array, np.float32), axis, -1)
    blocks = moved.reshape(*moved.shape[:-1], -1, 32)
    step = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    number = blocks / np.where(step == 0, 1, step)
    whole = np.sign(number) * np.floor(np.abs(number) + 0.5)
    return jnp.array(np.moveaxis((step.astype(np.float16) * whole).reshape(moved.shape).astype(np.float32), -1, axis))


def in_eight_bits(model):
    """The model with the numbers that a file of Q8_0 has."""

    def one(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name.endswith((".o.kernel", ".down.kernel")):
            return blocks_of_eight_bits(leaf.reshape(-1, leaf.shape[-1]), 0).reshape(leaf.shape)
        if name.endswith(".kernel"):
            return blocks_of_eight_bits(leaf, 0)
        return blocks_of_eight_bits(leaf, 1) if name == "embed.token" else leaf

    return model.replace(params=jax.tree_util.tree_map_with_path(one, model.params))


BLOCKS = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "intermediate_size": 96,
}
KEPT = ([0, 2], [*range(64)], [1], [*range(5, 69)])


@pytest.mark.parametrize(("family", "architecture"), [("llama", "deci"), ("qwen3", "openelm")])
def test_eight_bits_are_those_of_their_own_numbers(tmp_path, family, architecture):
    model = model_of(family, KEPT, **BLOCKS, tie_word_embeddings=True)
    written, file = exported(model, tmp_path / "out", dtype="q8_0")
    assert (file.name, written.dtype, file.keys["general.file_type"]) == (architecture, "q8_0", 7)
    norms = [name for name, kind in file.types.items() if kind == "F32"]
    assert {file.types[name] for name in file.types if name not in norms} == {"Q8_0"}
    assert all("norm" in name for name in norms) and not [text for text in written.warnings if "float16" in text]
    size = sum(file.tensors[name].size for name in file.types if name not in norms)
    assert written.bytes == 34 * size // 32 + 4 * sum(file.tensors[name].size for name in norms)
    assert_same_logits(in_eight_bits(model), file)


def test_rows_that_do_not_divide_are_float16(tmp_path):
    model = model_of("llama", ([0, 2], [*range(65)], [1], [*range(64)]), **BLOCKS)
    written, file = exported(model, tmp_path / "out", dtype="q8_0")
    assert [name for name, kind in file.types.items() if kind == "F16"] == ["blk.0.ffn_down.weight"]
    assert any(
        "1 of 21 tensors are float16 (blk.0.ffn_down.weight): their rows do not divide by 32" in text
        and "round_to=32" in text
        for text in written.warnings
    )


@pytest.mark.parametrize(("dtype", "kind", "number"), [("float16", "F16", 1), ("bfloat16", "BF16", 32)])
def test_halves_are_rounded_as_everywhere(tmp_path, dtype, kind, number):
    model = model_of("llama", UNEVEN, biases=True)
    written, file = exported(model, tmp_path / "out", dtype=dtype)
    assert file.keys["general.file_type"] == number
    for name, stored in file.types.items():
        assert stored == ("F32" if name.endswith("bias") or "norm" in name else kind)
    table = np.asarray(model.params["embed"]["token"])
    np.testing.assert_array_equal(file.tensors["token_embd.weight"], table.astype(dtype).astype(np.float32))
    halves = jax.tree.map(
        lambda leaf: jnp.array(leaf, dtype).astype(jnp.float32) if leaf.ndim > 1 else leaf, model.params
    )
    assert_same_logits(model.replace(params=halves), file)
    assert written.bytes == sum(array.size * (4 if file.types[name] == "F32" else 2)
                                for name, array in file.tensors.items())  # fmt: skip


def test_positions_stay_float32(tmp_path):
    _, file = exported(model_of("gpt2"), tmp_path / "out", dtype="float16")
    assert file.types["position_embd.weight"] == "F32" and file.types["token_embd.weight"] == "F16"


def test_without_a_dtype_it_is_the_checkpoints(tmp_path):
    settings = tiny.config("llama", "causal_lm")
    tensors = {name: tensor.astype(np.float16) for name, tensor in tiny.tensors(settings).items()}
    model = load(tiny.write(tmp_path / "dense", settings, tensors))
    written, file = exported(model, tmp_path / "half")
    assert written.dtype == "float16" and file.types["output.weight"] == "F16"
    assert file.keys["general.name"] == "dense"
    head = {"kernel": model.params["head"]["kernel"] * 1e6}
    written, file = exported(model.replace(params={**model.params, "head": head}), tmp_path / "large")
    assert file.types["output.weight"] == "F32" and file.types["token_embd.weight"] == "F16"
    assert "output.weight: numbers too large for float16" in written.warnings[-1]
    with pytest.raises(NumericalError, match="output.weight has numbers too large for float16; choose dtype 'float32'"):
        jp.export(model.replace(params={**model.params, "head": head}), tmp_path / "x", format="gguf", dtype="float16")


# --- folders, and what has no place


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_one_file_with_record_and_card(tmp_path):
    out = tmp_path / "out"
    written, _ = exported(model_of("llama", UNEVEN), out)
    assert files(out) == ["README.md", "jaxprune_export.json", "model.gguf"]
    record = json.loads((out / "jaxprune_export.json").read_text())
    assert record["export"] == {
        "format": "gguf", "dtype": "float32", "gguf_architecture": "deci", "files": ["model.gguf"],
        "warnings": [*written.warnings],
    }  # fmt: skip
    assert record["architecture"]["layers"][1]["groups"] == 1
    card = (out / "README.md").read_text()
    assert 'library_name: "gguf"' in card and "```sh\nllama-cli -m FOLDER/model.gguf\n```" in card
    with pytest.raises(OutputError, match="exists and is not empty"):
        jp.export(model_of("llama"), out, format="gguf")
    jp.export(model_of("llama"), out, format="gguf", overwrite=True)
    assert read_gguf(out / "model.gguf").name == "llama"
    with pytest.raises(CheckpointError, match="jaxprune.json|config.json|gguf"):
        load(out)


def test_an_interrupted_export_leaves_what_was_there(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def stopped(*_):
        raise KeyboardInterrupt

    model = model_of("llama", UNEVEN)
    exported(model, tmp_path / "out")
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with monkeypatch.context() as patched:
        patched.setattr(gguf_module, "write_gguf", stopped)
        with pytest.raises(KeyboardInterrupt):
            jp.export(model, tmp_path / "out", format="gguf", dtype="q8_0", overwrite=True)
    monkeypatch.setattr(write, "_sync", no_space)
    with pytest.raises(OutputError, match="No space left on device"):
        jp.export(model, tmp_path / "out", format="gguf", overwrite=True)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


NO_PLACE: dict[str, tuple[str, dict[str, Any], Any, bool, str]] = {
    "uneven gemma": ("gemma", {}, UNEVEN, False, r"gemma model \(gemma: its layers have one size\); prune with Budget"),
    "biases of gemma": ("gemma", {}, None, True, "gemma: it has no place for output biases of attention"),
    "tied olmo2": ("olmo2", GROUPED | {"tie_word_embeddings": True}, None, False, "its head is a matrix of its own"),
    "layers of gpt2 differ": ("gpt2", {}, ([0, 1, 2], [1, 7], [0, 1, 2], [0]), False,
                              r"this gpt2 model \(gpt2: its layers have one size\); prune with Budget\(uniform=True, "
                              r"keep_heads=True\), or export it with format 'onnx'"),
    "heads of gpt2": ("gpt2", {}, EVEN, False,
                      r"its heads are as wide as the hidden size \(12\) together, and 2 are left\); prune with Budget"),
    "uneven qwen3": ("qwen3", {}, UNEVEN, False,
                     "qwen3: its layers have one size; openelm: its head is the token table, and this one is a matrix"),
    "biases of qwen3": ("qwen3", {"tie_word_embeddings": True}, UNEVEN, True,
                        r"openelm: it has no place for output biases of attention\); prune with Budget\(uniform=True"
                        r"\), prune without adding output biases \(KPrune\(intercept=False\), Flap\(comp.*, or export"),
    "opt": ("opt", {}, None, False, "no architecture that computes what this opt model does; export it with format"),
    "a gated gelu": ("llama", {"hidden_act": "gelu"}, None, False, "this llama model with activation gelu does"),
    "an exact gelu": ("gpt2", {"activation_function": "gelu"}, None, False, "this gpt2 model with activation gelu"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_PLACE)
def test_a_model_without_a_place_is_refused_by_name(tmp_path, name):
    family, changes, kept, biases, says = NO_PLACE[name]
    with pytest.raises(CheckpointError, match=says):
        jp.export(model_of(family, kept, biases, **changes), tmp_path / "out", format="gguf")
    assert not files(tmp_path)


def test_what_cannot_be_is_named(tmp_path, monkeypatch):
    model = model_of("llama")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"dtype": "q4_0"}, "dtype is 'q4_0', expected one of float32, float16, bfloat16, q8_0"),
        ({"int8": True}, r"int8 \(True\) has no effect with format 'gguf'"),
        ({"fill_zeros": True}, r"fill_zeros \(True\) has no effect with format 'gguf'"),
    ]
    for given, says in wrong:
        with pytest.raises(SettingsError, match=says):
            jp.export(model, tmp_path / "out", format="gguf", **given)
    with pytest.raises(SettingsError, match="dtype is 'q8_0', expected one of float32, bfloat16, float16"):
        jp.export(model, tmp_path / "out", dtype="q8_0")
    for head, says in (("classification", "has a classification head"), ("none", "has no head")):
        settings = tiny.config("bert", head)
        other = tiny.random_model(settings).with_record(source_config=settings)
        with pytest.raises(CheckpointError, match=f"{says}, which has no place there; export it with format 'onnx'"):
            jp.export(other, tmp_path / "out", format="gguf")
    nan = model.replace(params={**model.params, "final_norm": {"scale": jnp.full(12, jnp.nan)}})
    with pytest.raises(NumericalError, match="tensor final_norm.scale of the model holds NaN"):
        jp.export(nan, tmp_path / "out", format="gguf")
    monkeypatch.setattr(gguf_module, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"needs the package gguf; pip install 'jaxprune\[gguf\]'"):
        jp.export(model, tmp_path / "out", format="gguf")
    assert not files(tmp_path)
