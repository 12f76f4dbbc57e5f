import errno
import os
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxprune as jp
from jaxprune.checkpoint import load, save, write
from jaxprune.errors import CheckpointError, NumericalError, OutputError, SettingsError
from jaxprune.model import logits
from jaxprune.model.attention_kinds import Window
from jaxprune.pruning.cut import cut, map_units, take_units
from tests.helpers import tiny
from tests.helpers.exports import (
    IDS,
    WIDTHS,
    assert_equal,
    assert_same,
    config_of,
    dense,
    masks_of,
    names,
    pruned,
    with_output_biases,
)
from tests.helpers.tiny import TEXT_FAMILIES as FAMILIES

# --- uniform models


@pytest.mark.parametrize("family", FAMILIES)
def test_a_uniform_model_comes_back_the_same(tmp_path, family):
    model = dense(tmp_path, family)
    heads = ([0, 2], [1, 2]) if family in WIDTHS else (None, None)
    small = pruned(model, heads[0], [0, 3, 9], heads[1], [1, 2, 5])
    written = jp.export(small, tmp_path / "out")
    assert_same(load(written.folder), small)
    keys, old, new = FAMILIES[family].keys, config_of(tmp_path / "dense"), config_of(tmp_path / "out")
    assert new[keys["neurons"]] == 3
    if family in WIDTHS:
        assert new[keys["heads"]] == new[keys["groups"]] == 2 and new["head_dim"] == 4
    told = {keys[name] for name in ("neurons", "heads", "groups", "head_width") if name in keys}
    told |= {"dtype", "architectures", "label2id"}
    assert {key: value for key, value in new.items() if key not in told} == {
        key: value for key, value in old.items() if key not in told
    }
    assert names(written.folder) == [
        "README.md",
        "config.json",
        "jaxprune_export.json",
        "merges.txt",
        "model.safetensors",
    ]


def test_a_folder_that_was_read_up_to_a_window_only(tmp_path):
    """As earlier releases did: the same weights, and config.json is its source's."""
    settings = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    model = dense(tmp_path, "qwen2", **settings)
    earlier = replace(model.architecture, attention=Window(size=8), max_positions=8)
    jp.export(model.replace(architecture=earlier), tmp_path / "out")
    assert_same(load(tmp_path / "out"), model)


@pytest.mark.parametrize("family", ("bert", "gpt2", "llama"))
def test_the_dense_model_becomes_the_file_that_it_was(tmp_path, family):
    model = dense(tmp_path, family)
    jp.export(model, tmp_path / "out")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("dense", "out"))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_a_saved_model_exports_as_the_one_in_memory(tmp_path):
    small = pruned(dense(tmp_path, "qwen2"), [1], [2, 4], [0], [3, 4])
    save(small, tmp_path / "saved")
    written = jp.export(load(tmp_path / "saved"), tmp_path / "out")
    assert_same(load(tmp_path / "out"), small)
    assert "head_dim is no documented setting of qwen2" in written.warnings[0]
    assert (tmp_path / "out" / "merges.txt").read_text() == "words"


def test_grouped_queries_and_another_head(tmp_path):
    model = dense(tmp_path, "llama", num_attention_heads=6)
    small = pruned(model, [0, 2], None, [1, 2], None)
    jp.export(small, tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 2)
    bare = load(tmp_path / "out", head="none")
    jp.export(bare, tmp_path / "bare")
    assert config_of(tmp_path / "bare")["architectures"] == ["LlamaModel"]
    assert "embed_tokens.weight" in load_file(tmp_path / "bare" / "model.safetensors")
    assert_same(load(tmp_path / "bare"), bare)


def test_labels_of_a_new_head_are_told(tmp_path):
    dense(tmp_path, "bert")
    model = load(tmp_path / "dense", head="classification", labels=["x", "y"], problem="multi_label")
    config = jp.export(model, tmp_path / "out").config
    assert (config["id2label"], config["label2id"]) == ({"0": "x", "1": "y"}, {"x": 0, "y": 1})
    again = load(tmp_path / "out").architecture
    assert (again.labels, again.problem) == (("x", "y"), "multi_label")
    answers = load(tmp_path / "dense", head="question_answering")
    assert "id2label" not in jp.export(answers, tmp_path / "answers").config
    bare = jp.export(load(tmp_path / "dense", head="none"), tmp_path / "bare")
    assert "pooler" in bare.warnings[0]


# --- biases that pruning added


def test_new_output_biases_bring_zero_biases_for_the_others(tmp_path):
    model = with_output_biases(pruned(dense(tmp_path, "llama"), [0, 2], [1], [0, 1], [4]))
    jp.export(model, tmp_path / "out", fill_zeros=True)
    config, tensors = config_of(tmp_path / "out"), load_file(tmp_path / "out" / "model.safetensors")
    assert config["attention_bias"] is True and config["mlp_bias"] is True
    assert not tensors["model.layers.1.self_attn.q_proj.bias"].any()
    assert not tensors["model.layers.1.mlp.up_proj.bias"].any()
    np.testing.assert_allclose(logits(load(tmp_path / "out"), IDS), logits(model, IDS), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "says"), [("mistral", "output biases"), ("qwen2", "output"), ("qwen3", "down biases")]
)
def test_biases_that_a_family_has_no_place_for_are_refused(tmp_path, family, says):
    with pytest.raises(CheckpointError, match=f"{says}.*{family} model of transformers has no place for them"):
        jp.export(with_output_biases(dense(tmp_path, family)), tmp_path / "out")
    assert names(tmp_path) == ["dense"]


# --- layers that differ


@pytest.mark.parametrize("family", FAMILIES)
def test_uneven_layers_are_filled_up_with_zeros(tmp_path, family):
    model = dense(tmp_path, family)
    small = pruned(model, [0, 2], [1, 7], [], [0, 3, 9])
    jp.export(small, tmp_path / "out", fill_zeros=True)
    assert names(tmp_path / "out") == names(jp.export(model, tmp_path / "as it was").folder)  # no file of code
    again = load(tmp_path / "out")
    assert again.architecture == model.architecture
    kept = small.provenance.record["kept"]
    for layer, full, units in zip(small.params["layers"], again.params["layers"], kept, strict=True):
        for half, name in (("attention", "heads"), ("feed_forward", "neurons")):
            room = 3 if name == "heads" else 10
            assert_equal(take_units(half, full[half], np.array(units[name], int)), layer[half])
            removed = take_units(half, full[half], np.setdiff1d(np.arange(room), units[name]))
            removed.pop("relative", None)  # of other layers' heads, too
            map_units(half, lambda axis, leaf: assert_equal(leaf, 0 * leaf), removed)
    if family in ("bert", "mpnet", "llama"):
        np.testing.assert_allclose(logits(again, IDS), logits(small, IDS), atol=1e-5)  # sums of other lengths


def test_copies_of_one_table_that_differ_are_refused(tmp_path):
    small = pruned(dense(tmp_path, "mpnet"), None, [0, 3, 9], None, [1, 2, 5])
    jp.export(small, tmp_path / "equal")
    table = small.params["layers"][1]["attention"]["relative"]["table"]
    small.params["layers"][1]["attention"]["relative"]["table"] = table + np.float32(0.01)
    with pytest.raises(CheckpointError, match=r"copies of encoder\.relative_attention_bias\.weight differ, and tran"):
        jp.export(small, tmp_path / "out")
    assert names(tmp_path) == ["dense", "equal"]


def test_units_without_a_record_lie_first(tmp_path):
    model = dense(tmp_path, "opt")
    small = cut(model, masks_of(model, [2], [8], None, None))
    written = jp.export(small, tmp_path / "out", fill_zeros=True)
    assert "does not say which units were kept" in written.warnings[0]
    up = load(tmp_path / "out").params["layers"][0]["feed_forward"]["up"]["kernel"]
    np.testing.assert_array_equal(up[:, 0], model.params["layers"][0]["feed_forward"]["up"]["kernel"][:, 8])
    assert not up[:, 1:].any()


# --- what else is refused


def test_a_model_without_its_checkpoints_config_is_refused(tmp_path):
    model = tiny.random_model(tiny.config("bert"))
    with pytest.raises(CheckpointError, match="no source_config"):
        jp.export(model, tmp_path / "out")
    other = dense(tmp_path, "bert").with_record(source_config=tiny.config("bert", hidden_act="relu"))
    with pytest.raises(CheckpointError, match="activation is gelu, and its source's config.json gives relu"):
        jp.export(other, tmp_path / "out")
    with pytest.raises(CheckpointError, match="do not fit into those of its source"):
        jp.export(dense(tmp_path / "2", "bert").with_record(source_config=tiny.config("bert", intermediate_size=4)),
                  tmp_path / "out", fill_zeros=True)  # fmt: skip


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(tmp_path, dtype):
    model = dense(tmp_path, "gpt2", torch_dtype="float32")
    jp.export(model, tmp_path / "out", dtype=dtype)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype.name for tensor in tensors.values()} == {dtype}
    assert config_of(tmp_path / "out")["torch_dtype"] == dtype
    expected = np.asarray(jnp.asarray(model.params["embed"]["token"], dtype), np.float32)
    np.testing.assert_array_equal(load(tmp_path / "out").params["embed"]["token"], expected)


def test_numbers_too_large_for_the_type_are_named(tmp_path):
    model = dense(tmp_path, "bert")
    params = {**model.params, "head": {**model.params["head"], "bias": np.full(3, 1e6, np.float32)}}
    with pytest.raises(NumericalError, match=r"classifier\.bias .*too large for float16"):
        jp.export(model.replace(params=params), tmp_path / "out", dtype="float16")
    assert names(tmp_path) == ["dense"]


# --- the folder


def test_only_our_own_folders_are_replaced(tmp_path):
    model = dense(tmp_path, "bert")
    with pytest.raises(OutputError, match="was not written by jaxprune"):
        jp.export(model, tmp_path / "dense", overwrite=True)
    folder = jp.export(model, tmp_path / "out").folder
    with pytest.raises(OutputError, match="exists and is not empty"):
        jp.export(model, folder)
    with pytest.raises(OutputError, match="where the model was read from"):
        jp.export(load(folder), folder, overwrite=True)
    jp.export(model, folder, overwrite=True, shard_bytes=2000)
    assert (folder / "model.safetensors.index.json").exists() and not (folder / "model.safetensors").exists()
    assert_same(load(folder), model)
    save(model, folder, overwrite=True)
    assert names(folder) == ["README.md", "jaxprune.json", "merges.txt", "model.safetensors"]
    (folder / "config.json").write_text("{}")
    with pytest.raises(OutputError, match=r"also holds config\.json"):
        jp.export(model, folder, overwrite=True)


def test_a_full_disk_leaves_the_old_folder(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    model = dense(tmp_path, "gpt2")
    jp.export(model, tmp_path / "out")
    monkeypatch.setattr(write, "_sync", no_space)
    with pytest.raises(OutputError, match="No space left on device"):
        jp.export(model, tmp_path / "out", overwrite=True, dtype="float16")
    assert names(tmp_path) == ["dense", "out"]
    assert_same(load(tmp_path / "out"), model)


def test_unknown_types_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="dtype is 'int8', expected one of float32"):
        jp.export(dense(tmp_path, "bert"), tmp_path / "out", dtype="int8")
