"""A classifier on a decoder by the commands alone, from a language model to a pruned folder that transformers reads."""

import pytest

import jaxprune as jp
from tests.helpers.decoders import language_model


@pytest.mark.slow
def test_every_command_takes_a_classifier_on_a_decoder(cli, tmp_path, inputs):
    model, tuned, small = (str(tmp_path / name) for name in ("model", "tuned", "small"))
    language_model(tmp_path / "model", "llama")
    data = ("--task", "text-classification", "--data", inputs.data)
    run = cli.json("finetune", "--model", model, *data, "--epochs", 1, "--out", tuned, "--batch-size", 16)
    assert run.code == 0, run.data
    assert run.data["task"] and not any("fine-tune first" in said for said in run.data["warnings"])
    run = cli.json("evaluate", "--model", tuned, *data)
    assert run.code == 0 and run.data["metric"] == "accuracy", run.data
    run = cli.json("plan", "--model", tuned, *data, "--remove", 0.4, "--calibration-samples", 16)
    assert run.code == 0, run.data
    run = cli.json("prune", "--model", tuned, *data, "--remove", 0.4, "--calibration-samples", 16, "--out", small)
    assert run.code == 0, run.data
    run = cli.json("inspect", "--model", small)
    assert run.code == 0 and run.data["head"] == "classification", run.data
    run = cli.json("bench", "--model", small, "--dense", tuned, "--shapes", "2x8", "--repeats", 1)
    assert run.code == 0, run.data
    run = cli.json("export", "--model", small, "--out", tmp_path / "out", "--fill-zeros")
    assert run.code == 0 and run.data["config"]["architectures"] == ["LlamaForSequenceClassification"], run.data
    assert any("names no pad_token_id" in said for said in run.data["warnings"])
    assert jp.load(tmp_path / "out").architecture.labels == jp.load(model, labels=["0", "1"]).architecture.labels
