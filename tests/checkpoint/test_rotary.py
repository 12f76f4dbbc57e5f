"""Rotary settings and sliding windows of config.json: what is read, warned of and refused, how long texts may be."""

from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.checkpoint import load
from jaxprune.errors import CheckpointError
from jaxprune.model.attention_kinds import Full, Window
from tests.helpers import tiny

POSITIONS = 20  # of a tiny model, before any stretching


def rope(**settings: Any) -> dict[str, Any]:
    return {"rope_scaling": settings}


def loaded(tmp_path, family="llama", **changes):
    settings = tiny.config(family, **changes)
    return load(tiny.write(tmp_path / "model", settings, tiny.tensors(settings)))


# --- settings that are not read


@pytest.mark.parametrize(
    "settings, names",
    [
        ({"rope_type": "default", "factor": 2.0}, "factor"),
        ({"factor": 2.0}, "factor"),  # without a kind transformers takes plain angles
        ({"type": "linear", "factor": 2.0, "low_freq_factor": 1.0}, "low_freq_factor"),
        ({"type": "yarn", "factor": 2.0, "attn_factor": 1.0, "finetuned": True}, "attn_factor, finetuned"),
        ({"type": "default", "mrope_section": [1, 1]}, "mrope_section"),
    ],
)
def test_rotary_settings_without_effect_are_named_in_a_warning(tmp_path, settings, names):
    (warning,) = loaded(tmp_path, **rope(**settings)).provenance.warnings
    assert "rope_scaling is of the kind" in warning and f"for which {names} means nothing" in warning


@pytest.mark.parametrize(
    "settings, name",
    [
        ({"type": "yarn", "factor": 2.0, "attn_factor": 1.5}, "attn_factor"),
        ({"type": "dynamic", "factor": 2.0, "alpha": 1000.0}, "alpha"),
        ({"full_attention": {"rope_type": "linear", "factor": 2.0}}, "full_attention"),
    ],
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_rotary_settings_that_may_matter_are_refused_by_name(key, settings, name):
    with pytest.raises(CheckpointError, match=rf"the setting {key}\.{name} = .* is not known for llama"):
        tiny.architecture(tiny.config("llama", **{key: settings}))


def test_an_unknown_rotary_setting_can_be_ignored(tmp_path):
    settings = tiny.config("llama", **rope(type="linear", factor=2.0, alpha=3.0))
    known = tiny.config("llama", **rope(type="linear", factor=2.0))
    folder = tiny.write(tmp_path / "model", settings, tiny.tensors(known))
    model = load(folder, ignore_config_keys=["rope_scaling.alpha"])
    assert model.architecture == tiny.architecture(known)
    assert model.provenance.record["source_config"]["rope_scaling"] == {"type": "linear", "factor": 2.0}


def test_of_two_keys_the_older_counts(tmp_path):
    """As in transformers, which says so here where the two differ."""
    both = {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}}
    model = loaded(tmp_path, **both)
    assert model.architecture == tiny.architecture(tiny.config("llama", rope_scaling=both["rope_scaling"]))
    assert "rope_scaling and rope_parameters; the first counts" in model.provenance.warnings[0]


def test_the_original_length_may_stand_beside_the_settings():
    beside = tiny.config("llama", original_max_position_embeddings=10, **rope(type="yarn", factor=2.0))
    inside = tiny.config("llama", **rope(type="yarn", factor=2.0, original_max_position_embeddings=10))
    assert tiny.architecture(beside) == tiny.architecture(inside)


# --- how long a text may be


@pytest.mark.parametrize(
    "settings, longest",
    [
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": POSITIONS}, 80),  # Qwen2.5's model card
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 5}, POSITIONS),  # stretched already
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}, 40),
        ({"type": "yarn", "factor": 2.0}, 40),
        ({"type": "dynamic", "factor": 3.0}, 60),
        ({"type": "linear", "factor": 2.0}, POSITIONS),  # as transformers and llama.cpp read it
        ({"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}, POSITIONS),
        ({}, POSITIONS),
    ],
)
def test_texts_up_to_the_stretched_length(settings, longest):
    assert tiny.architecture(tiny.config("qwen2", **rope(**settings))).max_positions == longest


def test_linear_scaling_of_a_file_that_says_its_length_beside():
    scaled = rope(type="linear", factor=2.0)
    assert tiny.architecture(tiny.config("llama", **scaled, max_sequence_length=40)).max_positions == 40
    assert tiny.architecture(tiny.config("llama", **scaled, max_sequence_length=10)).max_positions == POSITIONS


def test_dynamic_scaling_leaves_short_texts_alone_whatever_lies_beside_them(tmp_path):
    stretched, plain = loaded(tmp_path / "a", **rope(type="dynamic", factor=2.0)), loaded(tmp_path / "b")
    ids = np.arange(2 * 30).reshape(2, 30) % 30
    mask = np.ones_like(ids)
    mask[1, POSITIONS:] = 0
    long, short = jp.logits(stretched, ids, attention_mask=mask)
    np.testing.assert_allclose(short[:POSITIONS], jp.logits(plain, ids[1:, :POSITIONS])[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(long, jp.logits(stretched, ids[:1])[0], rtol=0, atol=2e-5)
    # A longer text turns its early tokens differently, too.
    assert np.abs(long[:POSITIONS] - jp.logits(plain, ids[:1, :POSITIONS])[0]).max() > 1e-3


# --- sliding windows


def test_a_window_is_how_far_tokens_see(tmp_path):
    one = {"num_hidden_layers": 1}
    model, open_one = (loaded(tmp_path / str(size), "mistral", sliding_window=size, **one) for size in (8, None))
    ids = np.arange(24).reshape(2, 12)
    here, there = jp.logits(model, ids), jp.logits(open_one, ids)
    np.testing.assert_array_equal(here[:, :8], there[:, :8])
    assert np.abs(here[:, 8:] - there[:, 8:]).max(axis=-1).min() > 1e-3
    ids[:, 3] = 29  # which the tokens from slot 11 on do not see
    changed = np.abs(jp.logits(model, ids) - here).max(axis=(0, 2)) > 1e-3
    assert changed.tolist() == [False] * 3 + [True] * 8 + [False]


QWEN = {"use_sliding_window": True, "sliding_window": 8}


@pytest.mark.parametrize(
    "family, changes, windows",
    [
        ("mistral", {"max_position_embeddings": 9000}, [4096] * 2),  # where the file is silent transformers takes 4,096
        ("mistral", {"sliding_window": 20}, [None] * 2),
        ("mistral", {"sliding_window": 8, "layer_types": ["sliding_attention"] * 2}, [8, 8]),
        ("qwen2", {"sliding_window": 8}, [None] * 2),  # switched off
        ("qwen2", QWEN, [None] * 2),  # only from layer 28 on
        ("qwen2", {**QWEN, "max_window_layers": 2}, [None] * 2),
        ("qwen2", {**QWEN, "max_window_layers": 1}, [None, 8]),
        ("qwen3", {**QWEN, "layer_types": ["sliding_attention", "full_attention"]}, [8, None]),
        ("qwen3", {**QWEN, "max_window_layers": 0, "layer_types": ["full_attention"] * 2}, [None] * 2),
        ("llama", {"sliding_window": 8}, [None] * 2),  # which Llama does not read
        ("gemma2", {"num_hidden_layers": 3}, [4, None, 4]),
        ("gemma2", {"layer_types": ["full_attention", "sliding_attention"]}, [None, 4]),
    ],
)
def test_where_attention_has_a_window(family, changes, windows):
    a = tiny.architecture(tiny.config(family, **changes))
    kinds = [a.of_layer(layer).attention for layer in range(len(windows))]
    assert kinds == [Full() if size is None else Window(size=size) for size in windows]
    assert a.max_positions == changes.get("max_position_embeddings", POSITIONS)
    assert (a.attention == kinds[0]) == (len(set(kinds)) == 1)  # one kind for all layers is said plainly


@pytest.mark.parametrize(
    "family, changes, message",
    [
        ("llama", {"layer_types": ["sliding_attention"] * 2}, "layer_types names other layers than full_attention"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 2}, "layer_types names other layers than full_attention, sl"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "names sliding layers, but sliding_window is off"),
        ("qwen2", {"layer_types": "full_attention"}, "layer_types names other layers"),
        ("mistral", {"sliding_window": "8"}, "sliding_window is '8', expected an integer of at least 1"),
        (
            "mistral",  # of which transformers passes over layer_types
            {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]},
            "layer_types names other layers than sliding_attention",
        ),
        ("qwen2", {**QWEN, "layer_types": ["full_attention"]}, "layer_types names 1 layers, and the model has 2"),
        ("gemma2", {"sliding_window": None}, "a gemma2 model has sliding layers, but sliding_window is off"),
        ("modernbert", {"global_attn_every_n_layers": 0}, "every_n_layers is '0', expected an integer of at least 1"),
        ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling is 'max', expected one of cls, mean"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers is .*, expected a list with 0 or 1 for each of 2 layers"),
        (
            "gemma3_text",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
            "rope_parameters is .*, expected an object for each of full_attention, sliding_attention",
        ),
        (
            "gemma3_text",
            {"rope_scaling": {"type": "linear", "factor": 8.0}},
            "rope_scaling has a type and no rope_type, which transformers passes over",
        ),
        (
            "phi3",
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.0]}},
            "short_factor of the rotary settings is .*, expected 1 numbers",
        ),
        ("phi3", {"partial_rotary_factor": 2}, r"partial_rotary_factor is 2, expected a number in \(0, 1\]"),
    ],
)
def test_windows_that_make_no_sense(family, changes, message):
    with pytest.raises(CheckpointError, match=message):
        tiny.architecture(tiny.config(family, **changes))


def test_a_length_beside_settings_by_type_of_layer_is_not_theirs():
    """transformers looks for it in them, and takes max_position_embeddings where it is not there."""
    scaling = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    plain = tiny.architecture(tiny.config("gemma3_text", rope_scaling=scaling))
    beside = tiny.architecture(tiny.config("gemma3_text", rope_scaling=scaling, original_max_position_embeddings=4))
    inside = tiny.architecture(
        tiny.config("gemma3_text", rope_scaling={**scaling, "original_max_position_embeddings": 4})
    )
    assert plain == beside != inside
