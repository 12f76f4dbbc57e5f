"""Chat files: what is read, split and refused; rows that stay in their files; the hub."""

import gzip
import json
import os

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError
from jaxprune.tasks.stored_examples import StoredExamples
from tests.helpers.chat import turns, write_rows

ROWS = [{"messages": turns(f"question {number}", f"answer {number}")} for number in range(20)]


def where(example):
    return example.chat.where


def said(examples):
    return [example.chat.messages[1]["content"] for example in examples]


def test_a_folder_a_file_and_a_share(tmp_path):
    train = write_rows(tmp_path / "data/train.jsonl", ROWS)
    write_rows(tmp_path / "data/validation.jsonl", [{"prompt": "a", "completion": "b"}])
    task = jp.tasks.chat(tmp_path / "data")
    assert (len(task.train), len(task.validation), task.metric, task.max_length) == (20, 1, "perplexity", 1024)
    assert task.validation[0].chat[4:] == ("a", "b")
    alone = jp.tasks.load("chat", train, length=7)
    assert (len(alone.train), len(alone.validation), alone.max_length, alone.strict_length) == (0, 20, 7, True)
    share = jp.tasks.chat(train, validation=0.25, seed=3)
    held, rest = said(share.validation), said(share.train)
    assert (
        len(held) == 5 and sorted(held + rest) == sorted(said(alone.validation)) and held != said(alone.validation)[:5]
    )
    assert said(jp.tasks.chat(train, validation=5, seed=3).validation) == held
    assert said(jp.tasks.chat(train, validation=5, seed=4).validation) != held
    other = jp.tasks.chat(train, validation=[tmp_path / "data/validation.jsonl"])
    assert (len(other.train), len(other.validation)) == (20, 1)


def test_rows_stay_in_their_files_whatever_these_are(tmp_path):
    """Plain lines, with blank ones and a mark at the beginning; gzip; an array: several files are one sequence."""
    lines = "\n\n".join(map(json.dumps, ROWS[:4]))
    (tmp_path / "a.jsonl").write_text("\ufeff" + lines, encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS[4:9])).encode()))
    (tmp_path / "c.json").write_text(json.dumps(ROWS[9:], indent=1))
    every = jp.tasks.chat([tmp_path / name for name in ("a.jsonl", "b.jsonl.gz", "c.json")]).validation
    assert isinstance(every, StoredExamples) and len(every) == 20
    expected = [row["messages"][1]["content"] for row in ROWS]
    assert said(every) == expected and said([every[-1], every[3]]) == [expected[-1], expected[3]]
    assert said(every[5:15:3]) == expected[5:15:3]
    assert said(every.picked([19, 0, 4]).picked([2, 0])) == [expected[4], expected[19]]
    assert [where(every[row]).split("/")[-1] for row in (1, 5, 10)] == [
        "a.jsonl line 3", "b.jsonl.gz line 2", "c.json entry 2"
    ]  # fmt: skip
    with pytest.raises(IndexError):
        every[20]


def test_a_file_that_changes_is_noticed(tmp_path):
    file = write_rows(tmp_path / "a.jsonl", ROWS)
    task = jp.tasks.chat(file)
    os.truncate(file, 100)
    with pytest.raises(DataError, match="a.jsonl has changed since it was first read"):
        list(task.validation)


def test_calibration_draws_conversations(tmp_path):
    task = jp.tasks.chat(write_rows(tmp_path / "a.jsonl", [*ROWS, ROWS[3]]), validation=1, seed=0)
    calibration = task.calibration(20, seed=5)
    order = np.random.RandomState(5).choice(20, 20, replace=False)
    assert said(calibration.examples) == [said(task.train)[row] for row in order]
    assert calibration.hash != task.calibration(20, seed=6).hash
    twice = jp.tasks.chat(write_rows(tmp_path / "b.jsonl", ROWS), validation=write_rows(tmp_path / "c.jsonl", ROWS[:2]))
    assert "2 of 20 calibration texts are evaluation texts too" in twice.calibration(20).warnings[-1]
    with pytest.raises(
        DataError, match="no training texts to calibrate on; add train.jsonl to the folder, or pass val"
    ):
        jp.tasks.chat(tmp_path / "a.jsonl").calibration(4)


SYSTEM, USER, SAYS = ({"role": role, "content": "x"} for role in ("system", "user", "assistant"))


@pytest.mark.parametrize(
    "row, told",
    [
        ({"messages": [SYSTEM, USER]}, "the assistant says nothing, so that there is nothing to learn"),
        ({"messages": [USER, SAYS | {"weight": 0}]}, "all it says has weight 0"),
        ({"messages": [USER, SAYS | {"weight": 0.5}]}, "weight of message 2 is 0.5, expected 0 or 1"),
        ({"messages": [USER, SAYS | {"train": False}]}, 'message 2 has "train", which is not read; write "weight": 0'),
        ({"messages": [USER, {"role": "gpt", "content": "x"}]}, 'message 2 has the role "gpt"; write one of'),
        ({"messages": [USER, {"role": "Assistant", "content": "x"}]}, 'message 2 has the role "Assistant"; write one'),
        ({"messages": [USER, {"from": "gpt", "value": "x"}]}, "message 2 has no role (found: from, value); ShareGPT's"),
        ({"messages": [USER, SAYS | {"content": " "}]}, "message 2 (assistant) is blank; give it a content, or drop"),
        ({"messages": [USER | {"content": None}, SAYS]}, "message 1 (user) is blank"),
        ({"messages": [USER, SAYS | {"content": 3}]}, "content of message 2 must be a text, got 3"),
        (
            {"messages": [USER | {"content": [{"type": "text", "text": "a"}, {"type": "image"}]}, SAYS]},
            "message 1 holds image, and only text is read here",
        ),
        ({"messages": [USER | {"content": [{"type": "text", "text": "a"}]}, SAYS]}, "message 1 has its content"),
        ({"messages": "x"}, 'messages must be a list of role and content, got "x"'),
        ({"messages": []}, "messages must be a list of role and content, got []"),
        ({"messages": ["x"]}, 'message 1 must have a role and a content, got "x"'),
        ({"messages": [USER, SAYS], "tools": "{"}, "tools are a text that is not JSON"),
        ({"messages": [USER, SAYS], "tools": {"name": "f"}}, "tools must be a list of JSON schemas"),
        ({"messages": [USER, SAYS], "completion": "x"}, 'both "messages" and "completion" are there'),
        ({"conversations": [{"from": "human", "value": "x"}]}, "no conversation that is read (found: conversations)"),
        ({"instruction": "x", "output": "y"}, "no conversation that is read (found: instruction, output); write"),
        ({"prompt": "x"}, 'field "completion" is missing (found: prompt); add it'),
        ({"prompt": "x", "completion": ""}, 'field "completion" is blank'),
        ({"prompt": "x", "completion": [SAYS]}, "one of prompt and completion is a list of messages"),
        ({"prompt": [USER, SAYS], "completion": [USER]}, "the assistant says nothing in the completion"),
        ({"prompt": "x", "completion": "y", "tools": [{}]}, "tools belong to messages"),
        ({"messages": [USER, SAYS], "system": "Be brief."}, '"system" is not read; make it the first message'),
        ({"prompt": "x", "completion": "y", "system_prompt": "z"}, '"system_prompt" is not read'),
        ({"messages": [USER, SAYS], "functions": [{"name": "f"}]}, '"functions" is not read; call it "tools"'),
        ({"messages": [USER, SAYS], "images": ["a.png"]}, '"images" is not read; drop the line'),
        ({"messages": [USER, SAYS], "documents": ["a"]}, '"documents" is not read'),
        ({"messages": [USER, SAYS], "chat_template_kwargs": {"a": 1}}, '"chat_template_kwargs" is not read'),
        ({"prompt": [USER], "completion": [SAYS], "label": False}, '"label" is false, as of answers not to be given'),
        ({"messages": [USER, SAYS], "weight": 0}, '"weight" of a whole line (0) is not read'),
        ({"messages": [USER, SAYS | {"function_call": {"name": "f"}}]}, 'message 2 has "function_call", which is not'),
        ({"messages": [USER | {"images": ["a.png"]}, SAYS]}, 'message 1 has "images", which is not read'),
    ],
)  # fmt: skip
def test_what_could_be_misread_is_named_with_its_line(tmp_path, row, told):
    file = write_rows(tmp_path / "a.jsonl", [ROWS[0], row])
    with pytest.raises(DataError) as raised:
        jp.tasks.chat(file)
    assert f"a.jsonl line 2: {told}" in str(raised.value) and "\n" not in str(raised.value)


def test_further_fields_are_left_alone(tmp_path):
    row = {"prompt": "x", "messages": [SYSTEM, USER, SAYS], "prompt_id": 3, "source": "UltraChat", "tools": None}
    row |= {"system": "", "images": [], "label": True, "weight": 1.0, "documents": None}
    assert jp.tasks.chat(write_rows(tmp_path / "b.jsonl", [row | {"weight": None}])).validation  # as datasets fills up
    [example] = jp.tasks.chat(write_rows(tmp_path / "a.jsonl", [row])).validation
    assert example.chat.messages == (SYSTEM, USER, SAYS) and example.chat.learnt == (False, False, True)


def test_files_and_settings_that_cannot_be_meant(tmp_path, write):
    file = write_rows(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "a.txt").write_text("user: hello")
    (tmp_path / "empty.jsonl").write_text("\n")
    for call, told in (
        (lambda: jp.tasks.chat(tmp_path / "nowhere.jsonl"), "nowhere.jsonl is not a file"),
        (lambda: jp.tasks.chat(tmp_path / "a.txt"), "a.txt is not called JSON"),
        (lambda: jp.tasks.chat(tmp_path / "empty.jsonl"), "empty.jsonl is empty"),
        (lambda: jp.tasks.chat([file, file]), "a.jsonl is named twice"),
        (lambda: jp.tasks.chat([]), "no files were named"),
        (lambda: jp.tasks.chat(file, validation=file), "named to train on and to score"),
        (
            lambda: jp.tasks.chat(file, validation=tmp_path / "." / ".." / tmp_path.name / "a.jsonl"),
            "named to train on",
        ),
        (lambda: jp.tasks.chat([file, f"{tmp_path}/../{tmp_path.name}/a.jsonl"]), "a.jsonl is named twice"),
        (lambda: jp.tasks.chat(file, validation=20), "validation 20 leaves nothing of 20 conversations"),
        (lambda: jp.tasks.chat(file, validation=1.5), "validation is 1.5; pass files, a share such as 0.05"),
        (lambda: jp.tasks.chat(file, validation=0), "validation is 0; pass"),
        (lambda: jp.tasks.chat(file, validation=True), "validation is True; pass"),
        (lambda: jp.tasks.chat(file, max_length=0), "texts of 0 tokens were asked for"),
        (lambda: jp.tasks.chat(tmp_path, validation=0.1), "has no train.jsonl|is a folder"),
        (lambda: jp.tasks.load("chat"), "chat needs data=FOLDER"),
        (lambda: jp.tasks.load("chat", file, windows=3), "windows belong to the task text, not to chat"),
        (
            lambda: jp.tasks.load("sst2", file, validation=3),
            "validation belong to the task chat or pairs or images, not",
        ),
    ):
        with pytest.raises(DataError, match=told):
            call()


# --- the hub


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub, which streams without end and keeps count of what was taken."""
    taken = []

    def load_dataset(name, config, *, split, revision, streaming):
        assert streaming
        if name == "org/none":
            raise FileNotFoundError("Couldn't find it\nanywhere")

        def rows():
            number = 0
            while True:
                taken.append((name, config, split, revision, number))
                yield {"messages": turns("q", f"answer {number}"), "text": f"text {number}" if number % 3 else " "}
                number += 1

        return rows()

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return taken


def test_rows_of_the_hub_are_streamed_once_and_as_many_as_asked_for(hub):
    source = jp.tasks.Hub("org/chats", count=7, split="train_sft", config="en", revision="v2")
    task = jp.tasks.chat(source, validation=2)
    assert len(hub) == 7 and hub[0] == ("org/chats", "en", "train_sft", "v2", 0)
    assert len(said(task.train)) == 5 and len(said(task.validation)) == 2 and len(hub) == 7
    assert "org/chats en train_sft at v2" in task.source
    assert "org/chats en train_sft at v2 row 7" in map(where, (*task.train, *task.validation))
    kept = task.train.parts[0].spool.path
    assert kept.exists()
    del task
    assert not kept.exists()


def test_what_the_package_fills_up_rows_with_is_not_read(monkeypatch, tmp_path):
    """A row of `datasets` has the fields of all others, as None; a null in a file is meant."""
    import datasets

    def row(name, **arguments):
        call = {"function": {"name": name, "arguments": arguments}}
        spoken = [turns("q")[0] | {"tool_calls": None}, {"role": "assistant", "content": None, "tool_calls": [call]}]
        return {"messages": spoken, "tools": [{"name": name, "parameters": arguments}]}

    rows = [row("weather", city="Paris"), row("note", content="x", marks=["a", None])]
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
    assert next(iter(stream))["messages"][1]["tool_calls"][0]["function"]["arguments"]["marks"] is None
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: stream)
    for read, given in zip(jp.tasks.chat(jp.tasks.Hub("org/calls", count=2)).validation, rows, strict=True):
        user, assistant = given["messages"]
        assert read.chat.messages == ({key: user[key] for key in ("role", "content")}, assistant)
        assert list(read.chat.tools) == given["tools"]
    in_a_file = [row("weather", city=None)]
    kept = jp.tasks.chat(write_rows(tmp_path / "a.jsonl", in_a_file)).validation[0].chat
    assert list(kept.messages) == in_a_file[0]["messages"]


def test_documents_of_the_hub(hub):
    task = jp.tasks.text(jp.tasks.Hub("org/texts", count=5, split="test"), length=8)
    assert task.validation[0].text == "text 1\n\ntext 2\n\ntext 4"  # blank ones are no documents
    with pytest.raises(DataError, match="org/none train does not load from the hub: Couldn't find it; check the net"):
        jp.tasks.chat(jp.tasks.Hub("org/none", count=5))
    with pytest.raises(DataError, match="0 rows of org/chats"):
        jp.tasks.Hub("org/chats", count=0)
