"""Chat and texts of several files on the command line."""

import json
from types import SimpleNamespace

import pytest

import jaxprune as jp
from jaxprune.cli import flags
from jaxprune.cli.main import parser
from jaxprune.cli.recovery import recovery
from tests.helpers import tiny
from tests.helpers.chat import chat_model, turns, write_rows

ROWS = [{"messages": turns(f"q {number}", f"answer {number}")} for number in range(12)]


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chats")
    chat_model(folder / "model")
    write_rows(folder / "a.jsonl", ROWS)
    write_rows(folder / "b.jsonl", ROWS[:3])
    write_rows(folder / "text.jsonl", [{"text": "the film " * 30}, {"text": "film"}])
    return folder


def task_of(*words):
    return flags.task(parser().parse_args(["finetune", "--model", "m", "--out", "o", *map(str, words)]))


def test_files_become_splits(chats, monkeypatch):
    a, b, text = (chats / name for name in ("a.jsonl", "b.jsonl", "text.jsonl"))
    count = lambda task: (len(task.train), len(task.validation))  # noqa: E731
    assert count(task_of("--task", "chat", "--data", a)) == (0, 12)
    assert count(task_of("--task", "chat", "--data", a, b)) == (0, 15)
    assert count(task_of("--task", "chat", "--data", b, "--train-data", a)) == (12, 3)
    assert count(task_of("--task", "chat", "--data", a, "--set-aside", 0.25)) == (9, 3)
    task = task_of("--task", "text", "--data", text, "--documents", "--windows", 2, "--seq-len", 16)
    assert (task.validation.by_document, task.windows, task.max_length) == (True, 2, 16)
    asked = []
    monkeypatch.setattr("jaxprune.tasks.load", lambda name, data, **options: asked.append((name, data, options)))
    task_of("--task", "text", "--data", "hub:org/x:test:en", "--hub-rows", 9, "--train-data", "hub:org/x", text)
    (name, data, options) = asked[0]
    assert data == jp.tasks.Hub("org/x", 9, "test", "en") and name == "text"
    assert options["train"] == [jp.tasks.Hub("org/x", 9), str(text)]


def test_rows_of_the_hub_may_be_calibrated_or_recovered_on(chats, monkeypatch):
    """--hub-rows is theirs, then, also where only one of the two files is asked for."""
    asked, hub = [], jp.tasks.Hub("org/x", 9)
    drawn = jp.Calibration.of_texts(["the film"] * 16)
    task = SimpleNamespace(name="chat", kind="language", calibration=lambda *_, **__: drawn)
    monkeypatch.setattr("jaxprune.tasks.load", lambda *_, **options: asked.append(options["calibration"]) or task)
    model = tiny.random_model(tiny.config("llama"))
    words = ["prune", "--model", "m", "--out", "o", "--remove", "0.2", "--task", "chat", "--data", "x", "--recover"]
    for files in (("hub:org/x", "y"), ("y", "hub:org/x")):
        given = ["--hub-rows", "9", "--calibration-texts", files[0], "--recover-texts", files[1]]
        arguments = parser().parse_args([*words, *given])
        recovery(arguments, flags.task(arguments), model)
    assert asked == [hub, "y", "y", hub]


def test_evaluate_and_prune(chats, cli, tmp_path):
    scored = cli.json("evaluate", "--model", chats / "model", "--task", "chat", "--data", chats / "a.jsonl")
    assert scored.code == 0 and scored.data["metric"] == "perplexity" and scored.data["examples"] == 12
    pruned = cli.json(
        "prune", "--model", chats / "model", "--task", "chat", "--data", chats / "b.jsonl", "--calibration-texts",
        chats / "a.jsonl", "--calibration-samples", 6, "--method", "magnitude", "--remove", 0.2,
        "--out", tmp_path / "x",
    )  # fmt: skip
    assert pruned.code == 0, pruned.data
    record = json.loads((tmp_path / "x" / "jaxprune.json").read_text())
    assert record["calibration"]["count"] == 6 and "calibration: " in record["calibration"]["source"]


@pytest.mark.parametrize("file", ["--calibration-texts", "--recover-texts"])
def test_recovered_by_all_conversations_of_a_file(chats, cli, tmp_path, file):
    words = ("prune", "--model", chats / "model", "--task", "chat", "--data", chats / "b.jsonl", "--set-aside", 0.4)
    words = words[:-2] if file == "--calibration-texts" else words
    cut = ("--calibration-samples", 1, "--method", "magnitude", "--remove", 0.2, "--no-evaluate")
    how = (file, chats / "a.jsonl", "--recover", 2, "--recover-learning-rate", 1e-3, "--recover-batch-size", 4)
    run = cli.json(*words, *cut, *how, "--out", tmp_path / "small")
    assert run.code == 0, run.err
    notes = run.data["recovery"]
    assert notes["texts"] + notes["held_back"] == 12 and "a.jsonl" in notes["source"]
    refused = cli(*words, *cut, *how, "--recover-samples", 13, "--out", tmp_path / "other")
    assert refused.code == 2 and "--recover-samples 13, but chat has 12 training texts" in refused.err


def test_what_is_missing_is_said_in_flags(chats, cli, tmp_path):
    words = ("--model", chats / "model", "--data", chats / "text.jsonl", "--out", tmp_path / "o")
    for task, data, told in (
        (
            "chat",
            "a.jsonl",
            'no texts in split "train"; there are: validation; add train.jsonl to the folder, or set a',
        ),
        ("text", "text.jsonl", 'has no texts in split "train"; there are: validation; name files with --train-data.'),
    ):
        run = cli("finetune", *words[:2], "--task", task, "--data", chats / data, *words[4:])
        assert run.code == 2 and told in run.err, run.err


@pytest.mark.parametrize(
    "words, told",
    [
        (("--task", "sst2", "--set-aside", "0.1"), "--set-aside belongs to --task chat, pairs and images"),
        (("--task", "sst2", "--train-data", "x"), "--train-data belongs to --task text, chat and pairs, not to sst2"),
        (("--task", "chat", "--documents"), "--documents belongs to --task text, not to chat"),
        (("--task", "chat", "--windows", "2"), "--windows belongs to --task text, not to chat"),
        (("--task", "chat", "--data", "x", "--train-data", "y", "--set-aside", "3"), "--train-data and --set-aside"),
        (("--task", "chat", "--data", "hub:org/x"), "say how many are taken with --hub-rows N"),
        (("--task", "chat", "--data", "hub:org/x:a:b:c", "--hub-rows", "3"), "is not understood; write hub:ORG/NAME"),
        (("--task", "chat", "--data", "x", "--hub-rows", "3"), "--hub-rows is for hub:…, which no flag names; name it"),
        (("--task", "sst2", "--hub-rows", "3"), "--hub-rows is for hub:…, which no flag names"),
        (("--task", "sst2", "--data", "x", "y"), "sst2 is read from one folder, got x, y"),
        (("--task", "chat"), "chat needs --data FOLDER"),
        (("--task", "chat", "--data", "nowhere"), "nowhere does not exist"),
    ],
)  # fmt: skip
def test_flags_that_cannot_be_meant(cli, tmp_path, words, told):
    refused = cli("finetune", "--model", "m", "--out", tmp_path / "o", *words)
    assert refused.code == 2 and told in refused.err and refused.err.count("\n") == 1
