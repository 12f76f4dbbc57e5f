"""A task with a metric of one's own, with public names alone."""

import json
from dataclasses import replace

import numpy as np
import pytest

import jaxprune as jp
from tests.helpers.words import tiny as tiny, tokenizer_folder as tokenizer_folder

TEXTS = [
    f"the {noun} was {word}" for noun in ("film", "book", "plot", "cast") for word in ("good", "bad", "dull", "warm")
]


def minus_cost(predicted, true) -> float:
    """A miss of class 1 costs five times what a false alarm costs; more is better, so the cost is negative."""
    return -float(np.sum((true == 1) & (predicted == 0)) * 5 + np.sum((true == 0) & (predicted == 1)))


@pytest.fixture
def task() -> jp.Task:
    examples = tuple(jp.Example(text, None, number % 2) for number, text in enumerate(TEXTS))
    plain = jp.Task("films", "single_label", ("negative", "positive"), "accuracy", examples, examples, "here")
    return replace(plain, metric="cost", beside=("accuracy",), own_metrics={"cost": minus_cost})


def test_it_scores_and_is_called_so(tiny, task, tmp_path):
    found = jp.evaluate(tiny(), task)
    assert (found.metric, found.score) == ("cost", found.metrics["cost"]) and found.score <= 0
    plain = jp.evaluate(tiny(), replace(task, metric="accuracy", beside=()))
    assert found.metrics["accuracy"] == plain.score and list(found.metrics) == ["cost", "accuracy"]
    assert json.loads(json.dumps(found.as_json()))["metric"] == "cost"
    everything = jp.evaluate(tiny(), replace(task, own_metrics={"cost": lambda predicted, true: len(true) * 1000}))
    assert everything.score == 16_000 and not any("one answer to all" in entry for entry in everything.warnings)


def test_training_keeps_the_epoch_that_it_likes_best(tiny, task):
    seen = []

    def falling(predicted, true) -> float:
        seen.append(0)
        return -len(seen)

    task = replace(task, own_metrics={"cost": falling}, beside=())
    tuned = jp.finetune(tiny(), task, jp.Train(epochs=3, batch_size=16), trainable=["head/*"])
    notes = tuned.provenance.record["training"]
    assert [entry["score"] for entry in notes["epochs"]] == [-1, -2, -3] and notes["kept_epoch"] == 0
    assert notes["epochs"][0]["metric"] == "cost"


def test_numbers_and_several_classes_come_as_they_are_scored(tiny, task):
    shapes = []

    def note(predicted, true) -> float:
        shapes.append((predicted.shape, true.shape))
        return 0.0

    for problem, labels, label, shape in (
        ("regression", ("score",), 0.5, (16,)),
        ("multi_label", ("negative", "positive"), (1,), (16, 2)),
    ):
        examples = tuple(example._replace(label=label) for example in task.validation)
        given = replace(task, kind=problem, labels=labels, validation=examples, own_metrics={"cost": note}, beside=())
        jp.evaluate(tiny(problem=problem, labels=labels), given)
        assert shapes.pop() == (shape, shape)


def test_whole_numbers_that_a_regression_reads_as_values_keep_it(tiny, task):
    given = replace(task, labels=("1", "2"), own_metrics={"cost": lambda predicted, true: float(true.max())}, beside=())
    found = jp.evaluate(tiny(problem="regression", labels=("score",)), given)
    assert (found.metric, found.score) == ("cost", 2.0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"metric": "kosten"}, "films is scored by kosten, which is none of accuracy, .*; give it in own_metrics"),
        ({"beside": ("gain",)}, "films is scored by gain"),
        (
            {"own_metrics": {"cost": lambda *_: float("nan")}},
            "the metric cost of films gave nan, expected a finite number",
        ),
        ({"own_metrics": {"cost": lambda *_: None}}, "gave None"),
        ({"metric": "f1", "own_metrics": {"f1": minus_cost}}, "f1 in own_metrics, and so is one of ours called"),
        ({"metric": "gap", "own_metrics": {"gap": minus_cost}}, "gap in own_metrics, and so is one of ours called"),
        ({"metric": "perplexity", "own_metrics": {"perplexity": minus_cost}}, "perplexity in own_metrics, and so is"),
    ],
)
def test_what_is_no_metric_is_named(tiny, task, changes, message):
    with pytest.raises(jp.JaxpruneError, match=message) as caught:
        jp.evaluate(tiny(), replace(task, **changes))
    assert "\n" not in str(caught.value)


def test_running_text_has_a_score_of_its_own(tiny, tmp_path):
    (tmp_path / "text.txt").write_text("the film was good " * 9)
    text = replace(jp.tasks.text(tmp_path / "text.txt", length=8), own_metrics={"cost": minus_cost})
    with pytest.raises(jp.JaxpruneError, match="own_metrics, which are for tasks with one answer a text"):
        jp.evaluate(tiny(head="causal_lm", labels=(), pooler="none", causal=True), text)


def test_questions_have_scores_of_their_own(tiny, task):
    with pytest.raises(jp.JaxpruneError, match="own_metrics, which are for tasks with one answer a text"):
        answers = tuple(jp.Example("who", "the film was good", None) for _ in range(2))
        given = replace(task, kind="question_answering", labels=(), metric="f1", validation=answers, train=())
        from jaxprune.tasks import Answers

        given = replace(given, validation=tuple(each._replace(label=Answers("1", ("film",), (4,))) for each in answers))
        jp.evaluate(tiny(head="question_answering", labels=(), pooler="none"), given)
