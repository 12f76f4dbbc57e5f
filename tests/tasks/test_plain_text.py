"""Files that are called plain text and are something else; and plain text that only looks like it."""

import os
import threading
import zipfile

import pytest

from jaxprune.errors import DataError
from jaxprune.tasks.calibration import Calibration
from jaxprune.tasks.jsonl import read_texts
from jaxprune.tasks.running_text import RunningText, text_of
from jaxprune.tasks.words import iter_words

LABELLED = "\n".join(f"text {number}\t{'good' if number % 3 else 'bad'}" for number in range(40))


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"text": "great"}\n{"text": "dull"}\n', "holds JSON objects, .* call it .jsonl"),
        ('\n{"text": "great"}\n', "holds JSON objects"),  # after a blank line, too
        ('[{"text": "great"}, {"text": "dull"}]', "holds JSON objects"),
        ('[{"text": "great"},\n {"text": "dull"}]', "holds JSON, .* call it .json"),
        ('[\n "great",\n "dull"\n]', "holds JSON"),
        ('["great",\n"dull"]', "holds JSON"),
        ('{\n "text": ["great"]\n}', "holds JSON"),
        ("text,label\ngreat,1\n", "is a table .its first line names columns: text, label.; write one text a line"),
        ('"Sentence";"Label"\n"great";1\n', "is a table"),
        ("sentence\tlabel\ngreat\t1\n", "is a table"),
        ("great\t1\ndull\t0\n", "has labels after its tabs .0, 1., not second texts"),
        ("great\t4.5\ndull\t-1\n", "has labels after its tabs"),
        (LABELLED, "has labels after its tabs .bad, good."),
        ("\n".join(f"a film, number {number},1" for number in range(20)), "a number after the last comma of every"),
        (b"PK\x03\x04 an archive\n", "holds bytes that no text has"),
        (b"BZh91 an archive\n", "holds bytes that no text has"),
    ],
)
def test_what_is_called_plain_text_and_is_none(tmp_path, content, message):
    (tmp_path / "texts.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (read_texts, Calibration.of_file):
        with pytest.raises(DataError, match=message) as caught:
            read(tmp_path / "texts.txt")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "[1] a note\n{brackets} begin this\n",
        "text, in the words of the author\n",
        "text\nlabel\n",
        "how old is she?\t42 years\nhow tall?\t180\n",
        "\n".join(f"question {number}\tanswer{number}" for number in range(40)),  # words, and all of them differ
        "great, 10\ndull, 0\n",  # two lines may end so
        '"quoted", she said\n',
    ],
)
def test_plain_text_that_looks_like_it(tmp_path, content):
    (tmp_path / "texts.txt").write_text(content)
    assert len(read_texts(tmp_path / "texts.txt")[0]) == len(content.strip().split("\n"))


CONLL = "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\nPeter NNP I-NP B-PER\n"


@pytest.mark.parametrize(
    "content, message",
    [
        (CONLL, "has a word and its tag in every line, as CoNLL has; write one text a line"),
        ("EU\tB-ORG\nrejects\tO\n", "has a word and its tag in every line"),
        (LABELLED, "has labels after its tabs .bad, good.; write one text a line"),
        ('[\n"one text",\n"two texts"\n]\n', "holds JSON, and its name says plain text"),
        ('["one text", "two texts"]', "holds JSON, and its name says plain text"),
    ],
)
def test_texts_without_second_ones_are_looked_at_too(tmp_path, content, message):
    """Those to embed and those whose words are tagged; prompts may be anything."""
    file = tmp_path / "texts.txt"
    file.write_text(content)
    for read in (lambda: read_texts(file, paired=False), lambda: list(iter_words(file))):
        with pytest.raises(DataError, match=message):
            read()
    lines = [line for line in content.split("\n") if line]
    assert read_texts(file, paired=False, prompts=True) == (lines, None)


@pytest.mark.parametrize(
    "content",
    [
        "he flew a B-52\nshe has blood of type O\n",  # columns are as many in every line
        "type O\nblood O\n",
        "\n".join(f"a film, {1980 + number}" for number in range(40)),
        "Beginnings\t1\nEnds\t12\n",
        "\n".join(f"sentence {number}\tsentence{number}" for number in range(40)),
        "[1] a note\n{brackets} begin this\n",
    ],
)
def test_texts_without_second_ones_may_end_in_a_number_or_a_letter(tmp_path, content):
    (tmp_path / "texts.txt").write_text(content)
    assert len(read_texts(tmp_path / "texts.txt", paired=False)[0]) == len(content.strip().split("\n"))


def test_prompts_may_begin_json_and_end_in_numbers(tmp_path):
    lines = ['[{"name": "Ada"},', '{"answer":', *(f"1,2,{number}" for number in range(40)), "one\t2"]
    (tmp_path / "prompts.txt").write_text("\n".join(lines))
    assert read_texts(tmp_path / "prompts.txt", paired=False, prompts=True) == (lines, None)
    (tmp_path / "prompts.txt").write_text('{"text": "Once"}')
    with pytest.raises(DataError, match="call it .jsonl"):
        read_texts(tmp_path / "prompts.txt", paired=False, prompts=True)


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"text": "great"}\n', "holds JSON objects"),
        (b'[\n {"text": "great"}\n]', "holds JSON objects"),
        (b'[{"text": "great"}]', "holds JSON objects"),
        (b"PK\x03\x04 an archive\n", "holds bytes that no text has"),
    ],
)
def test_a_running_text_that_is_none(tmp_path, content, message):
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        RunningText.of(tmp_path / "text.txt")


def test_documents_are_running_text(tmp_path):
    """JSON without a text, and tables, are text as it stands."""
    for content in ('{"name": "Ada"}\n', "text,label\ngreat,1\n", "great\t1\n"):
        (tmp_path / "text.txt").write_text(content)
        assert RunningText.of(tmp_path / "text.txt")[0].text == content


def test_a_zip_that_is_called_text(tmp_path):
    with zipfile.ZipFile(tmp_path / "texts.txt", "w") as archive:
        archive.writestr("texts", "the film")
    for read in (read_texts, RunningText.of):
        with pytest.raises(DataError, match="holds bytes that no text has|not UTF-8|is a zip archive"):
            read(tmp_path / "texts.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_what_comes_through_a_pipe_is_looked_at_too(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text('{"text": "great"}\n'))
    writer.start()
    with pytest.raises(DataError, match="holds JSON objects"):
        text_of(tmp_path / "pipe")
    writer.join()


def test_line_ends_and_bytes_that_no_text_has_are_named(tmp_path):
    file = tmp_path / "texts.txt"
    for content, message in (
        (b"a film\ra book\r", "line 1 has a carriage return within"),
        (b"a\nb\0\n", "line 2 has a NUL"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_texts(file)
    with pytest.raises(DataError, match="holds a NUL"):
        RunningText.of(file)
    file.write_bytes(b"a film\r\r\na book\r\n")
    assert read_texts(file)[0] == ["a film\r", "a book"]
