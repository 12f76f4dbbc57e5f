import inspect
import json

import numpy as np
import pytest

import jaxprune.tasks as tasks
from jaxprune.errors import DataError
from jaxprune.tasks import Calibration, Example

ONE, TWO = "a fine film", "dull"


@pytest.mark.parametrize(
    "name, fields, label, labels, metric, beside",
    [
        ("cola", ("sentence",), 1, 2, "matthews", ()),
        ("sst2", ("sentence",), 1, 2, "accuracy", ()),
        ("mrpc", ("sentence1", "sentence2"), 1, 2, "accuracy", ("f1",)),
        ("stsb", ("sentence1", "sentence2"), 3.8, 1, "pearson", ("spearman",)),
        ("qqp", ("question1", "question2"), 1, 2, "accuracy", ("f1",)),
        ("mnli", ("premise", "hypothesis"), 2, 3, "accuracy", ()),
        ("qnli", ("question", "sentence"), 0, 2, "accuracy", ()),
        ("rte", ("sentence1", "sentence2"), 0, 2, "accuracy", ()),
        ("wnli", ("sentence1", "sentence2"), 1, 2, "accuracy", ()),
    ],
)
def test_the_nine_glue_tasks(write, tmp_path, name, fields, label, labels, metric, beside):
    row = {**dict(zip(fields, (ONE, TWO), strict=False)), "label": label}
    scored = "validation_matched" if name == "mnli" else "validation"
    write(f"{name}/train.jsonl", [row] * 3)
    write(f"{name}/{scored}.jsonl", [row] * 2)
    task = tasks.load(name, tmp_path)
    assert tasks.glue(name, tmp_path / name) == task  # the task's own folder will do as well
    assert (task.name, task.metric, task.beside, len(task.labels)) == (name, metric, beside, labels)
    assert task.kind == ("regression" if name == "stsb" else "single_label")
    assert task.validation == (Example(ONE, TWO if len(fields) == 2 else None, label),) * 2
    assert len(task.train) == 3 and task.max_length == 128


def test_real_glue_files_read_completely(shared):
    counts = {"cola": (8551, 1043), "mrpc": (3668, 408), "stsb": (5749, 1500), "qnli": (0, 5463), "mnli": (0, 9815)}
    for name, (train, validation) in counts.items():
        task = tasks.glue(name, shared("data/glue"))
        assert (len(task.train), len(task.validation)) == (train, validation)
    assert len(tasks.glue("mrpc", shared("data/glue")).split("test")) == 1725


def test_mnli_keeps_the_mismatched_texts(write, tmp_path):
    row = {"premise": ONE, "hypothesis": TWO, "label": 0}
    write("validation_matched.jsonl", [row])
    write("validation_mismatched.jsonl", [row] * 2)
    assert len(tasks.glue("mnli", tmp_path).split("validation_mismatched")) == 2


def test_hidden_test_labels_are_left_out(write, tmp_path):
    write("validation.jsonl", [{"sentence": ONE, "label": "positive"}])  # a name will do for a number
    write("test.jsonl", [{"sentence": ONE, "label": -1}])
    task = tasks.glue("sst2", tmp_path)
    assert task.validation[0].label == 1
    with pytest.raises(DataError, match='has no labels in split "test"; labelled are validation'):
        task.split("test")


def test_glue_from_the_hub(hub):
    hub.splits = {
        "train": [{"sentence": ONE, "label": 1, "idx": 0}],
        "validation": [{"sentence": TWO, "label": 0, "idx": 0}],
        "test": [{"sentence": ONE, "label": -1, "idx": 0}],
    }
    task = tasks.load("sst2")
    assert hub.asked == [("nyu-mll/glue", "sst2")]
    assert task.train == (Example(ONE, None, 1),) and task.validation == (Example(TWO, None, 0),)


@pytest.mark.parametrize("name", ["sst2", "squad"])
def test_an_unreachable_hub_is_one_line(hub, name):
    hub.error = ConnectionError("Couldn't reach the Hub\nretry 1\nretry 2")
    with pytest.raises(
        DataError, match="does not load from the hub: Couldn't reach the Hub; .* name local files"
    ) as caught:
        tasks.load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "lines, message",
    [
        (b'{"sentence": "good", "label": 1}\n{"sentence": "bad", "label"', r"validation.jsonl line 2: not JSON"),
        (b"", "validation.jsonl is empty"),
        (b"\n\n", "validation.jsonl is empty"),
        (b'{"sentence": "good", "label": 1}\n\n{"sentence": "caf\xe9", "label": 0}', "line 3: not UTF-8 .byte 0xe9"),
        ([{"text": "good", "label": 1}], 'line 1: field "sentence" is missing'),
        ([{"sentence": 7, "label": 1}], 'line 1: field "sentence" must be a string, got 7'),
        ([{"sentence": " ", "label": 1}], 'line 1: field "sentence" is blank'),
        ([{"sentence": "good", "label": 5}], "line 1: label must be one of 0 negative, 1 positive; got 5"),
        ([{"sentence": "good", "label": 1.0}], "line 1: label must be one of"),
        ([{"sentence": "good", "label": True}], "line 1: label must be one of .* got true"),
        ([["good", 1]], "line 1: expected a JSON object"),
        (b"[" * 100_000, "line 1: not JSON .nested too deeply"),
    ],
)
def test_malformed_files_name_the_line(write, tmp_path, lines, message):
    write("sst2/validation.jsonl", lines)
    with pytest.raises(DataError, match=message) as caught:
        tasks.glue("sst2", tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_blank_texts_where_the_data_set_has_them(write, tmp_path):
    write("qqp/validation.jsonl", [{"question1": ONE, "question2": "", "label": 0}])
    assert tasks.glue("qqp", tmp_path).validation[0].pair == ""


def test_numbers_of_stsb_must_be_finite(write, tmp_path):
    write("stsb/validation.jsonl", b'{"sentence1": "a", "sentence2": "b", "label": NaN}')
    with pytest.raises(DataError, match='"label" must be a finite number, got NaN'):
        tasks.glue("stsb", tmp_path)


def test_separators_inside_strings_do_not_end_a_line(write, tmp_path):
    write("sst2/validation.jsonl", '{"sentence": "good\u2028bad", "label": 1}\r\n'.encode())
    assert tasks.glue("sst2", tmp_path).validation == (Example("good\u2028bad", None, 1),)


def test_names_and_places_that_do_not_exist(tmp_path):
    with pytest.raises(DataError, match='"sst" is not a task; choose from cola, sst2'):
        tasks.load("sst")
    with pytest.raises(DataError, match='"sst" is not a GLUE task'):
        tasks.glue("sst")
    with pytest.raises(DataError, match="nowhere does not exist; name a folder"):
        tasks.load("sst2", tmp_path / "nowhere")
    with pytest.raises(DataError, match="no files of sst2 under .*; expected .*sst2/validation.jsonl"):
        tasks.load("sst2", tmp_path)
    with pytest.raises(DataError, match="needs data=FOLDER"):
        tasks.load("text-classification")


# --- folders of one's own


def own(write, train, validation=None):
    write("train.jsonl", train)
    path = write("validation.jsonl", validation or train)
    return tasks.load("text-classification", path.parent)


def rows(*labels):
    return [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]


def test_names_are_numbered_in_sorted_order(write):
    task = own(write, rows("no", "yes", "no"), rows("maybe"))
    assert (task.kind, task.labels, task.metric) == ("single_label", ("maybe", "no", "yes"), "accuracy")
    assert [example.label for example in task.train] == [1, 2, 1]


def test_labels_json_gives_the_order(write):
    write("labels.json", json.dumps(["yes", "no", "unused"]).encode())
    task = own(write, rows("no", "yes", 1))
    assert task.labels == ("yes", "no", "unused")
    assert [example.label for example in task.train] == [1, 0, 1]


def test_integers_name_themselves(write):
    assert own(write, rows(0, 3)).labels == ("0", "1", "2", "3")


def test_lists_are_several_labels(write):
    task = own(write, rows(["b", "a"], [], ["c"]))
    assert (task.kind, task.labels, task.metric) == ("multi_label", ("a", "b", "c"), "f1")
    assert [example.label for example in task.train] == [(1, 0), (), (2,)]


def test_texts_without_labels_calibrate(write):
    """An error comes only where a label is needed."""
    bare = [{"text": "text 3"}, {"text": "text 4", "label": None}, {"text": "text 5", "label": -1}]
    task = own(write, rows("yes", "no") + bare, rows("no", "yes"))
    assert [example.label for example in task.train] == [1, 0, None, None, None]
    assert {example.text for example in task.calibration(5).examples} == {f"text {n}" for n in (0, 1, 3, 4, 5)}
    assert len(task.split("validation")) == 2
    with pytest.raises(DataError, match=r"train text 2 has no label, or -1 \(3 of 5 have none\); add labels or drop"):
        task.split("train")


def test_no_labels_at_all(write):
    task = own(write, bare := [{"text": "text 3"}, {"text": "text 4", "label": -1}], bare)
    assert (task.kind, task.labels) == ("unlabelled", ()) and task.calibration(2).count == 2
    with pytest.raises(DataError, match='has no labels in split "validation"; labelled are none'):
        task.split("validation")


def test_training_texts_alone_calibrate(write, tmp_path):
    write("own/train.jsonl", rows(0, 1))
    write("sst2/train.jsonl", [{"sentence": ONE}, {"sentence": TWO, "label": 1}])
    for task in (tasks.folder(tmp_path / "own"), tasks.glue("sst2", tmp_path)):
        assert task.calibration(2).count == 2
        with pytest.raises(DataError, match='has no examples in split "validation"; labelled are train'):
            task.split("validation")
    with pytest.raises(DataError, match=r"has no train.jsonl, validation.jsonl or test.jsonl .found: own, sst2.; add"):
        tasks.folder(tmp_path)


def test_minus_one_among_ratings_is_a_rating_unless_all_are(write):
    write("test.jsonl", rows(-1, -1))
    task = own(write, rows(0.5, -1), rows(-1, 2))
    assert [example.label for example in (*task.train, *task.validation)] == [0.5, -1.0, -1.0, 2.0]
    assert not task.is_labelled("test") and task.kind == "regression"


def test_labels_of_a_point_beside_class_names(write):
    write("labels.json", b'["no", "yes"]')
    with pytest.raises(DataError, match="label 1.0 has a point, but labels.json names classes; write integers"):
        own(write, rows(1.0, 0.0))


@pytest.mark.parametrize("names, expected", [(None, [1, 0]), (b'["true", "false"]', [0, 1])])
def test_truth_values_are_names(write, names, expected):
    if names is not None:
        write("labels.json", names)
    task = own(write, rows(True, False))
    assert [example.label for example in task.train] == expected and task.kind == "single_label"
    assert task.labels == (("False", "True") if names is None else ("true", "false"))
    with pytest.raises(DataError, match="label true is none of the 2 classes"):
        write("labels.json", b'["no", "yes"]')
        own(write, rows(True))


def test_numbers_in_quotes_are_names_in_the_order_of_numbers(write):
    task = own(write, rows("10", "2", "1"))
    assert (task.labels, [example.label for example in task.train]) == (("1", "2", "10"), [2, 1, 0])


@pytest.mark.parametrize(
    "labels, expected",
    [
        ([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], [(0, 2), ()]),
        ([[True, False], [False, True]], [(0,), (1,)]),
        ([[0.0, 1.0], [1.0, 0.0]], [(1,), (0,)]),
        ([[0.0, 1], [1, 0]], [(1,), (0,)]),
        ([[1, 0, 0], [0, 1, 0]], [(0,), (1,)]),  # as classes they would name one twice
        ([[1, 0, 1], None], [(0, 2), None]),
        ([[0, 1], [1, 0], [1]], [(0, 1), (1, 0), (1,)]),  # a shorter list: no entry for every class
        ([[0, 1], [1, 2]], [(0, 1), (1, 2)]),
        ([[2], [1]], [(2,), (1,)]),
    ],
)
def test_lists_that_can_be_one_thing_only(write, labels, expected):
    task = own(write, rows(*labels))
    assert (task.kind, [example.label for example in task.train]) == ("multi_label", expected)


def test_the_number_of_class_names_tells_lists_apart(write):
    write("labels.json", b'["a", "b", "c"]')
    assert [example.label for example in own(write, rows([0, 1], [1, 0])).train] == [(0, 1), (1, 0)]
    with pytest.raises(DataError, match=r"label .1.0, 0.0. must be 0 or 1 for each of 3 classes"):
        own(write, rows([1.0, 0.0]))
    write("labels.json", b'["a", "b"]')
    with pytest.raises(DataError, match=r'write names \(."a", "b".\) for the first'):
        own(write, rows([0, 1]))


@pytest.mark.parametrize("labels", [[[0, 1], [1, 0]], [[0, 1], [0, 1]], [[1], [0]], [[0, 1], None]])
def test_lists_that_can_be_two_things_are_an_error(write, labels):
    with pytest.raises(DataError) as caught:
        own(write, rows(*labels))
    assert "line 1: label" in str(caught.value) and "\n" not in str(caught.value)
    for word in ("the classes that hold", "0 and 1 for each of", "write names", "a point"):
        assert word in str(caught.value)


@pytest.mark.parametrize("labels", [[[0.3, 0.7]], [[1.0, 0.0], [1.0]], [[1.0, 0.0], [2, 0]], [[True, False], [2]]])
def test_lists_with_points_have_an_entry_for_every_class(write, labels):
    with pytest.raises(DataError, match="must be 0 or 1 for each of 2 classes, as lists with points or truth values"):
        own(write, rows(*labels))


def test_numbers_with_a_point_are_a_regression(write):
    task = own(write, rows(0.5, 2, 1.5))
    assert (task.kind, task.metric, task.beside) == ("regression", "pearson", ("spearman",))
    assert [example.label for example in task.train] == [0.5, 2.0, 1.5]


@pytest.mark.parametrize("hidden", [{}, {"label": -1}, {"label": None}])
def test_a_test_file_may_be_without_labels(write, hidden):
    write("test.jsonl", [{"text": TWO, **hidden}] * 2)
    task = own(write, rows("yes", "no"), rows("no"))
    assert task.labels == ("no", "yes") and len(task.validation) == 1
    with pytest.raises(DataError, match='has no labels in split "test"; labelled are train, validation'):
        task.split("test")


def test_a_test_file_with_labels_is_a_split_of_its_own(write):
    path = write("test.jsonl", rows("yes", "no", "no"))
    assert len(tasks.folder(path.parent).split("test")) == len(tasks.folder(path.parent).validation) == 3
    task = own(write, rows("yes", "no"), rows("no"))
    assert (len(task.split("test")), len(task.validation)) == (3, 1)


def test_pairs_and_a_missing_train_file(write):
    path = write(
        "test.jsonl",
        [{"text": ONE, "text_pair": TWO, "label": 0}, {"text": ONE, "text_pair": None, "label": 1}],
    )
    for where in (path, path.parent):  # one file will do as well
        task = tasks.folder(where)
        assert task.validation == (Example(ONE, TWO, 0), Example(ONE, None, 1)) and task.train == ()
    with pytest.raises(DataError, match="no training texts to calibrate on; add train.jsonl"):
        task.calibration(1)


@pytest.mark.parametrize(
    "lines, message",
    [
        (rows("yes", 3), "line 2: label is a number here, a name in .* line 1; write all labels alike"),
        (rows(0, -2), "line 2: label -2 is none of the 1 classes"),
        (rows(0, True), "line 2: label is true or false here, a number in .* line 1; write all labels alike"),
        (rows(0, {}), "line 2: label must be an integer, .* got {}"),
        (rows(0, float("nan")), "line 2: label is NaN; write null where there is no label"),
        (rows("yes", " "), "line 2: label is blank; write null where there is no label"),
        (rows(0, [1]), "line 2: label is a list here, a number in .* line 1; write all labels alike"),
        (rows([0, 2, 2]), "line 1: label .0, 2, 2. names a class twice"),
        (rows(["a", 1]), "line 1: label 1 is a number, others are names"),
        (rows(["a", ""]), 'line 1: label ."a", "". holds ""; list names or numbers'),
        (rows(["a"], [None]), "line 2: label .null. holds null; list names or numbers"),
        (rows("Yes", "no", "yes"), 'line 3: label "yes" differs from "Yes" in case or blanks only'),
        (rows("0.5", "3"), 'line 1: label "0.5" is a number in quotes; write it without'),
        (rows(0.5, "high"), 'line 2: field "label" must be a finite number, got "high"'),
        (rows(0.5, 10**400), 'line 2: field "label" must be a finite number, got 1000'),
        (rows(0, 10**12), "line 2: label 1000000000000 is too large for a class"),
        ([{"text": ONE, "text_pair": "", "label": 0}], 'line 1: field "text_pair" is blank'),
        (
            [{"text": ONE, "label": 1, "labels": 0}],
            'line 1: field "labels" beside "label" is not read; drop one of the',
        ),
        ([{"text": ONE, "Labels": 1}], 'line 1: field "Labels" is not read; call it "label"'),
        ([{"text": ONE, "text2": TWO, "label": 1}], 'line 1: field "text2" is not read; call it "text_pair"'),
        (
            [{"text": ONE, "text_pair": TWO, "label": 0}, {"text": ONE, "label": 1}],
            'line 2: field "text_pair" is missing, .* line 1 has one; write null for a single text',
        ),
        ([{"text_pair": ONE, "label": 0}], r'line 1: field "text" is missing .found: text_pair, label.'),
        ([{"text": 7, "label": 0}], 'line 1: field "text" must be a string, got 7'),
    ],
)
def test_labels_that_make_no_task(write, lines, message):
    with pytest.raises(DataError, match=message):
        own(write, lines)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[", "labels.json is not JSON"),
        (b'{"a": 0}', "must be a JSON list of label names"),
        (b'["a", "a"]', "names a label twice"),
        (b'["a"]', "line 2: label 1 is none of the 1 classes"),
        (b'["a", "\\u0062"', "labels.json is not JSON"),
    ],
)
def test_bad_label_files(write, content, message):
    write("labels.json", content)
    with pytest.raises(DataError, match=message):
        own(write, rows(0, 1))


# --- calibration


def many(write, count, scored="something else"):
    train = [{"text": f"text {number}", "label": number % 2} for number in range(count)]
    return own(write, train, [{"text": scored, "label": 0}, {"text": "b", "label": 1}])


def test_calibration_rows_are_those_of_the_published_rule(write):
    task = many(write, 200)
    calibration = task.calibration(100, seed=3)
    expected = np.random.RandomState(3).choice(200, 100, replace=False)
    assert [example.text for example in calibration.examples] == [f"text {row}" for row in expected]
    assert (calibration.count, calibration.seed, calibration.kind) == (100, 3, "single_label")
    assert calibration.warnings == ()


def test_the_hash_follows_the_texts_only(write):
    task = many(write, 200)
    first, other = task.calibration(100, seed=0), task.calibration(100, seed=1)
    assert first.hash == task.calibration(100, seed=0).hash != other.hash
    assert Calibration.of_texts([e.text for e in first.examples]).hash == first.hash
    assert Calibration.of_texts(["ab", "c"]).hash != Calibration.of_texts(["a", "bc"]).hash


def test_doubts_about_calibration_texts(write):
    task = many(write, 200, scored="  TEXT 7 ")
    few = task.calibration(63).warnings
    assert any("only 63 calibration texts" in warning for warning in few)
    assert task.calibration(200).warnings == (
        "1 of 200 calibration texts are evaluation texts too: the score will flatter.",
    )


@pytest.mark.parametrize(
    "count, message", [(201, "201 calibration samples, .* has 200 training texts"), (0, "at least")]
)
def test_impossible_calibration_counts(write, count, message):
    with pytest.raises(DataError, match=message):
        many(write, 200).calibration(count)


def test_fewer_texts_in_a_file_than_were_asked_for(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"text {number}\n" for number in range(70)))
    told = f"{file} has 70 texts, fewer than 512: all of them are taken."
    assert Calibration.of_file(file, 512).warnings == (told,)
    assert Calibration.of_file(file, 70).warnings == Calibration.of_file(file).warnings == ()


def test_calibration_of_any_texts():
    calibration = Calibration.of_texts([ONE, TWO], [TWO, ONE], max_length=32)
    assert calibration.examples == (Example(ONE, TWO, None), Example(TWO, ONE, None))
    assert calibration.max_length == 32 and calibration.seed is None
    for texts, pairs, message in (
        ([], None, "no calibration texts"),
        ([ONE, " "], None, "calibration text 1 is ' '"),
        ([ONE], [TWO, TWO], "1 texts and 2 second texts"),
        ("one string", None, r"pass \[text\]"),
    ):
        with pytest.raises(DataError, match=message):
            Calibration.of_texts(texts, pairs)


IDS = [[2, 5, 6, 3, 0], [2, 7, 3, 0, 0], [2, 8, 9, 4, 3]]
MASK = [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_calibration_of_token_ids_leaves_padding_out():
    ids, mask = np.array(IDS), np.array(MASK)
    calibration = Calibration.of_ids(ids, mask)
    assert calibration.ids == ((2, 5, 6, 3), (2, 7, 3), (2, 8, 9, 4, 3))
    assert calibration.types == ((0,) * 4, (0,) * 3, (0,) * 5)
    assert (calibration.count, calibration.seed) == (3, None) and "only 3" in calibration.warnings[0]
    # Padding on the left, of another value, or none at all: the texts are the same.
    left = Calibration.of_ids(ids[:, ::-1] - (mask[:, ::-1] == 0), mask[:, ::-1])
    assert left.ids == tuple(row[::-1] for row in calibration.ids)
    assert Calibration.of_ids(calibration.ids, None) == calibration
    assert Calibration.of_ids(calibration.ids, None).hash == calibration.hash != left.hash
    typed = Calibration.of_ids(ids, mask, types=mask * 0 + [0, 0, 1, 1, 0])
    assert typed.types[0] == (0, 0, 1, 1) and typed.hash != calibration.hash


@pytest.mark.parametrize(
    "ids, mask, message",
    [
        ([], None, "no calibration texts"),
        ([5, 6], None, r"ids of calibration text 0: expected a row of whole numbers, got int64 of shape \(\)"),
        ([[5.0, 6.0]], None, "got float64"),
        ([[5, 6], [7, 8]], [[1, 1]], "mask and ids must have the same shape"),
        ([[5, 6]], [[1]], "mask and ids must have the same shape"),
        ([[5, 6]], [[1, 2]], "mask of calibration text 0 has values beside 0 and 1"),
        ([[5, 6], [7, 8]], [[1, 1], [0, 0]], "calibration text 1 has no tokens"),
        ([[5, 6], []], None, "calibration text 1"),
    ],
)
def test_token_ids_that_cannot_be_meant(ids, mask, message):
    with pytest.raises(DataError, match=message):
        Calibration.of_ids(ids, mask)


def test_files_of_another_glue_task_are_not_taken_for_this_ones(write, tmp_path):
    row = {"sentence1": ONE, "sentence2": TWO, "label": 0}
    for name in ("MRPC", "mine"):
        write(f"{name}/validation.jsonl", [row])
    with pytest.raises(DataError, match="MRPC is called as the task mrpc, and rte is asked for"):
        tasks.glue("rte", tmp_path / "MRPC")
    assert len(tasks.glue("mrpc", tmp_path / "MRPC").validation) == len(tasks.glue("rte", tmp_path / "mine").validation)


def test_text_and_label_that_changed_places_are_noticed(write, tmp_path):
    rows = [{"text": kind, "label": f"film {n} is {kind}"} for n in range(10) for kind in ("good", "bad")]
    write("validation.jsonl", rows)
    with pytest.raises(DataError, match="20 different labels and 2 different texts; .* changed places"):
        tasks.folder(tmp_path)


@pytest.mark.parametrize("texts", [{"a film", "a book"}, {"a film": 1}, iter(["a film"]), np.array([["a", "b"]]), "a"])
def test_calibration_texts_have_an_order(texts):
    of_texts = inspect.unwrap(Calibration.of_texts)  # without the tests' type checker
    with pytest.raises(DataError, match="a sequence of strings"):
        of_texts(texts)


def test_a_mask_that_is_the_wrong_way_round_is_noticed():
    ids, mask = [[5, 6, 7, 0, 0], [5, 6, 0, 0, 0]], np.array([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    assert Calibration.of_ids(ids, mask).ids == ((5, 6, 7), (5, 6))
    for of_ids in (Calibration.of_ids, tasks.of_ids):
        with pytest.raises(DataError, match="the mask shows the token 0 alone"):
            of_ids(ids, 1 - mask)
