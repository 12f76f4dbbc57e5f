"""Requests become the tokens that lm-evaluation-harness makes of them."""

from dataclasses import replace

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError, SettingsError
from jaxprune.tokens.requests import RequestReader
from tests.helpers import tiny
from tests.helpers.bigrams import WORDS, bigram_model
from tests.helpers.tokenizers import write_bpe_json, write_settings

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """folders(bos=True) -> a folder whose tokenizer puts <s> before texts."""
    root = tmp_path_factory.mktemp("words")
    models = {bos: bigram_model(root / str(bos), bos) for bos in (False, True)}
    return lambda bos=False: models[bos]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A model with a byte-level tokenizer: " film" and "film" are one token, "fi" another."""
    folder = tmp_path_factory.mktemp("pieces") / "model"
    config = tiny.config("llama", vocab_size=265)
    tiny.write(folder, config, tiny.tensors(config))
    assert write_bpe_json(folder, "<s>", "</s>") == 265
    write_settings(folder, tokenizer_class="PreTrainedTokenizerFast", **SPECIAL)
    return jp.load(folder)


def words(ids) -> str:
    return " ".join(WORDS[number] for number in ids)


def test_contexts_and_continuations_are_tokenised_as_one(pieces):
    reader = RequestReader.of(pieces, 20)
    spell = lambda ids: reader.tokenizer.convert_ids_to_tokens(ids.tolist())  # noqa: E731
    for one in reader.continuations([("the", " film"), ("the ", "film")]):  # its last space is the continuation's
        assert (spell(one.read), spell(one.said)) == (["the"], ["Ġfilm"])


def test_a_continuation_that_the_tokens_of_its_context_swallow_is_an_error(pieces):
    reader = RequestReader.of(pieces, 20)
    with pytest.raises(DataError, match=r"request 1 \('the f', 'i'\) has no tokens for its continuation"):
        reader.continuations([("the", " film"), ("the f", "i")])


@pytest.mark.parametrize(
    ("bos", "add", "read"),
    [(False, None, "the cat"), (False, True, "<s> the cat"), (True, None, "<s> the cat"), (True, False, "the cat")],
)
def test_special_tokens_stand_before_a_context_as_the_tokenizer_or_the_setting_says(folders, bos, add, read):
    reader = RequestReader.of(folders(bos), 20, add)
    (one,) = reader.continuations([("the cat", " sat on")])
    assert (words(one.read), words(one.said)) == (f"{read} sat", "sat on")


def test_a_text_that_begins_with_its_bos_token_gets_no_other(folders):
    reader = RequestReader.of(folders(bos=True), 20)
    (one,) = reader.continuations([("<s> the", " cat")])
    assert words(one.read) == "<s> the"
    assert words(reader.prompts(["<s> the"], 2)[0][0]) == words(reader.prompts(["the"], 2)[0][0]) == "<s> the"


def test_an_empty_context_is_the_prefix_token(folders):
    for bos in (False, True):
        reader = RequestReader.of(folders(bos), 20)
        plain, begun = reader.continuations([("", "the cat"), ("", "<s> the cat")])
        assert (
            (words(plain.read), words(plain.said)) == (words(begun.read), words(begun.said)) == ("<s> the", "the cat")
        )
    assert words(RequestReader.of(folders(), 20, prefix_id=2).continuations([("", "the")])[0].read) == "</s>"


def test_what_is_too_long_loses_its_beginning(folders):
    reader = RequestReader.of(folders(), 4)
    fits, long = reader.continuations([("the cat sat", " on up"), ("the cat sat on", " up far")])
    assert (words(fits.read), words(fits.said), fits.lost) == ("the cat sat on", "on up", 0)
    assert (words(long.read), words(long.said), long.lost) == ("cat sat on up", "up far", 1)
    (ids, lost) = reader.prompts(["the cat sat on"], 2)[0]
    assert (words(ids), lost) == ("sat on", 2)


def test_every_token_of_a_whole_text_is_said_once_after_as_much_as_there_is_room_for(folders):
    reader = RequestReader.of(folders(), 4)
    windows = list(reader.windows(0, "", [*range(3, 12), 3]))  # ten tokens, as in the harness's own example
    assert [(one.read.tolist(), one.said.tolist()) for one in windows] == [
        ([1, 3, 4, 5], [3, 4, 5, 6]),
        ([6, 7, 8, 9], [7, 8, 9, 10]),
        ([8, 9, 10, 11], [11, 3]),
    ]
    assert reader.rolling(["", "the"])[0] == []
    # A tokenizer that puts <s> before a text has it said after another one, as the harness does it.
    (one,) = RequestReader.of(folders(bos=True), 4).rolling(["the cat"])[0]
    assert (words(one.read), words(one.said)) == ("<s> <s> the", "<s> the cat")


def test_what_cannot_be_asked_is_named(folders, tmp_path):
    reader = RequestReader.of(folders(), 4)
    for call, message in (
        (
            lambda: reader.continuations([("the", " cat"), ("the", "")]),
            "request 1 has an empty continuation after 'the'",
        ),
        (lambda: reader.continuations([("the", " ")]), r"request 0 .* has no tokens for its continuation"),
        (lambda: reader.continuations([("  ", "cat")]), r"request 0 .* has no tokens for its context: it is of spaces"),
        (lambda: reader.continuations([("", "<s>")]), r"request 0 .* has no tokens for its continuation"),
        (
            lambda: reader.continuations([("the", " cat" * 5)]),
            "has a continuation of 5 tokens, the model reads 4 at once",
        ),
        (lambda: reader.continuations([("\ud800", "x")]), "has a lone surrogate"),
        (lambda: reader.prompts(["the", ""], 2), "request 1 has an empty prompt"),
        (lambda: reader.prompts(["the"], 4), "4 new tokens leave no room for a prompt among the 4"),
    ):
        with pytest.raises(DataError, match=message):
            call()
    with pytest.raises(SettingsError, match="the prefix token has id 12, the model's embedding has 12 rows"):
        RequestReader.of(folders(), 4, prefix_id=12)
    bare = tmp_path / "bare"
    bigram_model(bare)
    write_settings(bare, tokenizer_class="PreTrainedTokenizerFast", unk_token="<unk>")
    nameless = RequestReader.of(jp.load(bare), 4)
    assert nameless.prefix_token_id is None and len(nameless.continuations([("the", " cat")])) == 1
    with pytest.raises(DataError, match="request 0 has no context, and the tokenizer neither a BOS nor an EOS token"):
        nameless.continuations([("", "cat")])


def test_a_token_that_the_model_has_not_is_named(folders):
    model = folders()
    reader = RequestReader.of(model.replace(architecture=replace(model.architecture, vocab=10)), 20)
    assert len(reader.continuations([("the", " cat")])) == 1
    with pytest.raises(
        DataError, match=r"request 1 \('the up'\) has the token 'up', id 11, and the model's embedding has 10"
    ):
        reader.continuations([("the", " cat"), ("the", " up")])
    with pytest.raises(DataError, match="has the token 'up'"):
        reader.rolling(["the up"])


def test_a_tokenizer_in_memory_is_copied(folders):
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(folders(bos=True).provenance.source)
    reader = RequestReader.of(folders().with_tokenizer(own), 20)
    assert reader.tokenizer is not own
    assert words(reader.continuations([("the", " cat")])[0].read) == "<s> the"
    np.testing.assert_array_equal(own("the cat sat on up")["input_ids"][:2], [1, 3])
