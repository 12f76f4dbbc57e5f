"""What a folder takes from a model's notes: record and tokenizer, and what happens where JAX dropped them."""

import json

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer as Fast, models, pre_tokenizers

import jaxprune as jp
from jaxprune.checkpoint import load, save
from jaxprune.errors import CheckpointError
from jaxprune.tokens.tokenizer import Tokenizer
from tests.helpers import tiny

PLAIN = '{"tokenizer_class": "PreTrainedTokenizerFast"}'  # the file as it is, not what BERT's class makes of it
EXAMPLES = [jp.Example("good film", None, None)]


def fast(*words: str) -> Fast:
    """A word-level tokenizer, set to cut and to pad."""
    backend = Fast(models.WordLevel({word: number for number, word in enumerate(["[UNK]", *words])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    backend.enable_truncation(1)
    backend.enable_padding(length=7)
    return backend


@pytest.fixture
def model(tmp_path):
    settings = tiny.config("bert")
    folder = tiny.write(tmp_path / "source", settings, tiny.tensors(settings))
    fast("good", "film").save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(PLAIN)
    return load(folder).with_record(method="none")


@pytest.fixture
def bare(model):
    return jax.tree.map(lambda leaf: leaf, model)


def ids_of(model) -> list[int]:
    return Tokenizer.of(model).encode(EXAMPLES, 16).ids[0].tolist()


def test_a_model_without_its_notes_is_refused_with_the_way_back(model, bare, tmp_path):
    with pytest.raises(CheckpointError, match=r"has lost its notes .*new\.with_notes_of\(old\).*tokenizer=FOLDER"):
        save(bare, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"pass tokenizer=FOLDER.*new\.with_notes_of\(old\)"):
        Tokenizer.of(bare)
    with pytest.raises(CheckpointError, match=r"no source_config.*new\.with_notes_of\(old\)"):
        jp.export(bare, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    again = load(save(bare.with_notes_of(model), tmp_path / "out"))
    assert again.provenance.record["method"] == "none" and ids_of(again) == [1, 2]
    assert jp.export(bare.replace(provenance=model.provenance), tmp_path / "hf").folder.is_dir()


@pytest.mark.parametrize("kind", ["folder", "tokenizers", "transformers", "ours"])
def test_a_tokenizer_that_is_handed_in_is_used_and_saved(model, bare, tmp_path, kind):
    other = fast("a", "film", "good")
    (tmp_path / "other").mkdir()
    other.save(str(tmp_path / "other" / "tokenizer.json"))
    (tmp_path / "other" / "tokenizer_config.json").write_text(PLAIN)
    given = tmp_path / "other"
    if kind == "tokenizers":
        given = other
    elif kind == "transformers":
        from transformers import PreTrainedTokenizerFast

        given = PreTrainedTokenizerFast(tokenizer_object=other)
    elif kind == "ours":
        given = Tokenizer.of(tmp_path / "other")
    before = other.to_str()
    assert ids_of(model.with_tokenizer(given)) == ids_of(bare.with_tokenizer(given)) == [3, 2]
    assert other.to_str() == before  # ours is a copy: encoding sets how long a text may be
    folder = save(model, tmp_path / "out", tokenizer=given)
    assert ids_of(load(folder)) == [3, 2] and load(folder).provenance.warnings == ()
    again = load(save(bare, tmp_path / "bare", tokenizer=given))
    assert ids_of(again) == [3, 2]
    assert "record of what was done to this model was lost" in again.provenance.warnings[0]
    written = jp.export(model, tmp_path / "hf", tokenizer=given).folder
    assert json.loads((written / "tokenizer.json").read_text())["model"]["vocab"]["good"] == 3
    assert ids_of(model) == [1, 2]


def test_what_is_no_tokenizer_is_refused(model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty has no tokenizer files; put the checkpoint's"):
        save(model, tmp_path / "out", tokenizer=tmp_path / "empty")
    with pytest.raises(CheckpointError, match="tokenizer is a ndarray, expected a folder, or a fast tokenizer"):
        save(model, tmp_path / "out", tokenizer=np.zeros(2))
    with pytest.raises(CheckpointError, match="tokenizer is a dict, expected a folder"):
        Tokenizer.of(model.with_tokenizer({}))
    assert not (tmp_path / "out").exists()
