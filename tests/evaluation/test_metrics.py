"""Pinned values are scikit-learn 1.9.1's and scipy 1.17.1's on the same inputs (they are not dependencies)."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from jaxprune.evaluation import metrics

TRUE = np.array([1, 0, 1, 1, 0, 0, 1, 0, 1, 1])
PREDICTED = np.array([1, 0, 0, 1, 1, 0, 1, 0, 1, 0])
X = np.array([2.5, 0.5, 2.5, 4.0, 3.0, 1.0])
Y = np.array([1.0, 0.0, 2.0, 5.0, 2.0, 2.0])
MANY_TRUE = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
MANY_PREDICTED = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]])


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
    ],
)
def test_values_of_the_usual_libraries(name, predicted, true, value):
    assert metrics.METRICS[name](predicted, true) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("name", ["f1", "matthews", "pearson", "spearman"])
def test_a_collapsed_model_scores_zero_not_nan(name):
    assert metrics.METRICS[name](np.zeros(10), TRUE) == 0.0


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
