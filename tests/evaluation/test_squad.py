import gzip
import json

import numpy as np
import pytest
from hypothesis import given, strategies as st

from jaxprune import tasks
from jaxprune.errors import DataError
from jaxprune.evaluation.evaluate import evaluate
from jaxprune.evaluation.metrics import squad_scores
from jaxprune.evaluation.spans import best_answers, best_span
from jaxprune.tasks import Answers, Example, Task
from jaxprune.tokens.tokenizer import Tokenizer

CONTEXT = "The film was good and the plot was very dull"
GOOD = {"id": "q1", "question": "who was good", "context": CONTEXT, "answers": {"text": ["film"], "answer_start": [4]}}
NONE = {"id": "q2", "question": "when", "context": CONTEXT, "answers": {"text": [], "answer_start": []}}


def nested(*questions):
    """The official nesting; answers as a list of objects."""
    entries = [
        {
            "id": question["id"],
            "question": question["question"],
            "answers": [
                {"text": text, "answer_start": start}
                for text, start in zip(question["answers"]["text"], question["answers"]["answer_start"], strict=True)
            ],
        }
        for question in questions
    ]
    content = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": entries}]}]}
    return json.dumps(content).encode()


def test_both_layouts_read_alike(write, tmp_path):
    lines = write("lines/validation.jsonl", [GOOD, NONE])
    official = write("official/dev-v2.0.json", nested(GOOD, NONE))
    task = tasks.load("squad2", lines.parent)
    assert task.validation == tasks.load("squad2", official.parent).validation
    assert task.validation == tasks.squad(official, version=2).validation
    assert task.validation[0] == Example("who was good", CONTEXT, Answers("q1", ("film",), (4,)))
    assert (task.name, task.kind, task.metric, task.max_length) == ("squad2", "question_answering", "f1", 384)
    assert task.train == ()


@pytest.mark.parametrize(
    "name, content",
    [
        ("validation.json", b"\n".join(json.dumps(row).encode() for row in (GOOD, NONE))),
        ("dev.json", json.dumps([GOOD, NONE], indent=1).encode()),
        ("validation.jsonl.gz", gzip.compress(b"\n".join(json.dumps(row).encode() for row in (GOOD, NONE)), mtime=0)),
        ("dev-v2.0.json.gz", gzip.compress(nested(GOOD, NONE), mtime=0)),
    ],
)
def test_every_form_of_json_is_read(write, tmp_path, name, content):
    write(name, content)
    lines = write("lines/validation.jsonl", [GOOD, NONE])
    assert tasks.squad(tmp_path, version=2).validation == tasks.squad(lines, version=2).validation


@pytest.mark.parametrize(
    "names",
    [
        ("validation.jsonl", "dev-v2.0.json"),
        ("squad_v2_validation_100.json", "squad_v2_validation_1000.json"),
        ("dev-v2.0.json", "squad_v2_validation_100.json"),
        ("train.jsonl", "train-v2.0.json.gz"),
    ],
)
def test_two_files_of_one_split_are_told_apart_by_nobody(write, tmp_path, names):
    for name in names:
        write(name, [GOOD])
    with pytest.raises(DataError, match=f"has {' and '.join(names)}; keep the one that is meant"):
        tasks.squad(tmp_path, version=2)


def test_what_is_not_called_json_is_no_split(write, tmp_path):
    write("dev-v2.0.json.bak", [NONE])
    write("squad_v2_validation_9.json", [GOOD, NONE])
    assert len(tasks.squad(tmp_path, version=2).validation) == 2


def test_questions_may_share_an_id(write):
    """Every question is scored on its own, whatever its id."""
    other = {**GOOD, "context": "A book was good", "answers": {"text": ["book"], "answer_start": [2]}}
    task = tasks.squad(write("validation.jsonl", [GOOD, other]))
    assert [answers_of(example) for example in task.validation] == [("film",), ("book",)]


def test_squad_from_the_hub(hub):
    hub.splits = {"train": [GOOD], "validation": [GOOD]}
    assert tasks.load("squad").train == tasks.load("squad").validation
    assert hub.asked[0] == ("rajpurkar/squad", None)
    assert tasks.squad(None, version=2).name == "squad2" and hub.asked[-1] == ("rajpurkar/squad_v2", None)


def test_real_squad_files_read_completely(shared):
    first, second = (tasks.squad(shared("data/squad"), version=version) for version in (1, 2))
    assert (len(first.train), len(first.validation)) == (2500, 995)
    assert len(second.validation) == 1905
    assert sum(not answers_of(example) for example in second.validation) == 910


@pytest.mark.parametrize(
    "row, message",
    [
        ({**GOOD, "answers": {"text": ["film"], "answer_start": [5]}}, "line 1: answer .film. is not in the context"),
        ({**GOOD, "answers": {"text": ["film"], "answer_start": []}}, "line 1: answers must have"),
        ({**GOOD, "answers": "film"}, "line 1: answers must have"),
        ({**GOOD, "context": " "}, 'line 1: field "context" is blank'),
        ({**GOOD, "answers": [3]}, "line 1: answers must have"),
        (NONE, "line 1: question without an answer; SQuAD 1.1 has none: use squad2"),
        ({**GOOD, "is_impossible": True}, "line 1: is_impossible is true, and there are answers"),
    ],
)
def test_malformed_questions(write, tmp_path, row, message):
    write("validation.jsonl", [row])
    with pytest.raises(DataError, match=message):
        tasks.squad(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"data": [', "dev-v1.1.json line 1: not JSON"),
        (b'{"paragraphs": []}', "is not nested as SQuAD is"),
        (b'{"data": []}', "has no questions"),
    ],
)
def test_malformed_nested_files(write, tmp_path, content, message):
    write("dev-v1.1.json", content)
    with pytest.raises(DataError, match=message):
        tasks.squad(tmp_path)


@pytest.mark.parametrize("answers", [{}, {"answers": None}])
def test_questions_without_answers_calibrate(write, tmp_path, answers):
    write("train.jsonl", [{"question": "who", "context": CONTEXT, **answers}, GOOD])
    task = tasks.squad(tmp_path)
    assert task.calibration(2).count == 2 and task.train[0] == Example("who", CONTEXT, None)
    with pytest.raises(DataError, match=r"train text 0 has no label, or -1 \(1 of 2 have none\)"):
        task.split("train")


def test_places_and_versions_that_do_not_exist(tmp_path):
    with pytest.raises(DataError, match="has no validation.jsonl .nor dev-v2.0.json."):
        tasks.squad(tmp_path, version=2)
    with pytest.raises(DataError, match="versions 1 and 2, got 3"):
        tasks.squad(tmp_path, version=3)


# --- answers from outputs


def test_a_score_that_the_questions_do_not_show_is_named(tiny):
    questions = tuple(Example("who", "the film was good", Answers("1", ("film",), (4,))) for _ in range(2))
    task = Task("squad2", "question_answering", (), "no_answer_f1", (), questions, "here")
    with pytest.raises(DataError, match="scored by no_answer_f1, and the questions scored do not show it"):
        evaluate(tiny(head="question_answering", labels=(), pooler="none"), task)


def answers_of(example):
    assert isinstance(example.label, Answers)
    return example.label.texts


def pointing(windows, question, start, stop):
    """Outputs that point at characters start … stop - 1 of the context, in the windows that hold them whole."""
    logits = []
    for span, owner in zip(windows.spans, windows.question, strict=True):
        values = np.zeros((len(span), 2), np.float32)
        first, last = np.flatnonzero(span[:, 0] == start), np.flatnonzero(span[:, 1] == stop)
        if owner == question and len(first) and len(last):
            values[first[0], 0] = values[last[0], 1] = 5
        logits.append(values)
    return logits


def test_the_best_span_over_all_windows_is_the_answer(tokenizer_folder):
    windows = Tokenizer.of(tokenizer_folder).windows(["who was good"], [CONTEXT], max_length=12, overlap=2)
    start = CONTEXT.index("very dull")  # in the second window only
    logits = pointing(windows, 0, start, len(CONTEXT))
    assert len(logits) == 2
    assert best_answers(logits, windows, [CONTEXT], null=False) == ["very dull"]
    for values in logits:
        values[0] = 6  # the first token: "no answer" in every window
    assert best_answers(logits, windows, [CONTEXT], null=True) == [""]
    logits[0][0] = 4  # the first window finds something after all
    assert best_answers(logits, windows, [CONTEXT], null=True) == ["very dull"]


def test_right_outputs_on_real_questions_score_one(shared, real_model):
    task = tasks.squad(shared("data/squad"))
    examples = task.validation[::20]
    contexts = [example.pair or "" for example in examples]
    tokenizer = Tokenizer.of(real_model("minilm-sst2"))
    windows = tokenizer.windows([example.text for example in examples], contexts, 160, 64)
    assert len(windows.encoded) > len(examples)
    logits = [np.zeros((len(ids), 2), np.float32) for ids in windows.encoded.ids]
    for number, example in enumerate(examples):
        (start, text) = example.label.starts[0], answers_of(example)[0]  # type: ignore[union-attr]
        for values, more in zip(logits, pointing(windows, number, start, start + len(text)), strict=True):
            values += more
    scores = squad_scores(best_answers(logits, windows, contexts, null=False), [answers_of(e) for e in examples])
    assert scores["f1"] > 0.97 and scores["exact_match"] > 0.95  # word pieces cannot point inside a word


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 10**6))
def test_best_span_is_the_best_of_all(tokens, longest, seed):
    random = np.random.RandomState(seed)
    logits = random.normal(size=(tokens, 2))
    span = np.where(random.rand(tokens, 1) < 0.8, np.arange(2 * tokens).reshape(-1, 2), -1)
    allowed = [
        (logits[i, 0] + logits[j, 1], i, j)
        for i in range(tokens)
        for j in range(i, min(tokens, i + longest))
        if span[i, 0] >= 0 and span[j, 0] >= 0
    ]
    found = best_span(logits, span, longest)
    assert found[0] == pytest.approx(max(allowed)[0]) if allowed else found[0] == -np.inf
    if allowed:
        assert found[1:] == max(allowed)[1:]
