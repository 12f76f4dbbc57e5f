"""What `predict` says: every head, order, batches, streams, and texts that are none."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError, SettingsError
from jaxprune.evaluation.predict import Predictions, PredictionStream
from jaxprune.evaluation.readings import class_names
from jaxprune.evaluation.spans import best_spans
from jaxprune.model import logits
from jaxprune.tasks import Example
from jaxprune.tokens.encoded import Encoded, Windows
from jaxprune.tokens.tokenizer import Tokenizer
from tests.helpers.tokenizers import as_it_stands
from tests.helpers.words import WORDS

TEXTS = ["the film was good", "a very long book " * 6, "dull", "the plot and the cast but not who was cold"]
TAGS = ("O", "B-X", "I-X")


def outputs(model, text, pair=None):
    """The logits of one text alone, through the plain call."""
    encoded = Tokenizer.of(model).encode([Example(text, pair, None)], 64)
    out = np.asarray(logits(model, encoded.ids[0][None], None, encoded.types[0][None]))[0].astype(np.float64)
    return out, encoded.ids[0]


def test_classes_come_with_the_softmax_of_their_logits(tiny):
    model = tiny(labels=("no", "so so", "yes"))
    for text, said in zip(TEXTS, jp.predict(model, TEXTS), strict=True):
        row, _ = outputs(model, text)
        p = np.exp(row) / np.exp(row).sum()
        assert list(said.probabilities) == ["no", "so so", "yes"]
        np.testing.assert_allclose(list(said.probabilities.values()), p, atol=1e-5)
        assert said.label == model.architecture.labels[p.argmax()]
        assert said.probability == said.probabilities[said.label] == max(said.probabilities.values())


def test_several_labels_hold_where_they_are_likelier_than_not(tiny):
    model = tiny(labels=("a", "b", "c"), problem="multi_label")
    said = jp.predict(model, TEXTS)
    for text, one in zip(TEXTS, said, strict=True):
        row, _ = outputs(model, text)
        np.testing.assert_allclose(list(one.probabilities.values()), 1 / (1 + np.exp(-row)), atol=1e-5)
        assert one.labels == tuple(name for name, logit in zip("abc", row, strict=True) if logit > 0)
    assert {len(one.labels) for one in said} - {0}


def test_a_regression_gives_its_number(tiny):
    model = tiny(labels=("score",), problem="regression")
    said = [one.value for one in jp.predict(model, TEXTS, ["good", "bad", "a film", "cold"])]
    expected = [outputs(model, *both)[0][0] for both in zip(TEXTS, ["good", "bad", "a film", "cold"], strict=True)]
    np.testing.assert_allclose(said, expected, atol=1e-5)


@pytest.fixture
def tagger(tiny):
    return tiny(head="token_classification", pooler="none", labels=TAGS)


def test_every_word_has_the_tag_of_its_first_token(tagger):
    text = "the film, was\tgood-bad"
    (said,) = jp.predict(tagger, [text])
    row, ids = outputs(tagger, text)
    assert [word.word for word in said.tags] == ["the", "film", ",", "was", "good", "-", "bad"]
    assert [text[word.start : word.end] for word in said.tags] == [word.word for word in said.tags]
    assert [word.tag for word in said.tags] == [TAGS[best] for best in row[1 : len(ids) - 1].argmax(axis=1)]
    assert all(1 / 3 <= word.probability <= 1 for word in said.tags)


def test_words_that_are_handed_in_stay_as_they_are(tagger):
    words = ["the", "good-bad", "film", "was"]
    (said,) = jp.predict(tagger, [words], max_length=6)  # [CLS] the good - bad [SEP]
    assert [word.word for word in said.tags] == words
    assert [word.tag is None for word in said.tags] == [False, False, True, True]
    text = " ".join(words)
    assert [text[word.start : word.end] for word in said.tags] == words
    row, _ = outputs(tagger, text)
    alone = jp.predict(tagger, [words])[0].tags[1]
    assert alone.tag == TAGS[row[2].argmax()]


def test_words_that_a_tokenizer_does_not_divide_are_divided_at_spaces(tmp_path, tiny):
    from tokenizers import Tokenizer as Fast, models, pre_tokenizers

    vocabulary = {letter: number for number, letter in enumerate(["[PAD]", "[UNK]", *"abcdefgh ▁"])}
    backend = Fast(models.BPE(vocabulary, [], unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("#", "removed")  # type: ignore[assignment]
    backend.save(str(tmp_path / "tokenizer.json"))
    as_it_stands(tmp_path)
    model = tiny(head="token_classification", pooler="none", labels=TAGS)
    (said,) = jp.predict(model, ["ab c  de"], tokenizer=tmp_path)
    assert [(word.word, word.start) for word in said.tags] == [("ab", 0), ("c", 3), ("de", 6)]


CONTEXT = "the film was good and the plot was very dull"


def test_answers_stand_in_their_context(tiny):
    model = tiny(head="question_answering", pooler="none")
    contexts = [CONTEXT, " ".join(np.random.RandomState(0).choice(WORDS, 150))]
    said = jp.predict(model, ["who was good", "when"], contexts, max_length=32)
    assert said.tokens > 150  # several windows
    for one, context in zip(said, contexts, strict=True):
        assert one.answer and context[one.start : one.end] == one.answer
        assert 0 < one.probability <= 1 and np.isfinite(one.score)
    nullable = jp.predict(model, ["who was good", "when"], contexts, max_length=32, nullable=True)
    for one, other in zip(said, nullable, strict=True):
        assert other.score == one.score and other.no_answer_score == one.no_answer_score
        assert other.answer == ("" if one.no_answer_score > one.score else one.answer)
        assert (other.start is None) == (other.answer == "")


def test_probabilities_of_spans_add_up_to_one():
    random, spans = np.random.RandomState(0), np.array([[-1, -1], [-1, -1], [0, 2], [3, 5], [-1, -1]])
    values = random.normal(0, 1, (5, 2)).astype(np.float32)
    windows = Windows(Encoded([], []), np.array([0]), [spans])
    (best,) = best_spans([values], windows, ["ab cd"], longest=2)
    possible = np.exp(values[[0, 2, 3]].astype(np.float64))
    start, end = (possible / possible.sum(axis=0)).T
    pairs = {(1, 1): "ab", (1, 2): "ab cd", (2, 2): "cd"}
    (s, e), text = max(pairs.items(), key=lambda pair: start[pair[0][0]] * end[pair[0][1]])
    assert best.text == text and best.probability == pytest.approx(start[s] * end[e])
    assert best.nothing_probability == pytest.approx(start[0] * end[0])


def test_order_is_kept_and_batches_change_nothing(tiny):
    model = tiny(labels=("no", "so so", "yes"))
    random = np.random.RandomState(1)
    texts = [" ".join(random.choice(WORDS, random.randint(1, 40))) for _ in range(37)]
    together = jp.predict(model, texts)
    for size in (1, 5):
        apart = jp.predict(model, texts, batch_size=size)
        assert [one.label for one in apart] == [one.label for one in together]
        for one, other in zip(apart, together, strict=True):
            np.testing.assert_allclose(list(one.probabilities.values()), list(other.probabilities.values()), atol=1e-5)
    assert jp.predict(model, texts[3])[0].label == together[3].label


def test_a_generator_is_read_as_it_is_asked_for(tiny):
    model, asked = tiny(), []

    def endless():
        while True:
            asked.append(0)
            yield TEXTS[len(asked) % 4]

    stream = jp.predict(model, endless(), batch_size=8)
    assert isinstance(stream, PredictionStream) and not asked
    first = [next(stream) for _ in range(3)]
    assert len(asked) == 8
    expected = jp.predict(model, [TEXTS[number % 4] for number in (1, 2, 3)])
    assert [one.label for one in first] == [one.label for one in expected]


def test_long_runs_share_a_few_compiled_programs(tiny, compilations):
    model, random = tiny(hidden=16, head_width=4), np.random.RandomState(2)
    texts = [" ".join(random.choice(WORDS, random.randint(1, 30))) for _ in range(90)]
    with compilations() as seen:
        list(jp.predict(model, iter(texts), batch_size=9))
    assert len(seen) <= 4  # of rows of 64 slots: by the power of two of rows and of texts in one
    with compilations() as seen:
        list(jp.predict(model, iter(texts[::-1]), batch_size=9))
    assert len(seen) <= 1


def test_cut_texts_are_counted_over_all_batches(tiny, caplog):
    texts = ["good", "the film " * 40, "dull", "a book " * 50, "bad"]
    said = jp.predict(tiny(), texts, batch_size=2)
    assert said.warnings == ("2 of 5 texts were cut to 64 tokens; shorten or divide them.",)
    assert said.as_json()["warnings"] == list(said.warnings) and json.dumps(said.as_json())
    stream = jp.predict(tiny(), iter(texts), batch_size=2, max_length=8)
    list(stream)
    assert stream.warnings == ("2 of 5 texts were cut to 8 tokens; shorten or divide them.",)
    assert jp.predict(tiny(), texts[:1]).warnings == ()


def test_progress_is_told(tiny):
    events = []
    jp.predict(tiny(), TEXTS, batch_size=3, on_step=events.append)
    list(jp.predict(tiny(), iter(TEXTS), batch_size=3, on_step=events.append))
    assert [(event["done"], event["of"]) for event in events] == [(3, 4), (4, 4), (3, None), (4, None)]


@pytest.mark.parametrize(
    ("texts", "pairs", "says"),
    [
        ([], None, "there are no texts to predict"),
        (["good", " \n"], None, "text 1 is blank; drop it"),
        (["good", None], None, "text 1 is of type NoneType, expected str"),
        (["good", float("nan")], None, "text 1 is of type float"),
        ([("good", "bad")], None, "text 0 is of type tuple, expected str; give second texts as pairs="),
        ([["good"]], None, "text 0 is of type list"),
        ([{"text": "good"}], None, "text 0 is of type dict"),
        (b"good", None, "texts is a bytes, expected a text"),
        ({"text": "good"}, None, "texts is a dict"),
        ({"good", "bad"}, None, "texts is a set, expected .* in order"),
        (7, None, "texts is a int"),
        (np.array([["a", "b"]]), None, "texts is a ndarray"),
        (["good", "bad"], ["a"], "2 texts and 1 pairs; there must be as many"),
        (["good"], "a film", "pairs is a str, expected"),
        (["good"], [" "], "pair 0 is blank"),
        (["good", "caf\ud800e"], None, r"text 1 has a lone surrogate, U\+D800"),
    ],
)
def test_what_is_no_text_is_named(tiny, texts, pairs, says):
    with pytest.raises(DataError, match=says):
        jp.predict(tiny(), texts, pairs)


def test_texts_of_a_stream_are_numbered_from_its_beginning(tiny):
    model, good = tiny(), ["good"] * 5
    for bad, says in (
        ("", "text 5 is blank"),
        (3, "text 5 is of type int"),
        ("\ud800", "text 5 has a lone surrogate"),
    ):
        stream = jp.predict(model, iter([*good, bad]), batch_size=2)
        assert len([next(stream) for _ in range(4)]) == 4
        with pytest.raises(DataError, match=says):
            list(stream)
    with pytest.raises(DataError, match="text 5 has no second one in pairs"):
        list(jp.predict(model, iter([*good, "bad"]), iter(good), batch_size=6))
    with pytest.raises(DataError, match="pairs has more than the 5 of texts"):
        list(jp.predict(model, iter(good), iter([*good, "bad"])))


@pytest.mark.parametrize(
    ("head", "given", "says"),
    [
        ("none", {}, "the model's head is none.*jaxprune.logits gives its hidden states"),
        ("causal_lm", {}, "the model's head is causal_lm.*jaxprune.generate continues texts"),
        ("question_answering", {}, "answers a question from a context; give the contexts as pairs="),
        ("token_classification", {"pairs": ["bad"]}, "tags the words of one text, and pairs were given"),
    ],
)
def test_heads_that_cannot_say_it_are_named(tiny, head, given, says):
    model = tiny(head=head, pooler="none", tied=head == "causal_lm", causal=head == "causal_lm")
    with pytest.raises(DataError, match=says):
        jp.predict(model, ["good"], **given)


def test_settings_that_make_no_sense_are_named(tiny):
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"max_length": 0}, "max_length must be a whole number of at least 1, got 0"),
        ({"nullable": True}, "nullable has no effect with a classification head"),
    ]
    for given, says in wrong:
        with pytest.raises(SettingsError, match=says):
            jp.predict(tiny(), ["good"], **given)
    with pytest.raises(DataError, match="texts of 65 tokens do not fit the model's 64 positions"):
        jp.predict(tiny(), ["good"], max_length=65)
    with pytest.raises(DataError, match="text 0 has no words"):
        jp.predict(tiny(head="token_classification", pooler="none", labels=TAGS), [[]])


def test_pairs_for_a_model_of_single_texts_are_a_doubt_and_the_other_way_round(tiny):
    model = tiny()
    single = model.with_record(training={"pairs": False})
    assert jp.predict(single, ["good"]).warnings == ()
    assert "was tuned on single texts and is given pairs" in jp.predict(single, ["good"], ["bad"]).warnings[0]
    paired = model.with_record(calibration={"pairs": True})
    assert "was pruned on pairs of texts and is given single ones" in jp.predict(paired, ["good"]).warnings[0]
    assert jp.predict(paired, ["good"], ["bad"]).warnings == ()


def test_what_a_model_was_made_with_is_recorded(tiny):
    pairs = jp.Calibration.of_texts(TEXTS, TEXTS[::-1])
    small = jp.prune(tiny(), pairs, jp.Budget(remove=0.5, cost="params"), jp.Random())
    assert small.provenance.record["calibration"]["pairs"] is True and small.report.calibration is not None
    assert jp.Calibration.of_texts(TEXTS).paired is False


def test_two_classes_of_one_name_stay_apart(tiny):
    assert class_names(("a", "b", "a")) == ("a (0)", "b", "a (2)")
    model = tiny()
    same = model.replace(architecture=replace(model.architecture, labels=("x", "x")))
    assert len(jp.predict(same, ["good"])[0].probabilities) == 2


def test_predictions_are_a_sequence(tiny):
    said = jp.predict(tiny(), TEXTS)
    assert isinstance(said, Predictions) and len(said) == 4 and said[1] == list(said)[1] == said[1:2][0]
    assert said.tokens == sum(len(outputs(tiny(), text)[1]) for text in TEXTS) and said.seconds > 0


def test_a_text_that_is_the_name_of_a_file_is_a_doubt(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.txt").write_text("the film was good")
    model = tiny(labels=("no", "yes"))
    assert "good.txt is the name of a file" in jp.predict(model, "good.txt").warnings[0]
    assert not any("name of a file" in said for said in jp.predict(model, ["good.txt"]).warnings)
    assert jp.predict(model, "good").warnings == ()
