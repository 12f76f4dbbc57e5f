"""Words with a tag each: what the files may hold, and what is refused."""

import json

import pytest

import jaxprune as jp
from jaxprune.errors import DataError
from jaxprune.tasks.example import Tags

ROW = {"tokens": ["the", "cast"], "ner_tags": ["O", "B-X"]}


def test_names_or_numbers_that_labels_json_names(write):
    named = jp.tasks.token_classification(write("named/test.jsonl", [ROW, {"tokens": ["film"]}]).parent)
    assert (named.kind, named.labels, named.metric) == ("token_classification", ("B-X", "O"), "f1")
    assert [example.label for example in named.validation] == [Tags(("the", "cast"), (1, 0)), None]
    write("numbered/labels.json", json.dumps(["O", "B-X", "I-X"]).encode())
    numbered = jp.tasks.load("token-classification", write("numbered/test.jsonl", [ROW | {"ner_tags": [0, 1]}]).parent)
    assert numbered.labels == ("O", "B-X", "I-X") and numbered.validation[0].label == Tags(("the", "cast"), (0, 1))


def test_tags_that_are_no_entities_are_scored_by_accuracy(write):
    task = jp.tasks.token_classification(write("test.jsonl", [{"tokens": ["the", "cast"], "tags": ["DET", "NOUN"]}]))
    assert (task.metric, task.beside) == ("accuracy", ())


@pytest.mark.parametrize(
    "row, message",
    [
        (ROW | {"ner_tags": ["O"]}, "line 2: 2 words have 1 tags"),
        (ROW | {"ner_tags": ["O", "B-Y"]}, 'line 2: tag "B-Y" is none of .*"B-X"'),
        (ROW | {"ner_tags": [0, 2]}, "line 2: tag 2 is none of"),
        (ROW | {"ner_tags": [0, -100]}, "line 2: tag -100 is none of"),
        (ROW | {"ner_tags": [True, "O"]}, "line 2: tags must be a list of names or numbers"),
        (ROW | {"ner_tags": ["O", 1]}, "line 2: tags are names and numbers"),
        (ROW | {"ner_tags": ["O", "B-X "]}, 'line 2: tag "B-X " has blanks around it'),
        (ROW | {"tags": ["O", "O"]}, "line 2: both ner_tags and tags are there"),
        (ROW | {"tokens": ["the", " "]}, "line 2: word 1 is blank"),
        (ROW | {"tokens": "the cast"}, 'line 2: tokens must be a list of words, got "the cast"'),
        ({"text": "the cast", "ner_tags": ["O"]}, 'line 2: field "tokens" is missing'),
    ],
)
def test_what_is_not_understood_names_its_line(write, row, message):
    write("labels.json", json.dumps(["O", "B-X"]).encode())
    with pytest.raises(DataError, match=message):
        jp.tasks.token_classification(write("test.jsonl", [ROW, row]))


def test_numbers_without_names_are_refused(write):
    with pytest.raises(DataError, match="tags are numbers; write labels.json, a JSON list of their names"):
        jp.tasks.token_classification(write("test.jsonl", [ROW | {"ner_tags": [0, 1]}]))
