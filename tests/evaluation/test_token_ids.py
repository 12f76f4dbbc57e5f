"""Scores of texts that are token ids already: those of the same texts, and no tokenizer is asked."""

from dataclasses import replace

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError
from jaxprune.finetuning.texts import prepare
from jaxprune.model import Provenance
from jaxprune.tokens.tokenizer import Tokenizer
from tests.evaluation.test_evaluate import make_task
from tests.helpers.tiny import config, random_model


def padded(rows, left=False):
    """Token ids and mask, [texts, length], of rows of unlike lengths."""
    length = max(map(len, rows))
    fill = lambda row, of: ([0] * (length - len(row)) + of) if left else (of + [0] * (length - len(row)))  # noqa: E731
    return np.array([fill(row, list(row)) for row in rows]), np.array([fill(row, [1] * len(row)) for row in rows])


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(
    "kind, names, labels, given",
    [
        ("single_label", ("negative", "positive"), [0, 1] * 4, np.array([0, 1] * 4)),
        ("regression", ("score",), [0.5, 1.0, 2.0, 3.5, 0.0, 1.5, 2.5, 4.0], None),
        (
            "multi_label",
            ("x", "y", "z"),
            [(0,), (1, 2), (), (0, 2), (1,), (2,), (0, 1, 2), ()],
            [[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]],
        ),
    ],
)
def test_token_ids_score_as_their_texts_do(tiny, kind, names, labels, given, left):
    beside = {"multi_label": ("f1_macro", "accuracy"), "single_label": (), "regression": ("spearman",)}[kind]
    metric = {"multi_label": "f1", "single_label": "accuracy", "regression": "pearson"}[kind]
    model = tiny(problem=kind, labels=names)
    texts = make_task(labels, kind, names, metric, beside)
    encoded = Tokenizer.of(model).encode(texts.validation, 128)
    ids, mask = padded([row.tolist() for row in encoded.ids], left)
    types, _ = padded([row.tolist() for row in encoded.types], left)
    task = jp.tasks.of_ids(ids, mask, labels if given is None else given, types=types)
    bare = model.replace(provenance=Provenance())  # no source, so no tokenizer
    found, expected = jp.evaluate(bare, task), jp.evaluate(model, texts)
    assert found.metrics == expected.metrics
    assert (found.metric, found.examples, found.tokens) == (expected.metric, 8, expected.tokens)
    assert jp.evaluate(bare, task, limit=3).examples == 3


def test_rows_of_a_language_model_give_the_mean_loss_of_what_they_predict():
    model = random_model(config("llama"))
    rows = [[3, 5, 7, 9, 11], [4, 6, 8], [10, 12]]
    ids, mask = padded(rows, left=True)
    found = jp.evaluate(model, jp.tasks.of_ids(ids, mask))
    losses = []
    for row in rows:
        logits = np.asarray(jp.logits(model, np.array([row])), np.float64)[0]
        likely = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
        losses += [-likely[place, token] for place, token in enumerate(row[1:])]
    assert found.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert (found.metric, found.examples, found.tokens) == ("perplexity", 3, 10)


def test_a_metric_that_the_rows_cannot_have_is_refused(tiny):
    rows = [[3, 5, 7], [4, 6, 8]]
    with pytest.raises(DataError, match="scored by accuracy, which is none of perplexity, .*; name one of these"):
        jp.evaluate(random_model(config("llama")), jp.tasks.of_ids(rows, None, metric="accuracy"))
    with pytest.raises(DataError, match="scored by accuracy, which is none of pearson, spearman, the metrics of regr"):
        jp.evaluate(
            tiny(problem="regression", labels=("score",)), jp.tasks.of_ids(rows, None, [0.5, 1.5], metric="accuracy")
        )


@pytest.mark.parametrize(
    "ids, mask, labels, message",
    [
        ([[5, 6], [7, 8]], [[1, 1], [0, 0]], [0, 1], "row 1 has no tokens; drop it"),
        ([[5, 6], [7, 8, 9]], [[1, 1], [1, 1]], [0, 1], "those of row 1 have 2 and 3 numbers"),
        ([[5, 6], [7, 8]], [[1, 1]], [0, 1], "mask and ids must have the same shape, got 1 and 2 rows"),
        ([[5, 6], [7, 8]], None, [0], r"labels are \(1,\) for 2 rows"),
        ([[5, 6], [7, 8]], None, 1, r"labels are \(\) for 2 rows"),
        ([[5, 6], [7, 8]], None, [0, -1], "row 1 has the label -1; classes count from 0"),
        ([[5, 6], [7, 8]], None, [0.5, float("nan")], "row 1 has the label nan, expected a finite number"),
        ([[5, 6], [7, 8]], None, [[0, 1], [0, 2]], "row 1 has labels beside 0 and 1"),
        ([[5, 6], [7]], None, None, "row 1 has one token, so that nothing is predicted in it"),
        ([[5, 6]], None, ["yes"], "labels are <U3 of shape"),
        ([], None, None, "no rows of token ids"),
    ],
)
def test_rows_that_cannot_be_meant_are_named(ids, mask, labels, message):
    with pytest.raises(DataError, match=message):
        jp.tasks.of_ids(ids, mask, labels)


def test_labels_beyond_the_head_are_named_by_their_row(tiny):
    rows = [[2, 5, 3], [2, 6, 3], [2, 7, 3]]
    with pytest.raises(DataError, match=r"row 2 has the label 4, the model's head 2 classes \(0 to 1"):
        jp.evaluate(tiny(), jp.tasks.of_ids(rows, None, [0, 1, 4]))
    with pytest.raises(DataError, match="have no labels, and the model's head is classification"):
        jp.evaluate(tiny(), jp.tasks.of_ids(rows, None))
    several = tiny(problem="multi_label", labels=("x", "y", "z"))
    with pytest.raises(DataError, match="labels have 2 columns from row 0 on, the model's head 3 classes"):
        jp.evaluate(several, jp.tasks.of_ids(rows, None, [[0, 1]] * 3))
    with pytest.raises(DataError, match="token ids run from 2 to 99999"):
        jp.evaluate(tiny(), jp.tasks.of_ids([[2, 99999]], None, [0]))


def test_what_needs_texts_says_so(tiny):
    task = jp.tasks.of_ids([[2, 5, 3]] * 4, None, [0, 1, 0, 1])
    with pytest.raises(DataError, match="are token ids, which no tokenizer reads; leave tokenizer= out"):
        jp.evaluate(tiny(), task, tokenizer="somewhere")


def test_token_ids_train_as_the_texts_that_they_are_do(tiny):
    rows = [[2, 5, 6, 3], [2, 7, 3], [2, 8, 9, 3], [2, 10, 3]] * 4
    labels = [0, 1, 1, 0] * 4
    given = jp.tasks.of_ids(*padded(rows), labels)
    settings = jp.Train(epochs=2, batch_size=4, learning_rate=1e-3)
    model = tiny()
    from_ids = jp.finetune(model, replace(given, train=given.validation), settings)
    texts = prepare(model, replace(given, train=given.validation))
    assert [entry.tolist() for entry in texts.encoded.ids] == rows
    assert texts.targets.tolist() == labels
    moved = np.max(np.abs(np.asarray(from_ids.params["head"]["bias"]) - np.asarray(model.params["head"]["bias"])))
    assert moved > 0


def test_token_ids_compare_methods_without_a_tokenizer(tiny):
    model = tiny()
    encoded = Tokenizer.of(model).encode(make_task([0, 1] * 4).validation, 128)
    task = jp.tasks.of_ids(encoded.ids, None, [0, 1] * 4, types=encoded.types)
    found = jp.compare(
        model.replace(provenance=Provenance()),
        replace(task, train=task.validation),
        jp.Budget(0.4),
        [jp.Magnitude(), jp.Random()],
        calibration=8,
    )
    assert found.methods == ("magnitude", "random") and found.calibration_samples == 8
