"""Causal language models on the command line: trained on running text and conversations, and pruned on text."""

import json

import pytest

from tests.helpers.chat import chat_model, turns, write_rows
from tests.helpers.decoders import language_model

QUICK = ("--epochs", 1, "--batch-size", 8, "--learning-rate", 1e-2, "--dropout", 0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tiny Llamas, "model" and "chat", with texts that they know."""
    root = tmp_path_factory.mktemp("language")
    language_model(root / "model", "llama")
    chat_model(root / "chat")
    (root / "train.txt").write_text("the film was good and the plot was dull " * 30)
    (root / "valid.txt").write_text("the plot was good and the film was dull " * 6)
    rows = [{"messages": turns(f"q {number}", "the film")} for number in range(12)]
    write_rows(root / "chat.jsonl", rows)
    return root


def scored_again(cli, out, run, *data):
    """The folder's own score is the one that the run told."""
    assert run.code == 0, run.err
    again = cli.json("evaluate", "--model", out, *data)
    assert run.data["metric"] == again.data["metric"] == "perplexity"
    assert again.data["score"] == pytest.approx(run.data["score"], rel=1e-5)


def test_trained_on_text(cli, folder, tmp_path):
    data = ("--task", "text", "--data", folder / "valid.txt", "--seq-len", 16)
    words = ("--model", folder / "model", *data, "--train-data", folder / "train.txt", "--method", "lora")
    before = cli.json("evaluate", "--model", folder / "model", *data).data["score"]
    run = cli.json("finetune", *words, *QUICK, "--out", tmp_path / "tuned")
    scored_again(cli, tmp_path / "tuned", run, *data)
    assert run.data["score"] < before


def test_trained_on_conversations(cli, folder, tmp_path):
    data = ("--task", "chat", "--data", folder / "chat.jsonl", "--set-aside", 4)
    run = cli.json("finetune", "--model", folder / "chat", *data, *QUICK, "--out", tmp_path / "tuned")
    scored_again(cli, tmp_path / "tuned", run, *data)
    training = json.loads((tmp_path / "tuned" / "jaxprune.json").read_text())["training"]
    assert training["texts"] == 8 and training["method"] == "full"


def test_pruned_and_trained_in_rounds(cli, folder, tmp_path):
    data = ("--task", "text", "--data", folder / "valid.txt", "--seq-len", 16)
    words = ("--model", folder / "model", *data, "--train-data", folder / "train.txt", "--rounds", 1, "--remove", 0.3)
    how = ("--batch-size", 8, "--samples", 8, "--dropout", 0.0)
    run = cli.json("recap", *words, *how, "--out", tmp_path / "small")
    scored_again(cli, tmp_path / "small", run, *data)
    assert run.data["masked_vs_cut"] < 1e-5 and 0.2 < run.data["removed"]["params"] < 0.5
