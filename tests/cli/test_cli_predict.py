"""`jaxprune predict`: files, standard input, one text; and what is refused before a model is read."""

import io
import json
import os

import pytest

import jaxprune as jp
from tests.helpers.words import build, tokenizer_folder as tokenizer_folder

TEXTS = ["the film was good", "a book", "dull and long", "the cast was not bad"]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_text_is_said_on_the_spot(cli, inputs):
    said = jp.predict(jp.load(inputs.model), TEXTS[0])[0]
    run = cli("predict", "--model", inputs.model, "--text", TEXTS[0])
    assert run.code == 0 and run.out == f"{said.label} ({said.probability:.1%})\n"
    data = cli.json("predict", "--model", inputs.model, "--text", TEXTS[0]).data
    assert data["texts"] == 1 and data["warnings"] == []
    (line,) = data["predictions"]
    assert line["text"] == TEXTS[0] and line["label"] == said.label
    assert line["probabilities"] == pytest.approx(said.probabilities, abs=1e-5)


@pytest.mark.parametrize("form", ["texts.txt", "texts.jsonl", "texts.json", "-"])
def test_files_give_a_line_a_text(cli, inputs, tmp_path, monkeypatch, form):
    rows = "\n".join(TEXTS) if form == "texts.txt" else "\n".join(json.dumps({"text": text}) for text in TEXTS)
    if form == "-":
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{rows}\n".encode())))
    else:
        (tmp_path / form).write_text(rows)
    source, out = form if form == "-" else tmp_path / form, tmp_path / "new" / "out.jsonl"
    words = ("--input", source, "--out", out, "--batch-size", 3)
    run = cli.json("predict", "--model", inputs.model, *words)
    assert run.code == 0, run.err
    assert (run.data["texts"], run.data["out"]) == (4, str(out)) and "predictions" not in run.data
    assert [line["text"] for line in lines(out)] == TEXTS
    expected = [said.label for said in jp.predict(jp.load(inputs.model), TEXTS)]
    assert [line["label"] for line in lines(out)] == expected
    assert os.listdir(out.parent) == ["out.jsonl"]


def test_second_texts_come_from_both_kinds_of_files(cli, inputs, tmp_path):
    (tmp_path / "pairs.txt").write_text("a film\ta book\nthe plot\tthe cast\n")
    data = cli.json("predict", "--model", inputs.model, "--input", tmp_path / "pairs.txt").data
    assert [line["text_pair"] for line in data["predictions"]] == ["a book", "the cast"]
    alone = cli.json("predict", "--model", inputs.model, "--text", "a film", "--pair", "a book").data
    assert alone["predictions"][0]["label"] == data["predictions"][0]["label"]


def saved(path, tokenizer_folder, **changes):
    return str(jp.save(build(tokenizer_folder, **changes), path))


def test_questions_and_words_have_their_own_fields(cli, tmp_path, tokenizer_folder):
    answers = saved(tmp_path / "answers", tokenizer_folder, head="question_answering", pooler="none")
    rows = [{"question": "who was good", "context": "the film was good and the plot was dull"}] * 2
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = cli.json("predict", "--model", answers, "--input", tmp_path / "questions.jsonl").data
    for line in data["predictions"]:
        assert (
            line["question"] == rows[0]["question"] and line["context"][line["start"] : line["end"]] == line["answer"]
        )
    (tmp_path / "questions.jsonl").write_text('{"text": "who was good"}')
    run = cli("predict", "--model", answers, "--input", tmp_path / "questions.jsonl")
    assert run.code == 2 and 'line 1: field "question" is missing' in run.err
    tags = saved(tmp_path / "tags", tokenizer_folder, head="token_classification", pooler="none", labels=("O", "B-X"))
    (tmp_path / "words.jsonl").write_text('{"tokens": ["the", "good-bad"]}\n{"text": "the film."}')
    one, other = cli.json("predict", "--model", tags, "--input", tmp_path / "words.jsonl").data["predictions"]
    assert one["tokens"] == [word["word"] for word in one["tags"]] == ["the", "good-bad"]
    assert [word["word"] for word in other["tags"]] == ["the", "film", "."]
    assert cli("predict", "--model", tags, "--text", "the film").out.startswith("the/")
    (tmp_path / "words.jsonl").write_text('{"tokens": ["the", " "]}')
    run = cli("predict", "--model", tags, "--input", tmp_path / "words.jsonl")
    assert run.code == 2 and "line 1: word 1 is blank" in run.err


def test_cut_texts_are_told(cli, inputs, tmp_path):
    (tmp_path / "texts.txt").write_text("good\n" + "the film " * 40)
    run = cli("predict", "--model", inputs.model, "--input", tmp_path / "texts.txt")
    assert run.code == 0 and "warning: 1 of 2 texts were cut to 32 tokens" in run.err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": "good"}\n{"text": "bad"\n', "texts.jsonl line 2: not JSON"),
        ('{"text": "good"}\n{"sentence": "bad"}\n', 'texts.jsonl line 2: field "text" is missing (found: sentence)'),
        ('{"text": "good"}\n{"text": 3}\n', 'texts.jsonl line 2: field "text" must be a string'),
        ('{"text": "good"}\n\n{"text": " "}\n', 'texts.jsonl line 3: field "text" is blank'),
        ('{"text": "good"}\n{"text": "a", "text_pair": "b"}\n', "texts.jsonl line 2 has two texts, the first one"),
        ("", "texts.jsonl is empty"),
    ],
)
@pytest.mark.parametrize("piped", [False, True])
def test_a_line_that_is_no_text_is_named_before_any_is_predicted(
    cli, inputs, tmp_path, monkeypatch, content, says, piped
):
    monkeypatch.setattr("jaxprune.cli.predict.predict", lambda *_, **__: pytest.fail("texts were predicted"))
    if piped and not content:
        says = "stdin.txt holds no texts"
    if piped:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    (tmp_path / "texts.jsonl").write_text(content)
    run = cli("predict", "--model", inputs.model, "--input", "-" if piped else tmp_path / "texts.jsonl")
    assert run.code == 2 and (says.replace("texts.jsonl", "stdin.jsonl") if piped else says) in run.err
    assert not piped or "/stdin" not in run.err


def test_a_file_that_exists_is_refused_and_a_run_that_stops_leaves_it(cli, inputs, tmp_path, monkeypatch):
    source, out = tmp_path / "texts.txt", tmp_path / "out.jsonl"
    source.write_text("\n".join(TEXTS))
    out.write_text("old")
    words = ("predict", "--model", inputs.model, "--input", source, "--out")
    with monkeypatch.context() as patched:
        patched.setattr("jaxprune.cli.flags.read", lambda *_, **__: pytest.fail("the model was read"))
        for place, says in (
            (out, "out.jsonl exists; choose another file, or pass --overwrite"),
            (source, "is where the texts are read from"),
            (tmp_path, "is a folder; name a file"),
            (source / "in" / "a" / "file", "cannot be written"),
        ):
            run = cli(*words, place, *(("--overwrite",) if place is source else ()))
            assert run.code == 2 and says in run.err, run.err

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("jaxprune.evaluation.predict._predictions", lambda *_: map(interrupted, [1]))
        assert cli(*words, out, "--overwrite").code == 130
    assert out.read_text() == "old" and sorted(os.listdir(tmp_path)) == ["out.jsonl", "texts.txt"]
    assert cli(*words, out, "--overwrite").code == 0 and len(lines(out)) == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "texts come from --text TEXT or from --input FILE, images from --images FILE; give one"),
        (("--text", "a", "--input", "b"), "give one of them"),
        (("--input", "b", "--pair", "a"), "--pair is the second text of --text"),
        (("--input", "no-such-file"), "no-such-file cannot be read"),
        (("--text", " "), "text 0 is blank"),
        (("--text", "good", "--nullable"), "nullable has no effect with a classification head"),
        (("--text", "good", "--seq-len", "99"), "texts of 99 tokens do not fit the model's 32 positions"),
    ],
)
def test_what_makes_no_sense_is_named(cli, inputs, words, says):
    run = cli("predict", "--model", inputs.model, *words)
    assert run.code == 2 and says in run.err
