"""Masked language models on the command line: pruned and trained on running text in one run."""

import pytest

from tests.helpers import tiny
from tests.helpers.tokenizers import WORDS, write_bert

COMMANDS = {
    "recap": ("recap", "--rounds", 1, "--remove", 0.3, "--samples", 8),
    "prune-lora": ("finetune", "--method", "prune-lora", "--remove-heads", 0.34, "--samples", 8, "--epochs", 1,
                   "--high-blocks", 1, "--high-rank", 2, "--low-rank", 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BERT with the head of its pre-training, in "model", and text that it knows."""
    root = tmp_path_factory.mktemp("masked")
    settings = tiny.config("bert", "masked_lm", vocab_size=len(WORDS), max_position_embeddings=90)
    write_bert(tiny.write(root / "model", settings, tiny.tensors(settings)))
    for name in ("train.txt", "test.txt"):
        (root / name).write_text("film cafe films film cafe films cafe film " * 20, encoding="utf-8")
    return root


@pytest.mark.parametrize("command", COMMANDS)
def test_a_masked_model_is_pruned_and_trained_on_text(command, cli, folder, tmp_path):
    data = ("--task", "text", "--data", folder / "test.txt", "--seq-len", 12, "--windows", 1)
    training = ("--train-data", folder / "train.txt", "--batch-size", 8, "--mask-share", 0.3)
    verb, *settings = COMMANDS[command]
    run = cli.json(verb, "--model", folder / "model", *data, *training, *settings, "--out", tmp_path / "small")
    assert run.code == 0, run.err
    assert run.data["metric"] == "perplexity" and run.data["masked_vs_cut"] < 1e-5
    again = cli.json("evaluate", "--model", tmp_path / "small", *data)
    assert again.data["score"] == pytest.approx(run.data["score"], rel=1e-5)
