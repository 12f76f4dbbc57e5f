"""Token classification from words to scores: alignment, metric, training, pruning, folders."""

import json
from dataclasses import replace

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.checkpoint import load
from jaxprune.errors import DataError
from jaxprune.evaluation.metrics import entities, tag_scores
from jaxprune.evaluation.outputs import token_outputs
from jaxprune.evaluation.tags import read_tags
from jaxprune.finetuning.texts import prepare
from jaxprune.model.targets import IGNORED
from jaxprune.tasks.example import Example, Tags
from jaxprune.tokens.tokenizer import Tokenizer

LABELS = ("O", "B-X", "I-X")


@pytest.mark.parametrize(
    "tags, expected",
    [
        ("O O", set()),
        ("B-X I-X O B-X", {("X", 0, 1), ("X", 3, 3)}),
        ("B-X B-X", {("X", 0, 0), ("X", 1, 1)}),
        ("B-X I-Y I-Y", {("X", 0, 0), ("Y", 1, 2)}),  # another type is another entity
        ("I-X I-X O I-X", {("X", 0, 1), ("X", 3, 3)}),  # begun without a B
        ("B-A-B I-A-B", {("A-B", 0, 1)}),
    ],
)
def test_entities_of_iob2_tags(tags, expected):
    assert entities(tags.split()) == expected


def test_an_entity_counts_where_type_and_both_ends_agree():
    true = ["B-X I-X O B-Y".split(), "O B-X".split()]
    predicted = ["B-X I-X O B-X".split(), "B-X I-X".split()]
    scores = tag_scores(predicted, true)
    assert scores == {"f1": 2 / 6, "precision": 1 / 3, "recall": 1 / 3, "accuracy": 3 / 6}
    assert tag_scores([["O"]], [["O"]])["f1"] == 0.0


def tags(text: str, *classes: int) -> Example:
    return Example(text, None, Tags(tuple(text.split(" ")), classes))


@pytest.fixture
def task(write):
    rows = [
        ("the cast was good", "O B-X O O"),
        ("a very long film plot", "O O B-X I-X I-X"),
        ("cold film", "O B-X"),
    ] * 3
    lines = [{"tokens": words.split(), "ner_tags": names.split()} for words, names in rows]
    write("own/train.jsonl", lines)
    write("own/labels.json", json.dumps(LABELS).encode())
    return jp.tasks.token_classification(write("own/validation.jsonl", lines).parent)


@pytest.fixture
def model(tiny):
    return tiny(head="token_classification", pooler="none", labels=LABELS)


def test_a_words_tag_is_that_of_its_first_token(tokenizer_folder):
    # The tokenizer makes three tokens of "good-bad" and none of nothing; "dull" is cut off.
    words = ("film", "good-bad", "", "was", "dull")
    encoded, firsts = Tokenizer.of(tokenizer_folder).encode_words([Example(" ".join(words), None, None)], [words], 7)
    assert encoded.cut == 1 and firsts[0].tolist() == [1, 2, -1, 5, -1]
    _, pairs = read_tags(
        jp.Task("own", "token_classification", LABELS, "f1", (), (), "here", max_length=7),
        [Example(" ".join(words), None, Tags(words, (0, 1, 2, 0, 1)))],
        Tokenizer.of(tokenizer_folder),
    )
    assert pairs[0].tolist() == [[1, 0], [2, 1], [5, 0]]


def test_each_word_is_scored_once_in_the_models_numbering(model, task):
    examples = task.split("validation")
    encoded, pairs = read_tags(task, examples, Tokenizer.of(model))
    assert [len(pair) for pair in pairs] == [4, 5, 2] * 3
    best = [values.argmax(axis=1) for values in token_outputs(model, encoded)]
    predicted = [[LABELS[best[row][token]] for token in pair[:, 0]] for row, pair in enumerate(pairs)]
    true = [[LABELS[number] for number in example.label.classes] for example in examples]
    found = jp.evaluate(model, task)
    assert found.metrics == pytest.approx(tag_scores(predicted, true)) and list(found.metrics)[0] == "f1"
    # The same model with its outputs in another order, called by the same names.
    order = [2, 0, 1]
    head = {name: leaf[..., np.array(order)] for name, leaf in model.params["head"].items()}
    other = model.replace(
        architecture=replace(model.architecture, labels=tuple(LABELS[i] for i in order)),
        params={**model.params, "head": head},
    )
    assert jp.evaluate(other, task).metrics == found.metrics


def test_a_class_that_the_task_lacks_is_a_wrong_answer(model, task):
    short = replace(
        task, labels=("O", "B-X"), classes_from="names",
        validation=tuple(tags(e.text, *(min(c, 1) for c in e.label.classes)) for e in task.validation),
    )  # fmt: skip
    bias = {**model.params["head"], "bias": np.array([0, 0, 1e3], np.float32)}  # I-X, always
    found = jp.evaluate(model.replace(params={**model.params, "head": bias}), short)
    assert found.metrics["accuracy"] == 0.0 and found.metrics["precision"] == 0.0
    assert any("one and the same answer" in warning for warning in found.warnings)


def test_cut_words_do_not_count_and_are_told(model, task):
    found = jp.evaluate(model, replace(task, max_length=5))
    assert any("evaluation texts were cut to 5 tokens" in warning for warning in found.warnings)
    texts = prepare(model, replace(task, max_length=5))
    assert texts.targets.shape == (9, 5) and set(texts.targets[:, [0, -1]].ravel()) == {IGNORED}
    assert texts.targets[1].tolist() == [IGNORED, 0, 0, 1, IGNORED]
    assert any("training texts were cut" in warning for warning in texts.warnings)


def test_a_label_that_is_none_of_the_tasks_names_its_text(model, task):
    for label in (Tags(("the", "cast"), (0,)), Tags(("the", "cast"), (0, 3)), Tags(("a", "cast"), (0, 0)), 1):
        wrong = replace(task, validation=(*task.validation, Example("the cast", None, label)))
        with pytest.raises(DataError, match="text 9 has the label"):
            jp.evaluate(model, wrong)


def test_training_learns_the_tags(model, task):
    settings = jp.Train(epochs=80, batch_size=3, learning_rate=1e-2, dropout=0.0, keep="last")
    assert jp.evaluate(jp.finetune(model, task, settings), task).score == 1.0


def test_a_student_of_itself_has_nothing_to_learn(model, task):
    settings = jp.Train(epochs=1, dropout=0.0, distill=1.0, keep="last", weight_decay=0.0)
    tuned = jp.finetune(model, task, settings, teacher=model)
    assert tuned.provenance.record["training"]["epochs"][0]["loss"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("method", [jp.kprune, jp.fisher, jp.magnitude])
def test_it_is_pruned_and_saved(tmp_path, model, task, method):
    small = method(model, task.calibration(9, seed=0), jp.Budget(0.4))
    assert small.provenance.record["masked_vs_cut"] < 1e-5
    jp.save(small, tmp_path / "small")
    again = load(tmp_path / "small")
    assert again.architecture == small.architecture
    assert jp.evaluate(again, task, tokenizer=model.provenance.source).metrics == jp.evaluate(small, task).metrics


def test_published_scores_know_it(model, task):
    small = jp.kprune(model, task.calibration(9, seed=0), jp.Budget(0.4), jp.KPrune.presets()["published"])
    assert small.architecture.head == "token_classification"
