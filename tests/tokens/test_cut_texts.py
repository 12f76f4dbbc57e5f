"""Texts longer than what is read of them: counted, named, and as long as was asked."""

import dataclasses

import pytest

import jaxprune as jp
from jaxprune.errors import DataError
from jaxprune.finetuning.texts import prepare
from jaxprune.report.plan import plan
from jaxprune.tasks import Answers, Calibration, Example, Task
from jaxprune.tokens.tokenizer import Tokenizer

SHORT, LONG = Example("good film", None, 0), Example("bad plot " * 8, None, 1)  # 4 and 18 tokens
PAIR = Example("good film", "bad plot " * 8, 0)


def task_of(*examples, **more):
    return Task("made", "single_label", ("negative", "positive"), "accuracy", examples, examples, "here", **more)


@pytest.mark.parametrize("long", [LONG, PAIR])
def test_texts_that_lose_their_end_are_counted(tokenizer_folder, long):
    tokenizer = Tokenizer.of(tokenizer_folder)
    encoded = tokenizer.encode([SHORT, long, SHORT], 10)
    assert (encoded.cut, encoded.longest) == (1, 10)
    whole = tokenizer.encode([long], 128)
    assert whole.cut == 0
    # A text of exactly so many tokens loses nothing.
    assert tokenizer.encode([long], whole.tokens).cut == 0 and tokenizer.encode([long], whole.tokens - 1).cut == 1


def test_questions_that_lose_their_end_are_counted(tokenizer_folder):
    questions, contexts = ["who " * 200, "who was"], ["good film " * 40] * 2
    windows = Tokenizer.of(tokenizer_folder).windows(questions, contexts, max_length=20, overlap=8)
    assert (windows.cut, windows.longest_question) == (1, 10)


def test_scores_of_cut_texts_say_so(tiny):
    examples = (SHORT, LONG, LONG, Example("who was", None, 1))
    name = "validation_mismatched"
    task = task_of(*examples, max_length=10, others={name: (LONG, SHORT)}, scored_beside=(name,))
    warnings = jp.evaluate(tiny(), task).warnings
    assert "2 of 4 evaluation texts were cut to 10 tokens; allow more, or shorten them." in warnings
    assert "mismatched texts: 1 of 2 evaluation texts were cut to 10 tokens; allow more, or shorten them." in warnings
    assert not any(
        "cut to" in entry for entry in jp.evaluate(tiny(), dataclasses.replace(task, max_length=18)).warnings
    )


def test_training_on_cut_texts_says_so(tiny):
    assert prepare(tiny(), task_of(SHORT, LONG, max_length=10)).warnings == (
        "1 of 2 training texts were cut to 10 tokens; allow more, or shorten them.",
    )
    assert prepare(tiny(), task_of(SHORT, LONG)).warnings == ()


def test_calibration_on_cut_texts_is_in_the_record(tiny):
    calibration = Calibration.of_texts([SHORT.text, LONG.text] * 32, max_length=10)
    pruned = jp.magnitude(tiny(), calibration, jp.Budget(0.3))
    said = "32 of 64 calibration texts were cut to 10 tokens; allow more, or shorten them."
    assert pruned.provenance.record["warnings"] == [said]
    assert plan(tiny(), calibration, jp.Budget(0.3)).warnings == [said]


def test_answers_that_fit_no_window_are_counted(tiny):
    context = "the film was good and the plot was very dull and the cast was cold"
    examples = tuple(
        Example("who", context, Answers(str(number), (text,), (context.index(text),)))
        for number, text in enumerate(("good", context[4:], "cold"))
    )
    model = tiny(head="question_answering", pooler="none", labels=())
    task = Task("squad", "question_answering", (), "f1", examples, examples, "here", max_length=10)
    (warning,) = prepare(model, task).warnings
    assert "1 of 3 answers fit no window of 10 tokens whole and train as none" in warning


def test_a_length_that_was_asked_for_is_kept_or_refused(tiny, write):
    for split in ("train", "validation"):
        write(f"sst2/{split}.jsonl", [{"sentence": LONG.text, "label": 1}, {"sentence": "good", "label": 0}])
        path = write(f"own/{split}.jsonl", [{"text": LONG.text, "label": 1}, {"text": "good", "label": 0}])
    folder = path.parent
    loaded = [
        jp.tasks.load("sst2", folder.parent, length=12),
        jp.tasks.load("text-classification", folder, length=12),
        jp.tasks.glue("sst2", folder.parent, max_length=12),
        jp.tasks.folder(folder, max_length=12),
    ]
    small = tiny(max_positions=11)
    for task in loaded:
        assert task.max_length == task.calibration(2).max_length == 12
        for use in (
            lambda task: jp.evaluate(small, task),
            lambda task: prepare(small, task),
            lambda task: jp.magnitude(small, task.calibration(2), jp.Budget(0.3)),
        ):
            with pytest.raises(DataError, match="texts of 12 tokens do not fit the model's 11 positions"):
                use(task)
    with pytest.raises(DataError, match="texts of 12 tokens do not fit"):
        jp.magnitude(small, Calibration.of_texts(["good"], max_length=12), jp.Budget(0.3))
    with pytest.raises(DataError, match="texts of 0 tokens were asked for"):
        jp.tasks.folder(folder, max_length=0)
    # The default is no request: it goes down to what the model reads, and what that cuts is named.
    assert "were cut to 11 tokens" in jp.evaluate(small, jp.tasks.folder(folder)).warnings[0]


def test_windows_of_squad_are_as_long_as_asked(write, tiny):
    context = "the film was good and the plot was very dull and the cast was cold"
    row = {"id": "1", "question": "who", "context": context, "answers": {"text": ["good"], "answer_start": [13]}}
    task = jp.tasks.squad(write("validation.jsonl", [row]).parent, max_length=12)
    assert task.max_length == 12
    with pytest.raises(DataError, match="texts of 12 tokens do not fit the model's 11 positions"):
        jp.evaluate(tiny(head="question_answering", pooler="none", labels=(), max_positions=11), task)


def test_texts_that_lose_their_beginning_are_counted(tokenizer_folder):
    tokenizer = Tokenizer.of(tokenizer_folder)
    tokenizer = dataclasses.replace(tokenizer, read=tokenizer.read._replace(cut_left=True))
    assert tokenizer.encode([SHORT, LONG, PAIR], 10).cut == 2
