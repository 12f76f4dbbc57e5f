"""Data files: the same rows from every form, and an error that names what is something else."""

import gzip
import json

import pytest

from jaxprune import tasks
from jaxprune.errors import DataError
from jaxprune.tasks.calibration import Calibration
from jaxprune.tasks.jsonl import iter_texts, read_rows, read_texts
from jaxprune.tasks.running_text import RunningText

ROWS = [{"text": "the film\u2028was warm", "label": 1}, {"text": "a dull\nbook", "label": 0}]
LINES = "\n".join(map(json.dumps, ROWS)) + "\n"
FORMS = {
    "lines.jsonl": LINES,
    "lines.json": LINES,
    "crlf.jsonl": "\n" + LINES.replace("\n", "\r\n"),
    "plain characters.jsonl": LINES.replace("\\u2028", "\u2028"),
    "mark.jsonl": "\ufeff" + LINES,
    "array.json": json.dumps(ROWS),
    "array over lines.json": json.dumps(ROWS, indent=2),
    "array.jsonl": json.dumps(ROWS),
    "lines.jsonl.gz": LINES,
    "array.json.gz": json.dumps(ROWS),
    "LINES.JSONL": LINES,
}


def write(path, content: str | bytes):
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_texts(tmp_path, name):
    file = write(tmp_path / name, FORMS[name])
    assert [row.values for row in read_rows(file)] == ROWS
    assert RunningText.of(file)[0].text == "the film\u2028was warm\n\na dull\nbook"  # a running text
    assert [(e.text, e.label) for e in tasks.folder(file).validation] == [(row["text"], row["label"]) for row in ROWS]
    assert [example.text for example in Calibration.of_file(file).examples] == [row["text"] for row in ROWS]


def test_plain_text_may_be_gzip(tmp_path):
    file = write(tmp_path / "text.txt.gz", " = Title = \n\n the film \n")
    assert RunningText.of(file)[0].text == " = Title = \n\n the film \n"


@pytest.mark.parametrize("suffix", [".json", ".jsonl.gz", ".json.gz"])
def test_splits_of_every_form_are_found(tmp_path, suffix):
    write(tmp_path / f"train{suffix}", LINES)
    write(tmp_path / f"validation{suffix}", json.dumps(ROWS))
    task = tasks.load("text-classification", tmp_path)
    assert (len(task.train), len(task.validation)) == (2, 2)
    sentences = "\n".join(json.dumps({"sentence": row["text"], "label": row["label"]}) for row in ROWS)
    (tmp_path / "sst2").mkdir()
    write(tmp_path / "sst2" / f"validation{suffix}", sentences)
    assert [example.label for example in tasks.load("sst2", tmp_path).validation] == [1, 0]


@pytest.mark.parametrize("name", ["val", "valid", "dev", "eval"])
def test_what_is_scored_by_its_other_names(tmp_path, name):
    """A file that lies there unread would leave test.jsonl to be scored, and to choose the best epoch."""
    write(tmp_path / f"{name}.jsonl", LINES)
    write(tmp_path / "test.jsonl", json.dumps(ROWS[:1]))
    assert len(tasks.folder(tmp_path).validation) == 2
    write(tmp_path / "validation.jsonl", LINES)
    with pytest.raises(DataError, match=f"has validation.jsonl and {name}.jsonl; keep the one that is meant"):
        tasks.folder(tmp_path)


def test_two_files_of_one_split_are_told_apart_by_nobody(tmp_path):
    write(tmp_path / "validation.json", LINES)
    write(tmp_path / "validation.jsonl", LINES)
    with pytest.raises(DataError, match="has validation.jsonl and validation.json; keep the one that is meant"):
        tasks.folder(tmp_path)


def test_lines_of_plain_text(tmp_path):
    """A mark, line ends of Windows and separators inside a text are no part of the texts, and cut none."""
    file = write(tmp_path / "texts.txt", "\ufeffthe film\u2028was warm\r\n\r\n a book\x0bwas dull\r\n")
    assert read_texts(file) == (["the film\u2028was warm", " a book\x0bwas dull"], None)
    file = write(tmp_path / "pairs.txt", "who\tthe cast\r\nwhen\tlong\r\n")
    assert read_texts(file) == (["who", "when"], ["the cast", "long"])
    assert read_texts(file, paired=False) == (["who\tthe cast", "when\tlong"], None)
    file = write(tmp_path / "pairs.jsonl", '{"text": "who", "text_pair": "the cast"}\n')
    assert read_texts(file) == (["who"], ["the cast"])


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", '[{"text": "a"},\n{"text" "b"}]', "a.jsonl line 2: not JSON .*Expecting ':' delimiter"),
        ("a.json", '[{"text": "a"}, 3]', "a.json entry 2: expected a JSON object, got 3"),
        ("a.json", "[]", "a.json is empty"),
        ("a.json", '{\n "text": "a"\n}', "a.json is one object over several lines; write one a line, or an array"),
        ("a.jsonl", '{"text": "a"}\n{\n "text": "b"\n}', "a.jsonl line 2: not JSON"),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": "b", "label": 1, "label": 0}',
            'line 2: field "label" is there twice; keep',
        ),
        ("a.json", '[{"text": "b", "label": 1, "label": 0}]', 'field "label" is there twice; keep the one'),
        (
            "a.jsonl",
            '{"text": "\\ud83d\\ude00"}\n{"text": "a \\ud83d"}',
            r"line 2 has a lone surrogate, U\+D83D: half of",
        ),
        ("a.json", '[{"text": "a"}, {"x": [{"y": "\\uDE00"}]}]', "a.json entry 2 has a lone surrogate"),
        ("a.json", '{"text": ["a", "b"], "label": [1, 0]}', "holds the columns of a table .text, label., expected an"),
        (
            "a.json",
            '{\n"text": ["a"],\n"label": [1]}',
            "a.json holds the columns of a table .text, label., expected an",
        ),
        ("a.json", '{"sentence": {"0": "a"}, "label": {"0": 1}}', "holds the columns of a table .sentence, label."),
        ("a.jsonl", "text,label\ngood,1\n", "a.jsonl line 1: not JSON"),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16"), "a.jsonl is UTF-16, expected text in UTF-8"),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16-le"), "a.jsonl is UTF-16 or binary, expected text in UTF-8"),
        ("a.jsonl", b"PAR1\x15\x04\x15\xff\xfe", "a.jsonl is Parquet, expected text in UTF-8"),
        ("a.jsonl", b"\x28\xb5\x2f\xfd\x04", "a.jsonl is zstd, expected text in UTF-8"),
        ("a.jsonl", gzip.compress(b'{"text": "a"}', mtime=0)[:-9], "a.jsonl is damaged gzip"),
    ],
)
def test_what_is_no_such_file_is_named(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read_rows(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.parquet"])
def test_tables_are_refused_by_name(tmp_path, name):
    """Their columns would be taken for text."""
    file = write(tmp_path / name, "text\tlabel\ngood\t1\n")
    for read in (RunningText.of, read_texts, tasks.folder, tasks.squad):
        with pytest.raises(DataError, match=r"is a table \(.*\), which is not read; write"):
            read(file)
    with pytest.raises(
        DataError, match=f"has no train.jsonl, validation.jsonl or test.jsonl .found: {name}.; add them"
    ):
        tasks.folder(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        ("a\tb\tc\n", "line 1 has 3 columns; write one text, or two with a tab between them"),
        ("a\n\nb\t \n", "line 3: one of its two texts is blank"),
        ("a\n\nb\tc\n", "line 3 has two texts, the first one; make them alike"),
        (" \n", "holds no texts; write one a line"),
        ('a\tb\n"a ""b"""\tc\n', "line 2 has quotes that are written twice, as in CSV; tabs part texts"),
    ],
)
def test_lines_that_are_not_alike(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_texts(write(tmp_path / "texts.txt", content))


def test_a_second_text_by_another_name(tmp_path):
    rows = [{"text": "a", "text2": "b"}, {"text": "a", "text_pair": "b", "text_b": "c"}]
    for row, told in zip(
        rows, ('"text2" is not read; call it "text_pair"', '"text_b" beside "text_pair" is'), strict=True
    ):
        with pytest.raises(DataError, match=told):
            read_texts(write(tmp_path / "texts.jsonl", json.dumps(row)))


@pytest.mark.parametrize("name, lines", [("a.txt", "one\ntwo\nthree\tx"), ("a.jsonl", '{"text": "one"}\n{"text": 2}')])
def test_texts_are_read_one_by_one(tmp_path, name, lines):
    """So that a large file need not fit the memory: what is wrong further down has not been read yet."""
    found = iter_texts(write(tmp_path / name, lines))
    assert next(found) == ("one", None)
    with pytest.raises(DataError, match="two texts, the first one|must be a string"):
        list(found)
