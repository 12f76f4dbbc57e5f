"""`embed`: the order and shape of vectors, prompts, lengths, dimensions; and what is refused by name."""

from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError, SettingsError
from jaxprune.model import logits
from tests.helpers.sentences import MODES, write_folder, write_json
from tests.helpers.words import VOCABULARY

TEXTS = ["the film is good", "a dull book but the cast was very fine", "plot", "the the the the a"]


def ids_of(text):
    return np.array([[VOCABULARY[word] for word in ("[CLS]", *text.split(), "[SEP]")]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(
        tmp_path_factory.mktemp("embed") / "m", (MODES[0], MODES[2]), prompts={"query": "film ", "document": ""}
    )


@pytest.fixture(scope="module")
def model(folder):
    return jp.load(folder)


@pytest.fixture(scope="module")
def vectors(model):
    return jp.embed(model, TEXTS)


def test_vectors_come_in_the_order_of_the_texts_however_they_are_batched(model, vectors):
    assert vectors.shape == (4, 24) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=0, atol=1e-6)
    np.testing.assert_allclose(jp.embed(model, (text for text in TEXTS), batch_size=3), vectors, rtol=0, atol=1e-6)
    np.testing.assert_allclose(jp.embed(model, TEXTS[1]), vectors[1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.asarray(logits(model, ids_of(TEXTS[0])))[0], vectors[0], rtol=0, atol=1e-6)


def test_prompts_are_written_before_texts(model, vectors):
    expected = jp.embed(model, ["film " + text for text in TEXTS[::2]])
    asks: list[dict[str, Any]] = [{"prompt": "film "}, {"prompt_name": "query"}]
    for asked in asks:
        np.testing.assert_allclose(jp.embed(model, TEXTS[::2], **asked), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(jp.embed(model, TEXTS, prompt_name="document"), vectors, rtol=0, atol=1e-6)


def test_the_default_prompt_is_written_and_may_be_left_out_of_the_vector(tmp_path, vectors):
    asked = {"prompts": {"query": "film "}, "default_prompt_name": "query"}
    model = jp.load(write_folder(tmp_path / "m", (MODES[0], MODES[2]), **asked))
    assert np.abs(jp.embed(model, TEXTS) - vectors).max() > 1e-3
    np.testing.assert_allclose(jp.embed(model, TEXTS, prompt=""), vectors, rtol=0, atol=1e-6)
    plain = {"word_embedding_dimension": 12, "pooling_mode_mean_tokens": True, "include_prompt": False}
    write_json(tmp_path / "m" / "1_Pooling" / "config.json", plain)
    apart = jp.load(tmp_path / "m")
    hidden = np.asarray(logits(jp.load(tmp_path / "m", head="none"), ids_of("film " + TEXTS[0])))[0]
    mean = hidden[2:].mean(0)  # without [CLS] and the prompt's one token
    np.testing.assert_allclose(jp.embed(apart, TEXTS)[0], mean / np.linalg.norm(mean), rtol=0, atol=1e-6)


def test_length_and_dimensions(model, vectors):
    raw = jp.embed(model, TEXTS, normalize=False)
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).min() > 0.1
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), vectors, rtol=0, atol=1e-6)
    cut = raw[:, :5]
    np.testing.assert_array_equal(jp.embed(model, TEXTS, normalize=False, dimensions=5), cut)
    expected = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    np.testing.assert_allclose(jp.embed(model, TEXTS, dimensions=5), expected, rtol=0, atol=1e-6)


def test_longer_texts_than_the_files_say_are_cut_and_told(model, caplog):
    long = " ".join(["the film is good"] * 5)  # 22 tokens; the folder says 12
    with caplog.at_level("WARNING"):
        short = jp.embed(model, [long])
    assert "1 of 1 texts were cut to 12 tokens" in caplog.text
    assert np.abs(jp.embed(model, [long], max_length=20) - short).max() > 1e-4
    with pytest.raises(DataError, match="texts of 21 tokens do not fit the model's 20 positions"):
        jp.embed(model, [long], max_length=21)


def test_small_letters_are_the_files_wish(folder, tmp_path):
    from tokenizers import Tokenizer

    named = write_folder(tmp_path / "m")
    cased = Tokenizer.from_file(str(named / "tokenizer.json"))
    cased.normalizer = None  # type: ignore[assignment]
    cased.save(str(named / "tokenizer.json"))
    models = {}
    for lower in (False, True):
        write_json(named / "sentence_bert_config.json", {"do_lower_case": lower})
        models[lower] = jp.load(named)
    assert np.abs(jp.embed(models[True], "The FILM") - jp.embed(models[True], "the film")).max() == 0
    assert np.abs(jp.embed(models[False], "The FILM") - jp.embed(models[False], "the film")).max() > 1e-3


@pytest.mark.parametrize(
    "texts, asked, says",
    [
        ([], {}, "no texts to embed"),
        (None, {}, "texts is a NoneType, expected a text, or a list"),
        ({"a": 1}, {}, "texts is a dict"),
        (["a", 3], {}, "text 1 is of type int, expected str"),
        (["a", ("a", "b")], {}, "text 1 is of type tuple"),
        (["a"], {"prompt_name": "passage"}, "no prompt 'passage'; its prompts are: query, document"),
        (["a"], {"prompt": "a", "prompt_name": "query"}, "both say what is written before texts"),
        (["a"], {"dimensions": 25}, "dimensions is 25, the model's vectors have 24"),
        (["a"], {"dimensions": 0}, "dimensions must be a whole number of at least 1"),
        (["a"], {"batch_size": 0}, "batch_size must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_embedded_is_one_line(model, texts, asked, says):
    with pytest.raises((DataError, SettingsError), match=says) as error:
        jp.embed(model, texts, **asked)
    assert "\n" not in str(error.value)


def test_another_model_is_pointed_elsewhere_and_so_is_predict(folder, model):
    with pytest.raises(DataError, match="head is none, which makes no vectors of texts; load a folder of sentence-tr"):
        jp.embed(jp.load(folder, head="none"), TEXTS)
    with pytest.raises(DataError, match="head is embedding.*jaxprune.embed gives their vectors"):
        jp.predict(model, TEXTS)
