"""Hugging Face folders whose layers differ: what is written, and that it is read back without running any of it."""

import ast
import json
import sys
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxprune as jp
from jaxprune.checkpoint import load, write
from jaxprune.checkpoint.uneven import MODELLING
from jaxprune.errors import CheckpointError, OutputError
from jaxprune.exports.modelling import modelling_text
from jaxprune.model import logits
from jaxprune.model.architecture import HeadKind
from jaxprune.pruning.prune import writable_heads
from tests.helpers.exports import (
    IDS,
    WIDTHS,
    assert_equal,
    assert_same,
    config_of,
    dense,
    names,
    pruned,
    with_output_biases,
)
from tests.helpers.tiny import TEXT_FAMILIES as FAMILIES

KEPT = ([0, 2], [1, 7], [1], [0, 3, 9])


# Of the others layers share a table of scores by distance, a norm of all heads, or config.json's number of heads.
BY_SHAPE = [family for family in FAMILIES if family not in ("mpnet", "olmo2", "phi3")]


@pytest.mark.parametrize("family", ["olmo2", "phi3"])
def test_layers_with_all_heads_may_differ_in_neurons(tmp_path, family):
    small = pruned(dense(tmp_path, family), None, [1, 7], None, [0, 3, 9])
    jp.export(small, tmp_path / "out")
    assert_same(load(tmp_path / "out"), small)


def test_heads_that_a_class_reads_from_config_json(tmp_path):
    small = pruned(dense(tmp_path, "phi3"), *KEPT)
    with pytest.raises(
        CheckpointError, match="layers of a phi3 model of transformers read the number of their heads fr"
    ):
        jp.export(small, tmp_path / "out")


def test_phi3_with_longrope_keeps_its_number_of_heads(tmp_path):
    """Phi3Config of transformers wants as many factors as hidden_size // num_attention_heads has pairs."""
    scaling = {"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]}
    changes = {"rope_scaling": scaling, "original_max_position_embeddings": 16, "partial_rotary_factor": 1.0}
    model = dense(tmp_path, "phi3", **changes)
    fewer = pruned(model, *[[0, 2], [1, 7]] * 2)
    with pytest.raises(CheckpointError, match="read the number of their heads from config.json, and these have lost"):
        jp.export(fewer, tmp_path / "fewer")
    assert load(jp.export(fewer, tmp_path / "zeros", fill_zeros=True).folder).architecture.layers[0].groups == 3
    texts, budget = jp.Calibration.of_ids(IDS, np.ones_like(IDS)), jp.Budget(0.2, uniform=True)
    small = jp.prune(model, texts, budget, jp.Random())
    assert [(size.groups, size.neurons < 10) for size in small.architecture.layers] == [(3, True)] * 2
    written = jp.export(small, tmp_path / "out")
    assert_same(load(written.folder), small)
    told = jp.export(model, tmp_path / "onnx", format="onnx").warnings
    assert any("takes texts of any length, and is right up to 16 positions; config.json says 20" in one for one in told)
    AutoConfig = pytest.importorskip("transformers").AutoConfig
    assert AutoConfig.from_pretrained(written.folder).intermediate_size == small.architecture.layers[0].neurons
    AutoConfig.from_pretrained(tmp_path / "zeros")
    (tmp_path / "plain").mkdir()
    plain = dense(tmp_path / "plain", "phi3")
    assert (writable_heads(model), writable_heads(plain)) == ([3], [1, 2, 3])


def test_layers_that_share_a_table_of_scores_may_differ_in_neurons(tmp_path):
    small = pruned(dense(tmp_path, "mpnet"), None, [1, 7], None, [0, 3, 9])
    jp.export(small, tmp_path / "out")
    assert "relative" not in (tmp_path / "out" / MODELLING).read_text()  # all heads stay, and the table as it is
    assert_same(load(tmp_path / "out"), small)


@pytest.mark.parametrize("family", BY_SHAPE)
def test_uneven_layers_are_written_as_small_as_they_are(tmp_path, family):
    model = dense(tmp_path, family)
    small = pruned(model, *KEPT)
    written = jp.export(small, tmp_path / "out")
    assert names(written.folder) == [
        "README.md",
        "config.json",
        "jaxprune_export.json",
        "merges.txt",
        "model.safetensors",
        MODELLING,
    ]
    old, new = config_of(tmp_path / "dense"), config_of(tmp_path / "out")
    row = FAMILIES[family]
    # Files may name GPT-2's class with that head as others' are named.
    stock = old["architectures"][0] if family != "gpt2" else "GPT2LMHeadModel"
    task, bare = f"Pruned{stock}", f"Pruned{row.classes}Model"
    auto = "AutoModelForCausalLM" if "causal_lm" in row.heads else "AutoModelForSequenceClassification"
    assert new["architectures"] == [task] and new["model_type"] == family
    assert new["auto_map"] == {"AutoModel": f"modeling_pruned.{bare}", auto: f"modeling_pruned.{task}"}
    heads = [{"heads": 2, "groups": 2, "neurons": 2}, {"heads": 1, "groups": 1, "neurons": 3}]
    assert (new["pruned_layers"], new["head_dim"], new["pruned_biases"]) == (heads, 4, [])
    keys = row.keys
    assert [new[keys[name]] for name in ("heads", "neurons")] == [3, 10]  # stock classes then fail at the shapes
    per_layer = {name: key for name, key in keys.items() if name in ("heads", "groups", "neurons")}
    if "causal_lm" in row.heads:
        assert new["allow_global_per_layer_attribute_access"] is True
        assert new["per_layer_config"]["0"] == {key: 2 for key in per_layer.values()}
    else:
        assert "per_layer_config" not in new
    again = load(tmp_path / "out")
    assert_same(again, small)
    assert not again.provenance.warnings


def test_the_file_is_short_and_needs_torch_and_transformers_alone(tmp_path):
    for family, row in FAMILIES.items():
        for head in (*row.heads, "none"):
            text = modelling_text(row, cast(HeadKind, head))
            tree = ast.parse(text)
            imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            assert imported == ["torch", "transformers", "transformers.pytorch_utils"], family
            assert not any(isinstance(node, ast.Import) for node in ast.walk(tree))
            functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
            calls = [function.id for function in functions if isinstance(function, ast.Name)]
            assert {*calls} <= {
                "super", "enumerate", "resize", "projection", "sum", "any", "hasattr", "setattr", "isinstance", "Conv1D"
            }  # fmt: skip
            assert "$" not in text and max(map(len, text.splitlines())) <= 120 and text.count("\n") < 100


def test_what_is_written_is_not_run(tmp_path):
    """Neither by the export, which writes it, nor by reading the folder again, whatever stands in it."""
    jp.export(pruned(dense(tmp_path, "gpt2"), *KEPT), tmp_path / "out")
    file = tmp_path / "out" / MODELLING
    file.write_text("raise SystemExit('it was run')\n")
    before = {*sys.modules}
    model = load(tmp_path / "out")
    assert any("modeling_pruned.py is not as jaxprune wrote it" in entry for entry in model.provenance.warnings)
    assert not [name for name in {*sys.modules} - before if "torch" in name or "modeling_pruned" in name]
    file.unlink()
    assert not load(tmp_path / "out").provenance.warnings


def test_layers_that_share_a_table_of_scores_are_refused(tmp_path):
    small = pruned(dense(tmp_path, "mpnet"), *KEPT)
    with pytest.raises(CheckpointError, match="one table of scores by distance for all layers of mpnet.*fill_zeros"):
        jp.export(small, tmp_path / "out")
    assert names(tmp_path) == ["dense"]
    jp.export(small, tmp_path / "out", fill_zeros=True)


@pytest.mark.parametrize("family", ["distilbert", "opt", "gpt2", "llama", "qwen3"])
def test_what_lost_everything_has_a_head_or_a_neuron_of_zeros(tmp_path, family):
    small = pruned(dense(tmp_path, family), [0, 2], [], [], [4])
    jp.export(small, tmp_path / "out")
    config, again = config_of(tmp_path / "out"), load(tmp_path / "out")
    assert [(size["heads"], size["neurons"]) for size in config["pruned_layers"]] == [(2, 1), (1, 1)]
    for half, layer, names_of in (("feed_forward", 0, ("up", "down")), ("attention", 1, ("q", "k", "v", "o"))):
        for name in names_of:
            assert not again.params["layers"][layer][half][name]["kernel"].any()
    np.testing.assert_allclose(logits(again, IDS), logits(small, IDS), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "kept"),
    [("bert", ([0, 2], None) * 2), ("gpt2", ([1], None) * 2), ("mistral", ([1], []) * 2), ("roberta", ([], None) * 2)],
)
def test_equal_layers_that_no_config_can_say_are_written_so(tmp_path, family, kept):
    small = pruned(dense(tmp_path, family), *kept)
    assert "auto_map" in jp.export(small, tmp_path / "out").config
    np.testing.assert_allclose(logits(load(tmp_path / "out"), IDS), logits(small, IDS), atol=1e-5)


def test_heads_that_do_not_divide_the_hidden_size_of_a_llama(tmp_path):
    model = dense(tmp_path, "llama", num_attention_heads=6, num_key_value_heads=6)
    small = pruned(model, *([0, 1, 2, 3, 5], None) * 2)
    written = jp.export(small, tmp_path / "out")
    assert "no per_layer_config, as transformers refuses llama layers" in written.warnings[0]
    assert "per_layer_config" not in written.config
    assert_same(load(tmp_path / "out"), small)


def test_grouped_queries_keep_their_groups(tmp_path):
    small = pruned(dense(tmp_path, "qwen2", num_attention_heads=6), [0, 2], None, [1], None)
    config = jp.export(small, tmp_path / "out").config
    assert [(size["heads"], size["groups"]) for size in config["pruned_layers"]] == [(4, 2), (2, 1)]
    assert config["per_layer_config"]["1"] == {
        "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 10
    }  # fmt: skip
    assert_same(load(tmp_path / "out"), small)


@pytest.mark.parametrize("family", WIDTHS)
@pytest.mark.parametrize("kept", [KEPT, ([0, 2], [1]) * 2], ids=["uneven", "even"])
def test_output_biases_are_named(tmp_path, family, kept):
    small = with_output_biases(pruned(dense(tmp_path, family), *kept))
    if family == "phi3":  # config.json says fewer heads, or a file of ours says biases: not both
        with pytest.raises(CheckpointError, match="read the number of their heads from config.json, and these have lo"):
            jp.export(small, tmp_path / "out")
        return
    config = jp.export(small, tmp_path / "out").config
    if family in ("llama", "smollm3") and kept is not KEPT:  # its config.json can say them, with others of zeros
        assert config["attention_bias"] and config["mlp_bias"] and "auto_map" not in config
        return
    assert config["pruned_biases"] == ["o", "down"]
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert "model.layers.1.self_attn.o_proj.bias" in tensors
    assert ("model.layers.1.self_attn.q_proj.bias" in tensors) == (family == "qwen2")
    assert_same(load(tmp_path / "out"), small)


def test_a_head_is_changed_as_of_any_checkpoint(tmp_path):
    model = dense(tmp_path, "bert")
    jp.export(pruned(model, *KEPT), tmp_path / "out")
    bare, five = load(tmp_path / "out", head="none"), load(tmp_path / "out", labels=5)
    assert bare.architecture.head == "none" and len(five.architecture.labels) == 5
    assert any("new, random ones" in entry for entry in five.provenance.warnings)
    written = jp.export(bare, tmp_path / "bare")
    assert written.config["auto_map"] == {"AutoModel": "modeling_pruned.PrunedBertModel"}
    assert_same(load(tmp_path / "bare"), bare)


def test_it_goes_on_as_any_checkpoint(tmp_path):
    """Exported again, filled up, and saved: what config.json said of the dense model is still known."""
    small = pruned(dense(tmp_path, "llama"), *KEPT)
    jp.export(small, tmp_path / "out", shard_bytes=4000)
    again = load(tmp_path / "out")
    assert "pruned_layers" not in again.provenance.record["source_config"]
    assert config_of(jp.export(again, tmp_path / "twice").folder) == config_of(tmp_path / "out")
    jp.export(again, tmp_path / "full", fill_zeros=True)
    assert load(tmp_path / "full").architecture == load(tmp_path / "dense").architecture
    jp.save(again, tmp_path / "saved")
    assert_equal(jp.load(tmp_path / "saved").params, small.params)


# --- what others make of such folders


def changed(folder, **settings):
    config = {**config_of(folder), **settings}
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not ...}), encoding="utf-8"
    )
    return folder


LAYER = {"heads": 2, "groups": 2, "neurons": 2}
WRONG = [
    ({"pruned_layers": 3}, r"pruned_layers is '3', expected a list"),
    ({"pruned_layers": [LAYER], "per_layer_config": ...}, r"pruned_layers has 1 layers, and the model 2"),
    ({"pruned_layers": [LAYER, LAYER]}, r"per_layer_config has other sizes than pruned_layers"),
    ({"pruned_layers": [LAYER, LAYER], "per_layer_config": ...}, r"do not fit its config.json"),
    ({"pruned_layers": [LAYER, {"heads": 1, "groups": 1}]}, r"pruned_layers\[1\] is .*integers: heads, groups, n"),
    ({"pruned_layers": [LAYER, {**LAYER, "heads": True}]}, r"pruned_layers\[1\] is .*expected integers"),
    ({"pruned_layers": [{**LAYER, "heads": 3}, LAYER]}, r"pruned_layers\[0\] is .*whole groups"),
    ({"pruned_layers": [{**LAYER, "neurons": -1}, LAYER]}, r"pruned_layers\[0\] is .*expected at least 1"),
    ({"pruned_layers": ...}, r"auto_map is "),
    ({"pruned_biases": ["o", "norm"]}, r"pruned_biases is .*expected a list of down, gate, k, o"),
    ({"pruned_biases": ["o"]}, r"missing.*o_proj.bias"),
    ({"pruned_biases": ...}, r"pruned_biases is 'None'"),
    ({"head_dim": 2}, r"misshapen: layers.0.self_attn.k_proj.weight"),
    ({"pruned_layers": ..., "auto_map": ...}, r"pruned_file_sha256 = .*, per_layer_config = "),
    ({"per_layer_config": {"2": {}}}, r"per_layer_config has other sizes"),
    ({"per_layer_config": {"0": {"num_attention_heads": 3}}}, r"per_layer_config has other sizes"),
    ({"per_layer_config": {"0": {"rope_theta": 1.0}}}, r"per_layer_config has other sizes"),
    ({"auto_map": {"AutoModelForCausalLM": "modeling_other.PrunedLlamaForCausalLM"}}, r"auto_map is "),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "says"), WRONG, ids=[says for _, says in WRONG])
def test_what_contradicts_itself_is_named(tmp_path, settings, says):
    jp.export(pruned(dense(tmp_path, "llama"), *KEPT), tmp_path / "out")
    with pytest.raises(CheckpointError, match=says) as caught:
        load(changed(tmp_path / "out", **settings))
    assert "\n" not in str(caught.value)


def test_what_transformers_rewrites_is_read(tmp_path):
    """It leaves out of per_layer_config what is as in the dense model, fills up numbers, names other repositories."""
    small = pruned(dense(tmp_path, "llama"), None, [1], [1], None)
    jp.export(small, tmp_path / "out")
    per_layer = {"00": {"intermediate_size": 1}, "01": {"num_attention_heads": 1, "num_key_value_heads": 1}}
    auto_map = {"AutoModelForCausalLM": "org/name--modeling_pruned.PrunedLlamaForCausalLM"}
    assert_same(load(changed(tmp_path / "out", per_layer_config=per_layer, auto_map=auto_map)), small)


# --- the folder


def test_biases_of_a_model_as_large_as_its_source_are_refused(tmp_path):
    """transformers would load it without the file, and drop them; so too where only the file's zeros fill it up."""
    model = dense(tmp_path, "mistral", num_attention_heads=1, num_key_value_heads=1)
    for small in (model, pruned(model, [], None, None, None)):
        with pytest.raises(CheckpointError, match="a mistral model of transformers has no place for them"):
            jp.export(with_output_biases(small), tmp_path / "out")
    assert names(tmp_path) == ["dense"]


def test_the_folder_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    model = dense(tmp_path, "bert")
    small = pruned(model, *KEPT)
    folder = jp.export(small, tmp_path / "out").folder
    with pytest.raises(OutputError, match="exists and is not empty"):
        jp.export(small, folder)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write, "_sync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            jp.export(model, folder, overwrite=True)
        with pytest.raises(KeyboardInterrupt):
            jp.export(small, tmp_path / "new")
    assert names(tmp_path) == ["dense", "out"]
    assert_same(load(folder), small)
    jp.export(model, folder, overwrite=True)  # the file of code is ours, and goes
    assert MODELLING not in names(folder) and "auto_map" not in config_of(folder)


def test_the_card_says_how_to_load_it_and_what_the_file_does(tmp_path):
    small = pruned(dense(tmp_path, "bert"), *KEPT)
    card = (jp.export(small, tmp_path / "out").folder / "README.md").read_text()
    assert "AutoModelForSequenceClassification.from_pretrained(FOLDER, trust_remote_code=True)" in card
    assert "`modeling_pruned.py` builds" in card and "without running it" in card
    full = (jp.export(small, tmp_path / "full", fill_zeros=True).folder / "README.md").read_text()
    assert "trust_remote_code" not in full and "BertForSequenceClassification.from_pretrained(FOLDER)" in full


def test_a_family_of_ones_own_names_its_own_modules():
    bert = FAMILIES["bert"]
    own = replace(
        bert,
        model_type="ours",
        classes="Ours",
        modules={ours: theirs.replace("encoder.layer", "blocks") for ours, theirs in bert.modules.items()},
    )
    text = modelling_text(own, "classification")
    assert '"blocks.{}.attention.self.query": ["q"]' in text and "PrunedOursForSequenceClassification" in text


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(tmp_path, dtype):
    small = pruned(dense(tmp_path, "opt"), *KEPT)
    assert jp.export(small, tmp_path / "out", dtype=dtype).dtype == dtype
    assert load(tmp_path / "out").architecture == small.architecture
    assert config_of(tmp_path / "out")["dtype"] == dtype
