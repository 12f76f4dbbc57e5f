"""Classifiers on decoders: what is read, drawn anew, left out, saved and written for transformers."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxprune as jp
from jaxprune.errors import CheckpointError, SettingsError
from tests.helpers import tiny

FAMILIES = ("opt", "gpt2", "llama", "mistral", "qwen2", "qwen3")
IDS = np.arange(2, 16).reshape(2, 7)
families = pytest.mark.parametrize("family", FAMILIES)


def write(folder, family, head="classification", **changes):
    settings = tiny.config(family, head, **changes)
    return tiny.write(folder, settings, tiny.tensors(settings))


@families
def test_the_head_is_read_saved_and_written(tmp_path, family):
    model = jp.load(write(tmp_path / "model", family, pad_token_id=0))
    a = model.architecture
    assert (a.head, a.labels, a.pool, a.pool_pad) == ("classification", ("a", "b", "c"), "last", 0)
    assert model.params["head"].keys() == {"kernel"} and model.provenance.warnings == ()
    assert jp.logits(model, IDS).shape == (2, 3)
    again = jp.load(jp.save(model, tmp_path / "saved"))
    written = jp.export(again, tmp_path / "out")
    assert written.config["architectures"] == [f"{tiny.FAMILIES[family].classes}ForSequenceClassification"]
    assert "score.weight" in load_file(tmp_path / "out" / "model.safetensors") and written.warnings == ()
    for same in (again, jp.load(tmp_path / "out")):
        assert same.architecture == a
        np.testing.assert_array_equal(jp.logits(same, IDS), jp.logits(model, IDS))


@families
def test_a_language_model_gets_a_head_and_says_what_is_left_out(tmp_path, family):
    folder = write(tmp_path / "language", family, "causal_lm", tie_word_embeddings=False)
    model = jp.load(folder, labels=["no", "yes"])
    assert model.architecture.head == "classification" and not model.architecture.end_ids
    (said,) = model.provenance.warnings
    assert said.endswith("new, random ones (seed 0); fine-tune first; its lm_head is left out.")
    np.testing.assert_array_equal(
        jp.logits(jp.load(folder, labels=2, head="classification"), IDS), jp.logits(model, IDS)
    )
    # The same from a folder of ours, whose token table may serve as the head.
    tied = write(tmp_path / "tied", family, "causal_lm", tie_word_embeddings=True)
    saved = jp.save(jp.load(tied), tmp_path / "saved")
    jp.save(jp.load(folder), tmp_path / "untied")
    assert jp.load(saved, labels=["no", "yes"]).architecture == model.architecture
    (said,) = jp.load(tmp_path / "untied", labels=2).provenance.warnings
    assert said.endswith("fine-tune first; its causal lm head is left out.")


def test_padding_is_what_config_says(tmp_path):
    read = lambda name, family, **changes: jp.load(write(tmp_path / name, family, **changes)).architecture  # noqa: E731
    assert read("default", "opt").pool_pad == 1 and read("silent", "llama").pool_pad is None
    assert read("null", "opt", pad_token_id=None).pool_pad is None
    assert read("minus", "llama", pad_token_id=-1).pool_pad is None  # old files of Llama: no token has it
    assert read("lower", "llama", pad_token_id=-100).pool_pad is None
    with pytest.raises(CheckpointError, match="pad_token_id is 'zero', expected an integer, or null for none"):
        read("word", "llama", pad_token_id="zero")
    # A language model reads no token in particular, whatever its padding is.
    language = jp.load(write(tmp_path / "language", "llama", "causal_lm", pad_token_id=3))
    assert language.architecture.pool_pad is None
    jp.save(language, tmp_path / "saved")
    assert jp.load(tmp_path / "saved", labels=2).architecture.pool_pad == 3


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_padding_beyond_the_vocabulary_is_told_by_the_mask(tmp_path, family):
    folder = write(tmp_path / "model", family, pad_token_id=999)
    model = jp.load(folder)
    (said,) = model.provenance.warnings
    assert "config.json: padding has the id 999, which is none of the" in said and model.architecture.pool_pad is None
    alone = jp.logits(model, IDS[:1, :3])
    padded = jp.logits(model, np.pad(IDS[:1, :3], ((0, 0), (0, 2))), [[1, 1, 1, 0, 0]])
    np.testing.assert_allclose(padded, alone, atol=1e-6)
    # The same where the head is a new one, of a folder of ours.
    language = jp.save(jp.load(write(tmp_path / "text", family, "causal_lm", pad_token_id=999)), tmp_path / "saved")
    assert jp.load(language).provenance.warnings == ()
    drawn = jp.load(language, labels=2)
    assert drawn.architecture.pool_pad is None and "padding has the id 999" in drawn.provenance.warnings[-1]


def test_a_folder_that_transformers_would_read_text_by_text_says_so(tmp_path):
    model = jp.load(write(tmp_path / "model", "llama"))
    (said,) = jp.export(model, tmp_path / "out").warnings
    assert "names no pad_token_id of a token, without which transformers classifies one text at a time" in said
    assert jp.export(jp.load(write(tmp_path / "language", "llama", "causal_lm")), tmp_path / "plain").warnings == ()


def test_heads_of_the_same_name_do_not_pass_for_one(tmp_path):
    """A classifier of tokens has its `score` too, with a bias; a bias that the class lacks would change the result."""
    settings = tiny.config("llama", "classification")
    named = tiny.tensors(settings) | {"score.bias": np.ones(3, np.float32)}
    tokens = tiny.write(tmp_path / "tokens", {**settings, "architectures": ["LlamaForTokenClassification"]}, named)
    with pytest.raises(CheckpointError, match="names a class whose head is not supported"):
        jp.load(tokens)
    assert "score is left out" in jp.load(tokens, head="classification").provenance.warnings[0]
    with pytest.raises(CheckpointError, match=r"extra: score\.bias \[3\]"):
        jp.load(tiny.write(tmp_path / "biased", settings, named))


def test_the_head_in_the_file_is_used_though_config_names_another_class(tmp_path):
    settings = tiny.config("qwen2", "classification")
    named, expected = tiny.tensors(settings), jp.logits(tiny.random_model(settings), IDS)
    for name in ("Qwen2Model", None):
        config = settings | ({"architectures": [name]} if name else {})
        if name is None:
            del config["architectures"]
        model = jp.load(tiny.write(tmp_path / str(name), config, named))
        np.testing.assert_allclose(jp.logits(model, IDS), expected, rtol=0, atol=1e-6)
    both = named | {"lm_head.weight": np.ones((30, 12), np.float32)}
    folder = tiny.write(tmp_path / "both", settings | {"architectures": ["Qwen2ForCausalLM"]}, both)
    np.testing.assert_allclose(jp.logits(jp.load(folder, head="classification"), IDS), expected, rtol=0, atol=1e-6)


def test_a_causal_row_that_reads_the_first_token_is_refused(tmp_path):
    heads = {"classification": jp.HeadModules(output="score")}
    row = replace(tiny.FAMILIES["llama"], model_type="blind", heads=heads)
    folder = write(tmp_path / "model", "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "blind"}))
    with pytest.raises(
        SettingsError, match="family blind is causal, .* reads that one; have it read the last, HeadMod"
    ):
        jp.load(folder, family=row)
    row = replace(row, heads={"classification": jp.HeadModules(output="score", token="last", bias=False)})
    assert jp.load(folder, family=row).architecture.pool == "last"
