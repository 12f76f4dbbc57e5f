"""What a folder takes from a model's notes: record and tokenizer, and what happens where JAX dropped them."""

import json
import shutil

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer as Fast, models, pre_tokenizers

import jaxprune as jp
from jaxprune.checkpoint import load, save
from jaxprune.checkpoint.notes import loaded
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


def test_a_copy_splits_special_tokens_as_what_was_handed_in():
    from transformers import PreTrainedTokenizerFast

    words = fast("a")
    words.no_truncation()
    words.no_padding()
    words.add_special_tokens(["<eos>"])
    for split in (False, True):
        given = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", split_special_tokens=split)
        found = loaded(given).backend.encode("a <eos>").tokens
        assert found == given.tokenize("a <eos>") and ("<eos>" in found) != split


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
    said = load(folder).provenance.warnings
    assert ids_of(load(folder)) == [3, 2] and len(said) == (kind == "tokenizers")
    assert all("does not say which of its tokens pads, begins or ends a text" in warning for warning in said)
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


@pytest.mark.parametrize("way", ["save", "transformers", "onnx", "stablehlo"])
def test_a_source_that_is_gone_is_missed(model, tmp_path, way):
    source = model.provenance.source

    def warnings_of(folder, **settings) -> tuple[str, ...]:
        if way == "save":
            return load(save(model, folder, **settings)).provenance.warnings
        exported = jp.export(model, folder, format=way, **settings)
        record = json.loads((exported.folder / "jaxprune_export.json").read_text())
        assert record["export"]["warnings"] == [*exported.warnings]
        return exported.warnings

    assert warnings_of(tmp_path / "there") == ()
    shutil.move(source, tmp_path / "elsewhere")
    (warning,) = warnings_of(tmp_path / "gone")
    assert warning == (
        f"{source}, where the model was read from, is gone: no tokenizer is written, so that the folder takes token "
        "ids and no texts; pass tokenizer=FOLDER."
    )
    assert not (tmp_path / "gone" / "tokenizer.json").exists()
    assert warnings_of(tmp_path / "given", tokenizer=tmp_path / "elsewhere") == ()
    assert (tmp_path / "given" / "tokenizer.json").exists()


def test_a_language_model_and_one_of_images_miss_more(tmp_path):
    for family, words in (("gpt2", "of generation_config.json the end tokens alone"), ("vit", "preprocessor_config")):
        settings = tiny.config(family)
        model = load(tiny.write(tmp_path / family, settings, tiny.tensors(settings)))
        assert load(save(model, tmp_path / f"{family}-saved")).provenance.warnings == ()
        shutil.rmtree(tmp_path / family)
        assert words in load(save(model, tmp_path / f"{family}-again")).provenance.warnings[0]
        in_memory = jp.Model(model.architecture, model.params)
        assert load(save(in_memory, tmp_path / f"{family}-memory")).provenance.warnings == ()


def test_a_tokenizer_of_another_family_stays_of_its_class(tmp_path):
    """Older folders of BERT say their class in config.json alone, which stays behind."""
    from transformers import AutoTokenizer

    theirs = tmp_path / "theirs"
    theirs.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "d", "##c"]
    (theirs / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    (theirs / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    (theirs / "config.json").write_text('{"model_type": "bert"}')
    settings = tiny.config("roberta", "none", vocab_size=12)
    ours = load(tiny.write(tmp_path / "model", settings, tiny.tensors(settings)))
    said = [2, 5, 6, 8, 7, 3]
    for number, folder in enumerate((save(ours, tmp_path / "saved", tokenizer=theirs), tmp_path / "exported")):
        if number:
            jp.export(ours, folder, tokenizer=theirs)
        read = Tokenizer.of(load(folder)).encode([jp.Example("ABc d", None, None)], 16)
        assert read.ids[0].tolist() == said
        assert AutoTokenizer.from_pretrained(folder)("ABc d")["input_ids"] == said
