import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import CheckpointError, DataError
from jaxprune.finetuning.texts import prepare
from jaxprune.model import Provenance
from jaxprune.report.plan import _lengths
from jaxprune.tasks.example import Example
from jaxprune.tokens.tokenizer import Tokenizer
from tests.helpers.decoders import language_model

CLS, SEP = 2, 3


def words(encoded):
    return [ids.tolist() for ids in encoded.ids]


def labelled(texts):
    examples = tuple(Example(text, None, number % 2) for number, text in enumerate(texts))
    return jp.Task("made", "single_label", ("negative", "positive"), "accuracy", examples, examples, "here")


def test_ids_and_types_with_special_tokens(tiny):
    examples = [Example("The film", None, 0), Example("good", "bad plot", 0)]
    encoded = Tokenizer.of(tiny()).encode(examples, 16)
    assert words(encoded) == [[CLS, 4, 6, SEP], [CLS, 10, SEP, 11, 8, SEP]]
    assert [types.tolist() for types in encoded.types] == [[0] * 4, [0, 0, 0, 1, 1, 1]]
    assert encoded.tokens == 10 and len(encoded) == 2 and encoded.ids[0].dtype == np.int32


def test_presets_of_the_file_do_not_cut_or_pad(tokenizer_folder):
    encoded = Tokenizer.of(tokenizer_folder).encode([Example("film " * 20, None, 0), Example("film", None, 0)], 64)
    assert [len(ids) for ids in encoded.ids] == [22, 3]


def test_prompts_keep_the_special_tokens_before_them_only(tokenizer_folder):
    tokenizer = Tokenizer.of(tokenizer_folder)
    assert [ids.tolist() for ids in tokenizer.prompts(["The film", "good"])] == [[CLS, 4, 6], [CLS, 10]]
    assert len(tokenizer.prompts(["film " * 99])[0]) == 100
    assert tokenizer.text([4, 6]) == "the film"


def test_a_continuation_keeps_the_space_before_it(tokenizer_folder):
    assert Tokenizer.of(tokenizer_folder).continuation([CLS, 4], [6, 10]) == " film good"


def test_the_longer_text_of_a_pair_is_cut_first(tokenizer_folder):
    encoded = Tokenizer.of(tokenizer_folder).encode([Example("good", "bad " * 20, 0)], 8)
    assert words(encoded) == [[CLS, 10, SEP, 11, 11, 11, 11, SEP]]


def test_no_text_is_longer_than_the_model_reads(tiny):
    encoded = Tokenizer.of(tiny(max_positions=10)).encode([Example("film " * 20, None, 0)], 128)
    assert len(encoded.ids[0]) == 10


def test_length_without_room_for_a_word(tokenizer_folder):
    with pytest.raises(DataError, match="max_length 2 leaves no room beside 2 special tokens"):
        Tokenizer.of(tokenizer_folder).encode([Example("film", None, 0)], 2)


@pytest.mark.parametrize(
    "bad, message",
    [
        (Example("a \ud800 film", None, 0), "text 1 has a lone surrogate, U\\+D800, at character 2: .* or drop"),
        (Example("film", "\udfff", 0), "text 1 has a lone surrogate, U\\+DFFF, at character 0"),
        (Example(7, None, 0), "text 1 is of type int, expected str"),  # type: ignore[arg-type]
    ],
)
def test_a_text_that_is_none_is_named(tokenizer_folder, bad, message):
    good = Example("film", None if bad.pair is None else "film", 0)
    with pytest.raises(DataError, match=message):
        Tokenizer.of(tokenizer_folder).encode([good, bad], 16)


def test_half_a_character_in_a_question_or_context_is_named(tokenizer_folder):
    for questions, contexts in ((["who", "\ud800"], ["film"] * 2), (["who"] * 2, ["film", "\ud800"])):
        with pytest.raises(DataError, match="text 1 has a lone surrogate"):
            Tokenizer.of(tokenizer_folder).windows(questions, contexts, 16, 4)


def test_a_token_that_the_embedding_lacks_matters_where_a_text_has_it(tiny):
    tokenizer = Tokenizer.of(tiny(vocab=20))
    assert words(tokenizer.encode([Example("the film", None, 0)], 16)) == [[CLS, 4, 6, SEP]]
    message = "text 1 has the token 'who', id 24, and the model's embedding has 20 rows; drop the token, or use the"
    for read in (
        lambda texts: tokenizer.encode([Example(text, None, 0) for text in texts], 16),
        tokenizer.prompts,
        lambda texts: tokenizer.windows(["the film"] * 2, texts, 16, 4),
    ):
        with pytest.raises(DataError, match=message):
            read(["the film", "film who"])
    with pytest.raises(DataError, match="the text has the token 'when', id 25"):
        tokenizer.plain("who when")


# Entries of a tokenizer, rows of an embedding: of published checkpoints, of tables padded to 64 or 128, of mistakes.
@pytest.mark.parametrize(
    "entries, rows, doubted",
    [
        (30522, 30522, False),
        (26, 128, False),
        (151665, 152064, False),  # Qwen2.5
        (50295, 51200, False),  # Phi
        (100015, 102400, False),  # DeepSeek
        (31090, 30522, False),  # an error, but only where a text has such a token
        (28996, 30522, True),  # the cased BERT's tokenizer beside the uncased model
        (2783, 30522, True),
        (26, 600, True),
    ],
)
def test_a_tokenizer_with_too_few_entries_is_doubted(tokenizer_folder, entries, rows, doubted):
    read = Tokenizer.of(tokenizer_folder).read
    backend = SimpleNamespace(get_vocab_size=lambda with_added_tokens: entries)
    said = Tokenizer(read._replace(backend=backend), rows=rows).doubts(())
    assert len(said) == doubted
    if doubted:
        assert f"the tokenizer has {entries} entries, the model's embedding {rows} rows" in said[0]


def test_wherever_a_tokenizer_meets_a_model_its_size_is_doubted_once(tiny):
    model, task = tiny(vocab=600), labelled(["good film", "bad plot"] * 40)
    assert sum("26 entries" in entry for entry in jp.evaluate(model, task).warnings) == 1
    for prune in (jp.magnitude, jp.random_prune):
        pruned = prune(model, task.calibration(64), jp.Budget(0.5))
        assert sum("26 entries" in entry for entry in pruned.provenance.warnings) == 1
    assert sum("26 entries" in entry for entry in _lengths(model, task.calibration(64), None)[2]) == 1
    assert sum("26 entries" in entry for entry in prepare(model, task).warnings) == 1
    given = jp.Calibration.of_ids([[2, 4, 3]] * 64, None)  # no tokenizer, no doubt
    assert not any("entries" in entry for entry in jp.magnitude(model, given, jp.Budget(0.5)).provenance.warnings)


def test_missing_or_broken_files(tmp_path, tiny):
    with pytest.raises(CheckpointError, match="no tokenizer files; put the checkpoint's tokenizer.json there"):
        Tokenizer.of(tmp_path)
    with pytest.raises(CheckpointError, match="is not a folder"):
        Tokenizer.of(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no notes of where its tokenizer is"):
        Tokenizer.of(dataclasses.replace(tiny(), provenance=Provenance()))
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(CheckpointError, match="tokenizer.json is not a tokenizer: .*; copy it anew") as caught:
        Tokenizer.of(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [None, {"tokenizer_class": "BertTokenizer", "do_lower_case": True}])
def test_vocab_txt_alone(tmp_path, config):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film", "##s"]))
    if config:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    encoded = Tokenizer.of(tmp_path).encode([Example("Films", "film", 0)], 16)
    assert words(encoded) == [[2, 5, 6, 3, 5, 3]]
    assert encoded.types[0].tolist() == [0, 0, 0, 0, 1, 1]


def test_windows_cover_the_context_and_know_their_characters(tokenizer_folder):
    tokenizer = Tokenizer.of(tokenizer_folder)
    contexts = ["  The film was good and the plot was very dull", "bad cast"]
    windows = tokenizer.windows(["who was good", "when"], contexts, max_length=12, overlap=2)
    assert windows.question.tolist() == [0, 0, 1]
    first = [contexts[0][start:stop] for start, stop in windows.spans[0].tolist() if start >= 0]
    second = [contexts[0][start:stop] for start, stop in windows.spans[1].tolist() if start >= 0]
    assert first == ["The", "film", "was", "good", "and", "the"]
    assert second == ["and", "the", "plot", "was", "very", "dull"]  # the first two are shared
    assert windows.spans[0][:5].tolist() == [[-1, -1]] * 5  # [CLS] question [SEP]
    assert all(len(ids) <= 12 for ids in windows.encoded.ids)


def test_an_endless_question_leaves_room_for_the_context(tokenizer_folder):
    windows = Tokenizer.of(tokenizer_folder).windows(["who " * 200], ["good film"], max_length=20, overlap=8)
    assert windows.encoded.ids[0].tolist() == [CLS, *[24] * 10, SEP, 10, 6, SEP]


@pytest.mark.parametrize("family, told", [("gpt2", True), ("llama", False)])
def test_token_types_that_a_model_would_add_up_are_told(tmp_path, family, told):
    """transformers' GPT-2 looks them up in the table of tokens."""
    language_model(tmp_path / "m", family)
    settings = tmp_path / "m" / "tokenizer_config.json"
    names = ["input_ids", "token_type_ids", "attention_mask"]
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_input_names": names}))
    said = Tokenizer.of(jp.load(tmp_path / "m")).doubts(())
    assert told == any("transformers' gpt2 adds the embedding of token 0 or 1" in doubt for doubt in said)
