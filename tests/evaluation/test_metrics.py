"""Pinned values are scikit-learn 1.9.1's and scipy 1.17.1's on the same inputs (they are not dependencies)."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from jaxprune.errors import DataError
from jaxprune.evaluation import metrics
from jaxprune.tasks.example import Kind
from jaxprune.tasks.kinds import KINDS
from jaxprune.tasks.task import Task

TRUE = np.array([1, 0, 1, 1, 0, 0, 1, 0, 1, 1])
PREDICTED = np.array([1, 0, 0, 1, 1, 0, 1, 0, 1, 0])
X = np.array([2.5, 0.5, 2.5, 4.0, 3.0, 1.0])
Y = np.array([1.0, 0.0, 2.0, 5.0, 2.0, 2.0])
MANY_TRUE = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
MANY_PREDICTED = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]])
THREE_TRUE = np.array([0, 1, 2, 2, 1, 0])
THREE_PREDICTED = np.array([0, 1, 2, 1, 1, 2])


@pytest.mark.parametrize(
    "name, predicted, true, value",
    [
        ("accuracy", PREDICTED, TRUE, 0.7),
        ("f1", PREDICTED, TRUE, 0.7272727272727273),
        ("matthews", PREDICTED, TRUE, 0.408248290463863),
        ("pearson", X, Y, 0.7849870641173373),
        ("spearman", X, Y, 0.7700513795421217),
        ("accuracy", MANY_PREDICTED, MANY_TRUE, 0.5),
        ("f1", MANY_PREDICTED, MANY_TRUE, 0.6666666666666666),
        ("f1_macro", MANY_PREDICTED, MANY_TRUE, 0.5555555555555555),
        ("f1_macro", PREDICTED, TRUE, 0.696969696969697),
        ("f1_macro", np.array([0, 1, 1, 1]), np.array([0, 1, 0, 1]), 0.7333333333333334),
        ("f1_macro", THREE_PREDICTED, THREE_TRUE, 0.6555555555555556),
        ("f1_macro", np.array([0, 3, 1]), np.array([0, 1, 1]), 0.5555555555555555),  # class 2 does not occur
        ("matthews", THREE_PREDICTED, THREE_TRUE, 0.5222329678670935),
    ],
)
def test_values_of_the_usual_libraries(name, predicted, true, value):
    assert metrics.METRICS[name](predicted, true) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("name", ["f1", "matthews", "pearson", "spearman"])
def test_a_collapsed_model_scores_zero_not_nan(name):
    assert metrics.METRICS[name](np.zeros(10), TRUE) == 0.0


def test_a_prediction_outside_the_classes_is_never_right():
    outside, true = np.array([0, 1, -1, -1]), np.array([0, 1, 0, 1])
    assert metrics.f1_macro(outside, true) == pytest.approx(2 / 3)  # of two classes, not three
    assert metrics.matthews(outside, true) == metrics.matthews(np.array([0, 1, 2, 2]), true)
    assert metrics.matthews(np.array([-1, -1, 1, 1]), np.array([0, 0, 1, 1])) == 0.5  # and not 1


@given(st.lists(st.integers(0, 3), min_size=2, max_size=20), st.randoms(use_true_random=False))
def test_matthews_of_more_classes_is_the_correlation_of_their_columns(true, random):
    """Gorodkin's first form: covariances of the columns of 0 and 1, summed over classes."""
    ours, theirs = (np.eye(4)[each] for each in ([random.randint(0, 3) for _ in true], true))
    covariance = lambda x, y: np.sum((x - x.mean(axis=0)) * (y - y.mean(axis=0)))  # noqa: E731
    below = (covariance(ours, ours) * covariance(theirs, theirs)) ** 0.5
    expected = covariance(ours, theirs) / below if below > 1e-9 else 0.0
    found = metrics.matthews(ours.argmax(axis=1), np.array(true))
    assert found == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.integers(0, 1), min_size=2, max_size=20), st.randoms(use_true_random=False))
def test_matthews_is_its_textbook_formula(true, random):
    predicted = np.array([random.randint(0, 1) for _ in true])
    yes, no = np.array(true) == 1, np.array(true) == 0
    tp, tn = np.sum(predicted[yes] == 1), np.sum(predicted[no] == 0)
    fp, fn = np.sum(predicted[no] == 1), np.sum(predicted[yes] == 0)
    below = float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    expected = (tp * tn - fp * fn) / below if below else 0.0
    assert metrics.matthews(predicted, np.array(true)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "predicted, answers, exact, f1",
    [
        ("The Normans!", ("normans",), 1, 1),  # case, punctuation and articles do not count
        ("in the 10th century", ("10th century", "the 10th and 11th centuries"), 0, 0.8),  # the best answer counts
        ("Rhine  river", ("Rhine",), 0, 2 / 3),
        ("Paris", ("London",), 0, 0),
        ("b b", ("b",), 0, 2 / 3),  # words count as often as they occur
        ("", (), 1, 1),  # not answerable, and so predicted
        ("Paris", (), 0, 0),
        ("", ("Paris",), 0, 0),
    ],
)
def test_answers_score_as_the_official_scripts_do(predicted, answers, exact, f1):
    assert metrics.exact_match(predicted, answers) == exact
    assert metrics.answer_f1(predicted, answers) == pytest.approx(f1)


def test_squad_scores_split_by_answerability():
    scores = metrics.squad_scores(["Rhine", "Rhine river", "Paris", ""], [["Rhine"], ["Rhine"], [], []])
    assert scores == pytest.approx(
        {
            "f1": (1 + 2 / 3 + 0 + 1) / 4,
            "exact_match": 0.5,
            "has_answer_f1": (1 + 2 / 3) / 2,
            "has_answer_exact_match": 0.5,
            "no_answer_f1": 0.5,
            "no_answer_exact_match": 0.5,
        }
    )
    assert set(metrics.squad_scores(["Rhine"], [["Rhine"]])) == {"f1", "exact_match"}


def task_of(kind: Kind, classes: int = 0, **more: Any) -> Task:
    return Task("films", kind, tuple(map(str, range(classes))), source="here", train=(), validation=(), **more)


@pytest.mark.parametrize(
    "kind, classes, refused",
    [
        ("single_label", 2, {"pearson", "spearman"}),
        ("single_label", 3, {"f1", "pearson", "spearman"}),
        ("multi_label", 1, {"pearson", "spearman"}),
        ("multi_label", 3, {"matthews", "pearson", "spearman"}),
        ("regression", 1, {"accuracy", "f1", "f1_macro", "matthews"}),
        ("sts", 0, {"accuracy", "f1", "f1_macro", "matthews"}),
        ("pairs", 0, {"f1", "f1_macro", "matthews"}),
        ("retrieval", 0, set(metrics.METRICS)),
        ("question_answering", 0, set(metrics.METRICS) - {"f1"}),
        ("token_classification", 5, set(metrics.METRICS) - {"f1", "accuracy"}),
        ("language", 0, set(metrics.METRICS)),
        ("chat", 0, set(metrics.METRICS)),
    ],
)
def test_what_means_nothing_for_a_kind_of_task_is_refused_by_name(kind, classes, refused):
    scores = KINDS[kind].scores
    for name in {*metrics.METRICS, *scores}:
        for chosen in ({"metric": name}, {"metric": scores[0], "beside": (name,)}):
            task = task_of(kind, classes, **chosen)
            if name in refused:
                with pytest.raises(DataError, match=f"films is scored by {name}, which is .*name "):
                    metrics.check_metrics(task, kind, classes)
            else:
                metrics.check_metrics(task, kind, classes)


def test_f1_of_numbered_classes_counts_those_of_the_model():
    task = task_of("single_label", 2, classes_from="numbers", metric="f1")  # more may not have occurred
    metrics.check_metrics(task, "single_label", 2)
    with pytest.raises(DataError, match="f1, which is that of one class, and there are 5 classes; name f1_macro"):
        metrics.check_metrics(task, "single_label", 5)
    metrics.check_metrics(task_of("single_label", 2, metric="f1"), "single_label", 5)  # two that have names
