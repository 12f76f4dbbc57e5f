import dataclasses
import json
import shutil
from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from jaxprune import tasks
from jaxprune.assets import demo_data_path, demo_model_path
from jaxprune.errors import DataError, NumericalError
from jaxprune.evaluation.evaluate import evaluate
from jaxprune.evaluation.label_map import match_labels
from jaxprune.evaluation.numbering import truth
from jaxprune.evaluation.outputs import text_outputs
from jaxprune.tasks import Answers, Example, Task
from jaxprune.tokens.encoded import Encoded
from jaxprune.tokens.tokenizer import Tokenizer

TEXTS = ("a good film", "dull and long", "the plot was bad", "fine", "who", "very cold cast", "short", "not a book")


def make_task(
    labels, kind: Any = "single_label", names=("negative", "positive"), metric="accuracy", beside=(), **more
) -> Task:
    examples = tuple(Example(text, None, label) for text, label in zip(TEXTS, labels, strict=False))
    return Task("made", kind, tuple(names), metric, (), examples, "here", beside=beside, **more)


def logits_of(model, task):
    return text_outputs(model, Tokenizer.of(model).encode(task.validation, task.max_length))


@pytest.mark.parametrize(
    "kind, names, labels",
    [
        ("single_label", ("negative", "positive"), [0, 1] * 4),
        ("multi_label", ("x", "y", "z"), [(0,), (1, 2), (), (0, 2), (1,), (2,), (0, 1, 2), ()]),
        ("regression", ("score",), [0.5, 1.0, 2.0, 3.5, 0.0, 1.5, 2.5, 4.0]),
    ],
)
def test_scores_are_those_of_the_predictions(tiny, kind, names, labels):
    beside = {"multi_label": ("accuracy",), "single_label": ("matthews",), "regression": ("spearman",)}[kind]
    metric = {"multi_label": "f1", "single_label": "accuracy", "regression": "pearson"}[kind]
    model, task = tiny(problem=kind, labels=names), make_task(labels, kind, names, metric, beside)
    result, logits = evaluate(model, task), logits_of(model, task)
    if kind == "single_label":
        expected = np.mean(logits.argmax(axis=1) == labels)
    elif kind == "regression":
        expected = np.corrcoef(logits[:, 0], labels)[0, 1]
    else:
        true = np.array([[label in holds for label in range(3)] for holds in labels])
        expected = 2 * np.sum(true & (logits > 0)) / (np.sum(true) + np.sum(logits > 0))
    assert result.score == pytest.approx(expected) == result.metrics[metric]
    assert list(result.metrics) == [metric, *beside]
    encoded = Tokenizer.of(model).encode(task.validation, 128)
    assert (result.examples, result.tokens) == (8, encoded.tokens)
    assert result.seconds > 0 and result.tokens_per_second == pytest.approx(result.tokens / result.seconds)


def test_whole_numbers_are_scored_as_values_where_the_head_is_a_regression(tiny, write):
    stars = [1, 3, 5, 4, 2, 1, 3, 5]
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, stars, strict=True)]
    model = tiny(problem="regression", labels=("score",))
    whole = evaluate(model, tasks.folder(write("whole.jsonl", rows)))
    for row in rows:
        row["label"] = float(row["label"])
    assert whole.metrics == evaluate(model, tasks.folder(write("point.jsonl", rows))).metrics
    assert whole.metric == "pearson" and "were read as values" in whole.warnings[0]


@pytest.mark.parametrize(
    "kind, names, labels, message",
    [
        ("regression", ("score",), [0.5, float("nan")], "text 1 has the label nan, expected a finite number"),
        ("regression", ("score",), [0.5, "0.5"], "text 1 has the label '0.5', expected a finite number"),
        ("single_label", ("no", "yes"), [0, 2], "text 1 has the label 2, expected a class from 0 to 1"),
        ("single_label", ("no", "yes"), [0, 1.0], "text 1 has the label 1.0, expected a class"),
        ("single_label", ("no", "yes"), ["yes", 0], "text 0 has the label 'yes', expected a class"),
        ("multi_label", ("a", "b"), [(0,), (2,)], r"text 1 has the label \(2,\), expected classes from 0 to 1"),
        ("multi_label", ("a", "b"), [(0,), 1], "text 1 has the label 1, expected classes"),
        ("multi_label", ("a", "b"), [(0,), "b"], "text 1 has the label 'b', expected classes"),
    ],
)
def test_labels_of_tasks_made_in_python(kind, names, labels, message):
    task = make_task(labels, kind, names)
    with pytest.raises(DataError, match=message):
        truth(task.validation, task)


def test_the_report_is_plain_json(tiny):
    report = json.loads(json.dumps(evaluate(tiny(), make_task([0, 1] * 4)).as_json()))
    assert {"score", "metric", "examples", "tokens_per_second", "compile_seconds", "warnings"} <= set(report)


def test_one_program_for_all_batches_and_none_the_second_time(tiny, compilations):
    model = tiny(seed=5, hidden=12)  # shapes that no other test compiles
    encoded = Encoded([np.full(40, 7, np.int32)] * 40, [np.zeros(40, np.int32)] * 40)  # several batches
    text_outputs(model, encoded)
    with compilations() as seen:
        text_outputs(model, encoded)
        text_outputs(tiny(seed=6, hidden=12), encoded)
    assert len(seen) == 0


def test_limit_and_splits(tiny):
    task = make_task([0, 1] * 4)
    task = dataclasses.replace(task, train=task.validation[:2], others={"test": task.validation[:5]})
    assert evaluate(tiny(), task, limit=3).examples == 3
    assert evaluate(tiny(), task, split="train").examples == 2
    assert evaluate(tiny(), task, split="test").examples == 5
    with pytest.raises(DataError, match='no examples in split "dev"; labelled are train, validation, test'):
        evaluate(tiny(), task, split="dev")
    with pytest.raises(DataError, match="limit 0 leaves nothing"):
        evaluate(tiny(), task, limit=0)


def test_mismatched_texts_are_scored_beside(tiny):
    model, task = tiny(), make_task([0, 1] * 4)
    other = tuple(reversed(task.validation[:3]))
    result = evaluate(
        model,
        dataclasses.replace(task, others={"validation_mismatched": other}, scored_beside=("validation_mismatched",)),
    )
    alone = evaluate(model, dataclasses.replace(task, validation=other))
    assert result.metrics["accuracy_mismatched"] == alone.score
    assert result.score == evaluate(model, task).score and result.examples == 8


def test_nan_logits_name_the_batch(tiny):
    model = tiny()
    head = {**model.params["head"], "bias": np.array([0, np.nan], np.float32)}
    broken = model.replace(params={**model.params, "head": head})
    with pytest.raises(
        NumericalError, match="NaN or Inf in the logits of batch 0 of 1 .* check the checkpoint's weights"
    ):
        evaluate(broken, make_task([0, 1] * 4))


def test_chance_level_is_doubted(tiny):
    model, task = tiny(seed=2), make_task([0] * 8)
    truth = logits_of(model, task).argmax(axis=1).tolist()
    assert 0 < sum(truth) < 8
    (doubt,) = evaluate(model, make_task([1 - label for label in truth])).warnings
    assert "accuracy 0.0000 on 8 examples is no better than one answer to all" in doubt
    assert evaluate(model, make_task(truth)).warnings == ()


def biased(model, towards):
    """`model` with one answer to everything."""
    bias = np.zeros(len(model.architecture.labels), np.float32)
    bias[towards] = 1e4
    return model.replace(params={**model.params, "head": {**model.params["head"], "bias": bias}})


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_a_perfect_score_is_never_doubted(tiny, metric, count):
    model = tiny(seed=2)
    truth = logits_of(model, make_task([0] * 8)).argmax(axis=1).tolist()
    assert evaluate(model, make_task(truth, metric=metric), limit=count).warnings == ()


def test_a_few_texts_of_one_label_say_nothing_of_chance(tiny):
    model = tiny()
    assert evaluate(biased(model, 0), make_task([0] * 8)).warnings == ()
    assert evaluate(biased(model, 0), make_task([1])).warnings == ()
    assert evaluate(biased(model, 1), make_task([0] * 8, metric="matthews")).warnings == ()


@pytest.mark.parametrize("labels", [[0, 1] * 4, [0] * 7 + [1], [1, 0]])
def test_one_answer_to_all_is_doubted(tiny, labels):
    (doubt,) = evaluate(biased(tiny(), 0), make_task(labels)).warnings
    share = f"{labels.count(0) / len(labels):.4f}"
    assert f"one and the same answer to all {len(labels)} examples (accuracy {share})" in doubt


# --- labels and heads


def test_classes_are_matched_by_name(tiny):
    names = ("Contradiction", "NEUTRAL", "entailment")
    model = tiny(labels=names)
    task = make_task([0, 1, 2, 0, 1, 2, 0, 1], names=("entailment", "neutral", "contradiction"))
    assert match_labels(model.architecture, task).outputs.tolist() == [2, 1, 0]
    expected = np.mean(2 - logits_of(model, task).argmax(axis=1) == [0, 1, 2, 0, 1, 2, 0, 1])
    assert evaluate(model, task).score == pytest.approx(expected)


def test_an_output_the_task_lacks_is_never_right(tiny):
    model = tiny(labels=("other", "negative", "positive"))
    task = make_task([0, 1] * 4)
    top = logits_of(model, task).argmax(axis=1)
    assert {0, 1} <= set(top.tolist())  # else this test says nothing
    assert evaluate(model, task).score == pytest.approx(np.mean(top - 1 == [0, 1] * 4))


def test_equal_names_go_before_alike_ones(tiny):
    names = ("C", "C++", "c#")  # alike once case and signs are dropped
    task = make_task([0, 1, 2, 0, 1, 2, 0, 1], names=names)
    found = match_labels(tiny(labels=names[::-1]).architecture, task)
    assert found.outputs.tolist() == [2, 1, 0] and found.warnings == ()


def test_a_name_given_to_two_classes_leaves_only_their_numbers(tiny):
    found = match_labels(tiny(labels=("positive", "positive")).architecture, make_task([0, 1] * 4))
    assert found.outputs.tolist() == [0, 1]
    assert found.warnings == (
        "the model calls two classes positive, so names do not tell them apart: matched by number; check the order "
        "(negative, positive).",
    )


def test_names_that_differ_are_taken_by_number_and_said(tiny):
    task = make_task([0, 1] * 4)
    found = match_labels(tiny(labels=("up", "down")).architecture, task)
    assert found.outputs.tolist() == [0, 1] and "matched by number" in found.warnings[0]
    assert match_labels(tiny(labels=("LABEL_0", "LABEL_1")).architecture, task).warnings == ()
    assert (
        match_labels(tiny(labels=("a", "b", "c")).architecture, make_task([0, 1] * 4, names=("0", "1"))).warnings == ()
    )


@pytest.mark.parametrize(
    "changes, task, message",
    [
        (
            {},
            make_task([5] * 8, names="012345"),
            r"6 classes \(labels 0 to 5\), the model's head 2 \(negative, positive\)",
        ),
        ({"labels": ("a", "b", "c")}, make_task([0, 1] * 4), "2 classes .* the model's head 3"),
        ({"head": "none", "labels": ()}, make_task([0]), "needs a classification head, the model has none"),
        (
            {},
            make_task([0.5], kind="regression", names=("score",)),
            "is a regression task, the model's head is single_label",
        ),
        ({}, make_task([(0,)], kind="multi_label"), "is a multi_label task, the model's head is single_label"),
        ({}, make_task([], kind="question_answering", names=()), "needs a question_answering head"),
        (
            {"problem": "regression"},
            make_task([0.5], kind="regression", names=("score",)),
            "one number a text, the model gives 2",
        ),
    ],
)
def test_heads_that_do_not_fit(tiny, changes, task, message):
    with pytest.raises(DataError, match=message):
        evaluate(tiny(**changes), task)


def test_question_answering_end_to_end(tiny):
    context = "the film was good and the plot was very dull and the cast was cold"
    examples = (
        Example("who was good", context, Answers("1", ("film",), (4,))),
        Example("when", context, Answers("2", (), ())),
    )
    model = tiny(head="question_answering", pooler="none", labels=())
    task = Task("squad2", "question_answering", (), "f1", (), examples, "here", max_length=14)
    result = evaluate(model, task)
    assert result.examples == 2 and result.metric == "f1" and 0 <= result.score <= 1
    assert {"exact_match", "has_answer_f1", "no_answer_f1"} <= set(result.metrics)
    assert result.tokens > 2 * len(context.split())  # windows overlap and repeat the question
    assert not any("have the id of" in warning for warning in result.warnings)
    twice = evaluate(model, dataclasses.replace(task, validation=(*examples, examples[0])))
    assert any("1 of 3 evaluation questions have the id of another one, such as '1'" in w for w in twice.warnings)
    bare = tuple(e._replace(label=e.label._replace(id="")) for e in examples if isinstance(e.label, Answers))
    assert not any("have the id of" in w for w in evaluate(model, dataclasses.replace(task, validation=bare)).warnings)


# --- real checkpoints: the dense scores measured with torch in float32


@pytest.mark.parametrize("name, right, count, f1", [("sst2", 783, 872, None), ("mrpc", 319, 408, 0.8504)])
def test_dense_scores_of_the_real_checkpoints(shared, real_model, name, right, count, f1):
    from jaxprune.checkpoint import load

    result = evaluate(load(str(real_model(f"minilm-{name}"))), tasks.glue(name, shared("data/glue")))
    assert result.examples == count
    assert abs(round(result.score * count) - right) <= 1  # another order of float32 sums may tip one text
    if f1 is not None:
        assert result.metrics["f1"] == pytest.approx(f1, abs=0.002)
    assert result.warnings == ()


@pytest.mark.parametrize("kind", ["classification", "text"])
def test_streamed_weights_give_the_same_score(kind, tmp_path, monkeypatch):
    from jaxprune.runtime import by_sublayer
    from tests.finetuning.conftest import WORDS
    from tests.helpers.decoders import language_model

    if kind == "text":
        language_model(tmp_path / "model", "qwen2")
        source = tmp_path / "model"
        (tmp_path / "text.txt").write_text(" ".join(WORDS[n % len(WORDS)] for n in range(300)))
        task = jp.tasks.text(tmp_path / "text.txt", length=32)
    else:
        source, task = demo_model_path(), jp.tasks.folder(demo_data_path())
    monkeypatch.setattr(by_sublayer, "WAITING", 2**16)  # so little may wait that there are several groups of batches
    expected = jp.evaluate(jp.load(source), task, limit=64)
    found = jp.evaluate(jp.load(source, host=True), task, limit=64, stream=True)
    assert found.examples == expected.examples
    assert found.score == pytest.approx(expected.score, rel=1e-6)


def test_a_tokenizer_whose_settings_contradict_its_file_scores_as_in_transformers(tmp_path):
    folder = tmp_path / "cased"
    shutil.copytree(demo_model_path(), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"do_lower_case": False}))
    task, cased = jp.tasks.folder(demo_data_path()), jp.load(folder)
    found = evaluate(cased, task)
    assert found.score == 0.841  # of transformers 5.23 on torch; 0.904 where texts are lower-cased
    assert any("another normalizer than its class, BertTokenizer" in warning for warning in found.warnings)
    exported = jp.export(cased, tmp_path / "exported").folder
    # What a program reads that knows tokenizer.json alone:
    (exported / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert evaluate(jp.load(exported), task).score == 0.841
