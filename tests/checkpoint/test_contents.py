"""Files that hold other tensors than config.json leads one to expect: tied, doubled, wrapped, left over."""

import json

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.checkpoint import load
from jaxprune.checkpoint.families import FAMILIES
from jaxprune.errors import CheckpointError
from tests.helpers import tiny

IDS = np.arange(12).reshape(2, 6) + 3
decoders = pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])


def table_of(family: str) -> str:
    return f"{FAMILIES[family].prefix}{FAMILIES[family].modules['embed.token']}.weight"


def assert_same(model, expected):
    assert model.architecture == expected.architecture
    jax.tree.map(np.testing.assert_array_equal, model.params, expected.params)


# --- tied language models


@decoders
def test_two_different_tensors_are_not_tied_whatever_config_says(tmp_path, family):
    untied = tiny.config(family, tie_word_embeddings=False)
    folder = tiny.write(tmp_path / "model", {**untied, "tie_word_embeddings": True}, tiny.tensors(untied))
    model = load(folder)
    assert_same(model, tiny.random_model(untied))
    (warning,) = model.provenance.warnings
    assert "tie_word_embeddings is true, but the files hold two different tensors" in warning
    assert "lm_head.weight" in warning and FAMILIES[family].modules["embed.token"] in warning
    jp.export(model, tmp_path / "exported")
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["tie_word_embeddings"] is False
    assert_same(load(tmp_path / "exported"), model)


@decoders
@pytest.mark.parametrize("stored", ["both", "head"])
def test_one_tensor_serves_for_table_and_head_whichever_is_stored(tmp_path, family, stored):
    tied = tiny.config(family, tie_word_embeddings=True)
    named = tiny.tensors(tied)
    table = table_of(family)
    named["lm_head.weight"] = named[table] if stored == "both" else named.pop(table)
    model = load(tiny.write(tmp_path / "model", tied, named))
    assert_same(model, tiny.random_model(tied))
    assert model.architecture.tied and model.provenance.warnings == ()


@pytest.mark.parametrize("flag", ["true", 1])
def test_what_is_no_flag_is_not_taken_for_one(tmp_path, flag):
    settings = tiny.config("llama")
    folder = tiny.write(tmp_path / "model", {**settings, "tie_word_embeddings": flag}, tiny.tensors(settings))
    with pytest.raises(CheckpointError, match=f"tie_word_embeddings is '{flag}', expected true or false"):
        load(folder)


def test_a_bias_of_the_head_is_not_dropped(tmp_path):
    settings = tiny.config("llama")
    named = {**tiny.tensors(settings), "lm_head.bias": np.ones(30, np.float32)}
    with pytest.raises(CheckpointError, match=r"extra: lm_head\.bias \[30\]"):
        load(tiny.write(tmp_path / "model", settings, named))


# --- heads that are in the files


def test_old_spellings_of_a_class_are_understood(tmp_path):
    settings = tiny.config("llama")
    folder = tiny.write(tmp_path / "model", {**settings, "architectures": ["LLaMAForCausalLM"]}, tiny.tensors(settings))
    model = load(folder)
    assert_same(model, tiny.random_model(settings))
    assert model.provenance.warnings == ()


@pytest.mark.parametrize(
    "family, head, name",
    [
        ("llama", "causal_lm", "LlamaForPoetry"),
        ("llama", "causal_lm", "LlamaModel"),
        ("bert", "classification", "BertForMyTask"),
        ("bert", "classification", "BertForMaskedLM"),
        ("roberta", "question_answering", "MyModel"),
    ],
)
def test_a_head_that_is_asked_for_is_never_drawn_where_the_files_hold_it(tmp_path, family, head, name):
    settings = tiny.config(family, head)
    folder = tiny.write(tmp_path / "model", {**settings, "architectures": [name]}, tiny.tensors(settings))
    model = load(folder, head=head)
    assert_same(model, tiny.random_model(settings))
    assert model.provenance.warnings == ()


def test_a_head_of_the_asked_size_counts_though_config_has_another(tmp_path):
    settings = tiny.config("bert")
    folder = tiny.write(tmp_path / "model", {**settings, "id2label": {"0": "x", "1": "y"}}, tiny.tensors(settings))
    model = load(folder, labels=("a", "b", "c"))
    assert_same(model, tiny.random_model(settings))


def test_a_head_that_config_does_not_name_is_not_dropped_in_silence(tmp_path):
    settings = tiny.config("bert")
    folder = tiny.write(tmp_path / "model", {**settings, "architectures": ["BertForMaskedLM"]}, tiny.tensors(settings))
    model = load(folder)
    assert model.architecture.head == "none"
    assert "names no classification head, but the files hold one" in model.provenance.warnings[0]
    assert load(folder, head="none").provenance.warnings == ()


# --- leftovers


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_tensors_that_nothing_reads_are_named_in_a_warning(tmp_path, form):
    settings = tiny.config("bert")
    extra = {"loss_fct.weight": np.ones(3, np.float32), "fit_denses.0.weight": np.ones((4, 12), np.float32)}
    model = load(tiny.write(tmp_path / "model", settings, {**tiny.tensors(settings), **extra}, form))
    assert_same(model, tiny.random_model(settings))
    (warning,) = model.provenance.warnings
    assert "holds tensors that the model does not read: " in warning
    assert "loss_fct.weight [3]" in warning and "fit_denses.0.weight [4, 12]" in warning


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.q_proj.bias", "model.layers.7.mlp.up_proj.weight", "model.norm.bias"]
)
def test_tensors_of_parts_that_the_model_computes_are_an_error(tmp_path, name):
    """Config.json denies them a place, but they would change the result."""
    settings = tiny.config("llama")
    named = {**tiny.tensors(settings), name: np.ones(12, np.float32)}
    with pytest.raises(CheckpointError, match=f"extra: {name.removeprefix('model.')}"):
        load(tiny.write(tmp_path / "model", settings, named))


def test_biases_that_config_promises_and_the_files_lack_are_an_error(tmp_path):
    settings = tiny.config("llama")
    with pytest.raises(CheckpointError, match=r"missing: layers\.0\.self_attn\.k_proj\.bias \[12\]"):
        load(tiny.write(tmp_path / "model", {**settings, "attention_bias": True}, tiny.tensors(settings)))


# --- names


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "opt"])
@pytest.mark.parametrize("outer", ["_orig_mod.", "module.", "module._orig_mod.", "model."])
def test_what_training_programs_put_before_every_name_is_taken_off(tmp_path, family, outer):
    settings = tiny.config(family)
    named = {f"{outer}{name}": tensor for name, tensor in tiny.tensors(settings).items()}
    model = load(tiny.write(tmp_path / "model", settings, named))
    assert_same(model, tiny.random_model(settings))
    assert model.provenance.warnings == ()


def test_wrappers_inside_names_are_taken_off(tmp_path):
    settings = tiny.config("llama")
    named = {
        name.replace("self_attn.", "_checkpoint_wrapped_module.self_attn._orig_mod."): tensor
        for name, tensor in tiny.tensors(settings).items()
    }
    assert_same(load(tiny.write(tmp_path / "model", settings, named)), tiny.random_model(settings))


def test_equal_tensors_with_and_without_prefix_are_one(tmp_path):
    settings = tiny.config("bert")
    named = tiny.tensors(settings)
    named["embeddings.LayerNorm.bias"] = named["bert.embeddings.LayerNorm.bias"]
    assert_same(load(tiny.write(tmp_path / "model", settings, named)), tiny.random_model(settings))


def test_different_tensors_with_and_without_a_wrapper_are_refused(tmp_path):
    settings = tiny.config("llama")
    named = tiny.tensors(settings)
    named["_orig_mod.model.norm.weight"] = 1 + named["model.norm.weight"]
    with pytest.raises(
        CheckpointError, match=r"two different tensors norm\.weight, one of them as \S*model\.norm\.weight"
    ):
        load(tiny.write(tmp_path / "model", settings, named))


# --- masked language models


@pytest.mark.parametrize("family, head", [("bert", "cls.predictions"), ("roberta", "lm_head"), ("distilbert", None)])
def test_a_masked_language_model_with_a_table_of_its_own_is_refused(tmp_path, family, head):
    """transformers ties no two tensors that differ: it takes the head's, which has no place here."""
    settings = tiny.config(family, "masked_lm")
    named = tiny.tensors(settings)
    table = table_of(family)
    copy = f"{head}.decoder.weight" if head else "vocab_projector.weight"
    assert load(tiny.write(tmp_path / "same", settings, {**named, copy: named[table]})).architecture.tied
    other = tiny.write(tmp_path / "other", settings, {**named, copy: named[table] + 1})
    with pytest.raises(CheckpointError, match="two different tensors, .*word_embeddings.weight and .*; load it with"):
        load(other)
    assert load(other, head="none").architecture.head == "none"
    if head:
        bias = {f"{head}.decoder.bias": named[f"{head}.bias"]}
        load(tiny.write(tmp_path / "same bias", settings, {**named, **bias}))
        bias = {name: array + 1 for name, array in bias.items()}
        with pytest.raises(CheckpointError, match="two different tensors, .*bias and .*decoder.bias"):
            load(tiny.write(tmp_path / "other bias", settings, {**named, **bias}))


def test_an_adapter_beside_a_model_is_told(tmp_path):
    settings = tiny.config("llama")
    folder = tiny.write(tmp_path / "model", settings, tiny.tensors(settings))
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (warning,) = load(folder).provenance.warnings
    assert "holds a PEFT adapter beside the model, which transformers adds to it: the model alone is loaded" in warning


def test_a_window_that_transformers_reads_under_another_name_is_refused(tmp_path):
    settings = tiny.config("modernbert")
    folder = tiny.write(tmp_path / "model", {**settings, "sliding_window": 2}, tiny.tensors(settings))
    with pytest.raises(CheckpointError, match="sliding_window is '2', of a modernbert model only None is supported"):
        load(folder)


def test_a_head_in_another_form_than_it_is_read_in_is_told(tmp_path):
    settings = tiny.config("modernbert", "masked_lm", decoder_bias=False)
    named = {name: array for name, array in tiny.tensors(settings).items() if name != "decoder.bias"}
    model = load(tiny.write(tmp_path / "model", settings, named))
    assert model.architecture.head == "none"
    assert "hold a masked_lm head without decoder.bias, which is not read" in model.provenance.warnings[0]


def test_weights_that_are_there_twice_are_told(tmp_path):
    settings = tiny.config("bert")
    folder = tiny.write(tmp_path / "model", settings, tiny.tensors(settings), "msgpack")
    assert load(folder).provenance.warnings == ()
    tiny.write_bin(folder / "pytorch_model.bin", tiny.tensors(settings, seed=1))
    (warning,) = load(folder).provenance.warnings
    assert "holds flax_model.msgpack and pytorch_model.bin: the first is read, and transformers on torch" in warning
    tiny.write(tmp_path / "both", settings, tiny.tensors(settings))
    tiny.write_bin(tmp_path / "both" / "pytorch_model.bin", tiny.tensors(settings, seed=1))
    assert load(tmp_path / "both").provenance.warnings == ()  # safetensors come first everywhere
