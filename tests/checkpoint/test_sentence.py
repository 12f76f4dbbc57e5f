"""Folders of sentence-transformers: read as that package reads them, written as one again, refused by name."""

import json

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import CheckpointError, SettingsError
from jaxprune.model import logits
from jaxprune.model.embedding import DenseStep, Embedding
from tests.helpers import tiny
from tests.helpers.sentences import MODES, write_folder, write_json

IDENTITY, TANH = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh"
TEXTS = ["the film is good", "a dull book", "the plot"]


def read(file):
    return json.loads(file.read_text())


@pytest.mark.parametrize("inner", ["", "0_Transformer"])
def test_a_folder_loads_as_it_is(tmp_path, inner):
    folder = write_folder(
        tmp_path / "m", MODES[:2], ((7, TANH), (5, IDENTITY)), inner=inner,
        prompts={"query": "film: ", "none": None}, default_prompt_name="query",
    )  # fmt: skip
    model = jp.load(folder)
    assert model.architecture.head == "embedding" and model.provenance.warnings == ()
    assert model.architecture.embedding == Embedding(
        pooling=("cls", "max"),
        dense=(DenseStep(outputs=7), DenseStep(outputs=5, activation="identity")),
        normalize=True,
        max_tokens=12,
        prompts=(("query", "film: "), ("none", "")),
        default_prompt="query",
    )
    assert [np.shape(layer["kernel"]) for layer in model.params["head"]] == [(24, 7), (7, 5)]
    assert jp.embed(model, TEXTS).shape == (3, 5)


@pytest.mark.parametrize("modes", [(MODES[2],), (MODES[0], MODES[5])])
def test_saved_and_exported_folders_say_the_same(tmp_path, modes):
    folder = write_folder(tmp_path / "m", modes, ((7, TANH),), similarity_fn_name="dot", prompts={"query": "q: "})
    model = jp.load(folder)
    expected = jp.embed(model, TEXTS)
    jp.save(model, tmp_path / "saved")
    jp.export(jp.load(tmp_path / "saved"), tmp_path / "exported")
    for name in ("saved", "exported"):
        again = jp.load(tmp_path / name)
        assert again.architecture == model.architecture
        np.testing.assert_array_equal(jp.embed(again, TEXTS), expected)
        for file in ("modules.json", "2_Dense/config.json", "config_sentence_transformers.json"):
            kept = {**read(folder / file), "default_prompt_name": None} if file[0] == "c" else read(folder / file)
            assert read(tmp_path / name / file) == kept
        pooling = read(tmp_path / name / "1_Pooling/config.json")
        assert pooling["word_embedding_dimension"] == 12 and [m for m in MODES if pooling[m]] == list(modes)
    jp.save(model, tmp_path / "saved", overwrite=True)  # every file in it is known to be ours
    jp.export(model, tmp_path / "exported", overwrite=True)


def test_a_pruned_model_is_exported_as_one_of_sentences(tmp_path):
    model = jp.load(write_folder(tmp_path / "m", dense=((7, TANH),)))
    texts = jp.Calibration.of_texts(TEXTS * 30)
    small = jp.prune(model, texts, jp.Budget(0.4), jp.Magnitude())
    expected = jp.embed(small, TEXTS)
    for name, filled in (("uneven", False), ("filled", True)):
        jp.export(small, tmp_path / name, fill_zeros=filled)
        np.testing.assert_allclose(jp.embed(jp.load(tmp_path / name), TEXTS), expected, rtol=0, atol=1e-5)
        assert "SentenceTransformer(FOLDER" in (tmp_path / name / "README.md").read_text()


def test_the_caller_may_take_the_encoder_alone_or_another_head(tmp_path):
    folder = write_folder(tmp_path / "m", inner="0_Transformer")
    assert jp.load(folder, head="none").architecture.embedding is None
    classifier = jp.load(folder, labels=3)
    assert classifier.architecture.head == "classification" and "new, random ones" in classifier.provenance.warnings[0]


def test_an_encoder_becomes_one_by_mean_pooling_and_that_is_told(tmp_path):
    config = tiny.config("bert", "none")
    model = jp.load(tiny.write(tmp_path / "m", config, tiny.tensors(config)), head="embedding")
    assert model.architecture.embedding == Embedding()
    assert "has no modules.json: its tokens' states are averaged" in model.provenance.warnings[0]
    ids = np.arange(8).reshape(2, 4) + 2
    hidden = logits(jp.load(tmp_path / "m", head="none"), ids)
    np.testing.assert_allclose(logits(model, ids), np.mean(hidden, axis=1), rtol=0, atol=1e-6)
    jp.save(model, tmp_path / "s")
    assert jp.load(tmp_path / "s").architecture == model.architecture
    assert jp.load(tmp_path / "s", head="none").architecture.embedding is None


def test_a_reranker_with_modules_is_read_by_its_config(tmp_path):
    config = tiny.config("bert", "classification")
    folder = tiny.write(tmp_path / "m", config, tiny.tensors(config))
    write_json(
        folder / "modules.json", [{"type": "sentence_transformers.base.modules.transformer.Transformer", "path": ""}]
    )
    write_json(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder"})
    assert jp.load(folder).architecture.head == "classification"


@pytest.mark.parametrize(
    "pooling, modes",
    [
        ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
        ({"pooling_mode": ["max", "cls"], "include_prompt": False}, ("max", "cls")),
        ({"pooling_mode": "mean", "pooling_mode_mean_tokens": True}, ("mean",)),
    ],
)
def test_pooling_in_its_present_form(tmp_path, pooling, modes):
    folder = write_folder(tmp_path / "m")
    write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": 12, **pooling})
    model = jp.load(folder)
    assert model.architecture.embedding is not None
    assert model.architecture.embedding.pooling == modes
    assert model.architecture.embedding.include_prompt == pooling.get("include_prompt", True)
    jp.save(model, tmp_path / "s")
    jp.export(model, tmp_path / "x")
    assert jp.load(tmp_path / "x").architecture == jp.load(tmp_path / "s").architecture == model.architecture


def modules(*names):
    return [
        {"type": f"sentence_transformers.models.{name}", "path": f"{at}_{name}" if at else ""}
        for at, name in enumerate(names)
    ]


REFUSED = [
    ("modules.json", modules("Transformer", "Pooling", "LSTM"), "module of the class LSTM, which is not read"),
    ("modules.json", [{"type": "custom.Pooling", "path": ""}], "module of the class custom.Pooling"),
    ("modules.json", modules("Transformer", "Pooling", "Normalize", "Dense"), "names .*Normalize, Dense, expected"),
    ("modules.json", modules("Transformer", "Pooling", "Pooling"), "expected a Transformer and one Pooling"),
    ("modules.json", [{"type": "sentence_transformers.models.Transformer", "path": "../m"}], "not in that folder"),
    ("modules.json", [{"path": ""}], "module 0 has no type and path"),
    ("modules.json", {}, "expected a list"),
    ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False}, "pooling is of no mode, expected cls or"),
    ("1_Pooling/config.json", {"pooling_mode": "median"}, "pooling is median, expected cls or"),
    ("1_Pooling/config.json", {"pooling_mode": ["cls", "cls"]}, "each at most once"),
    ("1_Pooling/config.json", {"pooling_mode": "cls", "pooling_mode_max_tokens": True}, "cls, other entries say max"),
    ("1_Pooling/config.json", {"pooling_mode": "cls", "embedding_dimension": 13}, "vectors of 13 numbers, .* have 12"),
    ("1_Pooling/config.json", {"pooling_mode": "cls", "trained": 1}, "trained is '1', which may change embeddings"),
    ("2_Dense/config.json", {"in_features": 11, "out_features": 7}, "reads 11 numbers, what comes before it gives 12"),
    ("2_Dense/config.json", {"in_features": 12, "out_features": 8}, "the tensors of .*2_Dense are"),
    ("2_Dense/config.json", {"in_features": 12, "out_features": 7, "activation_function": "torch.ELU"}, "ELU is no"),
    ("2_Dense/config.json", {"in_features": 12, "out_features": 7, "use_residual": True}, "use_residual is 'True'"),
    ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length is '0'"),
    ("sentence_bert_config.json", {"query_length": 3}, "query_length is '3', which may change"),
    ("config_sentence_transformers.json", {"default_prompt_name": "q"}, "default_prompt_name is 'q', which is none"),
    ("config_sentence_transformers.json", {"prompts": ["q"]}, "expected texts by name"),
    ("config_sentence_transformers.json", {"truncate_dim": 64}, "truncate_dim is '64', which may change embeddings"),
]  # fmt: skip


@pytest.mark.parametrize("file, content, says", REFUSED)
def test_what_is_not_understood_is_one_line_that_names_it(tmp_path, file, content, says):
    folder = write_folder(tmp_path / "m", dense=((7, TANH),))
    write_json(folder / file, content)
    with pytest.raises(CheckpointError, match=says) as error:
        jp.load(folder)
    assert "\n" not in str(error.value)


def test_an_embedding_goes_with_its_head_alone():
    a = tiny.random_model(tiny.config("bert", "none")).architecture
    for changes in ({"head": "embedding"}, {"embedding": Embedding()}):
        with pytest.raises(SettingsError, match="head (needs|has no use for) an embedding"):
            type(a)(**{**vars(a), **changes})
