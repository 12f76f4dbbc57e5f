"""How a head reads labels: by name, by number, as values, as yes or no."""

import json
from dataclasses import replace

import numpy as np
import pytest

from jaxprune import tasks
from jaxprune.errors import DataError
from jaxprune.evaluation.label_map import HeadMismatch, match_labels
from jaxprune.model import Architecture, LayerSizes


def head(*labels: str, problem="single_label") -> Architecture:
    size = LayerSizes(groups=1, neurons=1)
    sizes = {"vocab": 9, "hidden": 4, "head_width": 4, "layers": (size,), "max_positions": 9}
    return Architecture(family="bert", **sizes, head="classification", problem=problem, labels=labels)  # type: ignore[arg-type]


VALUE = head("LABEL_0", problem="regression")
YES_OR_NO = head("LABEL_0", problem="multi_label")


@pytest.fixture
def own(write):
    """own(labels, names) -> the task of a file with these labels, and of a labels.json with these names."""

    def make(labels, names=None):
        if names is not None:
            write("labels.json", json.dumps(names).encode())
        return tasks.folder(write("test.jsonl", [{"text": "a", "label": label} for label in labels]))

    return make


@pytest.mark.parametrize("labels", [[0, 3, 5], ["1", "3", "10"], [1, None, 2]])
def test_whole_numbers_are_values_where_the_head_is_a_regression(own, labels):
    found = match_labels(VALUE, own(labels))
    values = [None if label is None else float(label) for label in labels]
    assert [example.label for example in found.task.validation] == values
    assert (found.task.kind, found.task.metric, found.task.beside) == ("regression", "pearson", ("spearman",))
    assert found.warnings == (f"labels such as {labels[-1]} were read as values: the model's head is a regression.",)


@pytest.mark.parametrize("labels", [[0, 1], [1, 1], [True, False], ["0", "1"]])
def test_zero_and_one_can_be_values_or_yes_and_no(own, labels):
    """A model with one output says which only where its problem is named."""
    with pytest.raises(DataError, match="write 0.0 and 1.0 for values; for yes or no set problem_type") as caught:
        match_labels(VALUE, own(labels))
    assert not isinstance(caught.value, HeadMismatch)  # which would draw a new head for training
    found = match_labels(YES_OR_NO, own(labels))
    yes = [label in (1, "1") for label in labels]
    assert [example.label for example in found.task.validation] == [(0,) if each else () for each in yes]
    assert (found.task.kind, found.task.metric, found.outputs.tolist()) == ("multi_label", "f1", [0])


def test_what_is_advised_for_one_output_is_read(own):
    assert match_labels(VALUE, own([0.0, 1.0])).task.validation[1].label == 1.0
    assert [example.label for example in match_labels(YES_OR_NO, own([0.0, 1.0])).task.validation] == [(), (0,)]


def test_a_metric_that_was_asked_for_stays_where_labels_are_read_otherwise(own):
    ints = own([0, 3, 5])
    values = lambda **chosen: match_labels(VALUE, replace(ints, **chosen)).task  # noqa: E731
    assert (values(metric="spearman").metric, values(metric="spearman").beside) == ("spearman", ("pearson",))
    assert values(beside=("spearman",)).beside == ("spearman",)
    rows = tasks.of_ids([[5, 6]] * 3, None, [0, 3, 5], metric="spearman")
    found = match_labels(VALUE, rows)
    assert (found.task.metric, found.task.beside) == ("spearman", ("pearson",))
    yes_or_no = match_labels(YES_OR_NO, replace(own([0, 1]), metric="matthews")).task
    assert (yes_or_no.metric, yes_or_no.beside) == ("matthews", ("f1", "f1_macro", "accuracy"))
    for chosen in ({"metric": "f1_macro"}, {"beside": ("f1_macro",)}):
        with pytest.raises(
            DataError, match="by f1_macro, which is none of pearson, spearman, the metrics of regression"
        ):
            values(**chosen)
    with pytest.raises(DataError, match="by spearman, which is none of accuracy, .* of multi_label tasks; give it in"):
        match_labels(YES_OR_NO, replace(own([0.0, 1.0]), metric="spearman"))


def test_a_metric_that_means_nothing_for_the_head_is_refused(own):
    assert match_labels(head("a", "b"), replace(own([0, 1]), metric="f1")).task.metric == "f1"
    with pytest.raises(DataError, match="scored by f1, which is that of one class, and there are 3 classes; name f1_m"):
        match_labels(head("a", "b", "c"), replace(own([0, 1]), metric="f1"))
    with pytest.raises(
        DataError, match="by pearson, which is none of accuracy, f1, f1_macro, matthews, the metrics of"
    ):
        match_labels(head("a", "b"), replace(own([0, 1]), beside=("pearson",)))


def test_names_are_no_values(own):
    for task in (own(["bad", "good", "fine"]), own([0, 1, 2], names=["bad", "good", "fine"])):
        with pytest.raises(HeadMismatch, match="is a single_label task, the model's head is regression with 1 outputs"):
            match_labels(VALUE, task)


def test_values_on_a_head_of_classes(own):
    with pytest.raises(HeadMismatch, match="is a regression task, the model's head is single_label"):
        match_labels(head("a", "b"), own([0.5, 3.0]))
    with pytest.raises(DataError, match="labels have a point .* head has 2 classes; write integers") as caught:
        match_labels(head("a", "b"), own([0.0, 1.0]))
    assert not isinstance(caught.value, HeadMismatch)


@pytest.mark.parametrize("names", [("True", "False"), ("true", "false"), ("TRUE", "FALSE")])
def test_truth_values_find_their_names(own, names):
    assert match_labels(head(*names), own([True, False])).outputs.tolist() == [1, 0]
    assert match_labels(head(*names), own(["True", "False"])).outputs.tolist() == [1, 0]
    assert match_labels(head("LABEL_0", "LABEL_1"), own([True, False])).outputs.tolist() == [0, 1]
    assert "calls its classes no, yes" in match_labels(head("no", "yes"), own([True])).warnings[0]


def test_names_that_differ_in_case(own):
    assert match_labels(head("POSITIVE", "Negative"), own(["positive", "negative"])).outputs.tolist() == [1, 0]


def test_numbers_without_names_go_by_number(own):
    """As transformers reads them, whatever the checkpoint calls its outputs."""
    assert match_labels(head("2", "1", "0"), own([0, 1, 2])).outputs.tolist() == [0, 1, 2]
    assert match_labels(head("2", "1", "0"), own(["0", "1", "2"])).outputs.tolist() == [2, 1, 0]  # these are names
    assert match_labels(head("a", "b", "c"), own([0, 1])).outputs.tolist() == [0, 1]


def test_numbers_find_outputs_that_are_called_by_other_numbers(own):
    """By their names, as in quotes, with a warning where they could count the outputs as well."""
    stars = head(*"12345")
    to_four, to_five = match_labels(stars, own([1, 4, 2, 3])), match_labels(stars, own([1, 2, 5]))
    read = lambda it: [int(it.outputs[example.label]) for example in it.task.validation]  # noqa: E731
    assert read(to_four) == [0, 3, 1, 2] and read(to_five) == [0, 1, 4]
    assert to_four.task.labels == ("1", "2", "3", "4")
    said = "the model calls its classes 1, 2, 3, 4, 5, and labels such as 1 were matched to these names; where they"
    assert to_four.warnings[0].startswith(said) and to_five.warnings == ()
    signed = match_labels(head("-1", "0", "1"), own([0, 1, 1]))
    assert read(signed) == [1, 2, 2] and "labels such as 0 were matched to these names" in signed.warnings[0]
    several = match_labels(head(*"12345", problem="multi_label"), own([[1, 4], [2], [], [5, 1]]))
    assert [example.label for example in several.task.validation] == [(0, 2), (1,), (), (3, 0)]
    assert several.outputs.tolist() == [0, 1, 3, 4]
    quoted = match_labels(stars, own(["1", "4", "2", "3"], names=list("12345")))  # labels.json stays there
    assert (read(quoted), quoted.warnings) == ([0, 3, 1, 2], ())
    counted = match_labels(stars, own([1, 4]))  # as the warning has it
    assert (read(counted), counted.warnings) == ([1, 4], ())


def test_numbers_that_count_outputs_are_not_taken_for_names(own):
    stars = head(*"12345")
    counted = match_labels(stars, own([0, 1, 4]))  # no class is called 0
    assert (counted.outputs.tolist(), counted.warnings) == ([0, 1, 2, 3, 4], ())
    generic = match_labels(head(*(f"LABEL_{number}" for number in range(5))), own([1, 4]))
    assert (generic.outputs.tolist(), generic.warnings) == ([0, 1, 2, 3, 4], ())
    doubt = "label {} was matched by number to the model's {}, and the model calls another class {}; check"
    rows = tasks.of_ids([[5, 6]] * 2, None, [1, 4])
    for task, a, said in (
        (rows, stars, doubt.format(1, 2, 1)),  # whose labels are the model's numbers
        (replace(own([1, 4]), own_metrics={"cost": lambda *_: 0.0}), stars, doubt.format(1, 2, 1)),
        (own([0, 1, 2]), head("2", "1", "0"), doubt.format(0, 2, 0)),
        (own([1, 4]), head(*(f"{number} stars" for number in range(1, 6))), doubt.format(1, "2 stars", "1 stars")),
    ):
        found = match_labels(a, task)
        assert found.outputs.tolist() == list(range(len(task.labels))) and found.warnings[0].startswith(said)
        assert found.task.labels == task.labels
    with pytest.raises(HeadMismatch, match=r"has 6 classes \(labels 0 to 5\)"):
        match_labels(head(*"abcde"), own([1, 5]))


def test_numbers_in_quotes_find_their_outputs(own):
    generic = [f"LABEL_{number}" for number in range(11)]
    assert match_labels(head(*generic), own(["10", "2", "0"])).outputs.tolist() == [0, 2, 10]
    assert match_labels(head(*generic[:3]), own(["0", "2"])).outputs.tolist() == [0, 2]
    found = match_labels(head(*generic[:3]), own(["1", "2", "3"]))
    assert found.outputs.tolist() == [0, 1, 2] and "1, 2, 3 were matched to them in sorted order" in found.warnings[0]
    with pytest.raises(HeadMismatch, match="has 2 classes"):
        match_labels(head("a", "b", "c"), own(["0", "2"]))


def test_sorted_names_on_outputs_without_names_are_doubted(own):
    generic = head("LABEL_0", "LABEL_1")
    assert "no, yes were matched to them in sorted order" in match_labels(generic, own(["yes", "no"])).warnings[0]
    assert match_labels(generic, own(["yes", "no"], names=["yes", "no"])).warnings == ()


def test_lists_with_an_entry_for_every_class_need_as_many_outputs(own):
    two, three = (head(*"abc"[:count], problem="multi_label") for count in (2, 3))
    assert match_labels(two, own([[0.0, 1.0]])).outputs.tolist() == [0, 1]
    assert match_labels(three, own([[0, 1], [1]])).outputs.tolist() == [
        0,
        1,
    ]  # classes by number: the third did not occur
    with pytest.raises(HeadMismatch, match="has 2 entries in every label, the model's head 3"):
        match_labels(three, own([[0.0, 1.0]]))


def test_no_labels_at_all(own):
    with pytest.raises(DataError, match="has no labels; add a label to every text"):
        match_labels(head("a", "b"), own([None, -1]))
    assert np.all(match_labels(head("a", "b"), own([0, None])).outputs == [0])


def test_a_name_that_the_head_knows_is_not_moved(own):
    model = head("negative", "positive")
    with pytest.raises(DataError, match="by number positive would be negative; give all classes the model's names"):
        match_labels(model, own(["positive", "unlike"]))
    twice = head("a", "a", "b")  # where names are not all apart, one that is decides all the same
    with pytest.raises(DataError, match="by number b would be a"):
        match_labels(twice, own(["a", "b", "c"]))
    assert "two classes a, so names do not tell them apart" in match_labels(twice, own(["x", "y", "z"])).warnings[0]
    ordered = match_labels(model, own(["positive", "unlike"], ["unlike", "positive"]))
    assert ordered.outputs.tolist() == [0, 1] and "matched by number" in ordered.warnings[0]


def test_of_many_classes_a_few_that_differ_are_shown(own):
    names = [f"intent {letter}" for letter in "abcdefghijkl"]
    model = head(*names[:6], *(f"other {number}" for number in range(6)))
    said = match_labels(model, own(names)).warnings[0]
    assert said == (
        "the model calls its classes other 0, other 1, other 2, other 3, other 4 and 1 more, text-classification "
        "intent g, intent h, intent i, intent j, intent k and 1 more: matched by number; check the order (intent a, "
        "intent b, intent c, intent d, intent e and 7 more)."
    )


def test_a_class_that_the_head_lacks_is_named(write):
    write("train.jsonl", [{"text": "a", "label": name} for name in ("negative", "positive")])
    write("validation.jsonl", [{"text": "a", "label": "neutral"}])
    task = tasks.folder(write("labels.txt", b"").parent)
    with pytest.raises(
        HeadMismatch, match="has 3 classes, neutral .in validation only. among them, the model's head 2"
    ):
        match_labels(head("negative", "positive"), task)
