"""A language model as a GGUF file on the command line."""

import pytest

pytest.importorskip("gguf", reason="GGUF files are written by the package gguf")

from tests.helpers import tiny
from tests.helpers.gguf_reader import read_gguf


def test_a_folder_becomes_a_file(cli, tmp_path):
    settings = tiny.config("llama", "causal_lm", hidden_size=32, num_attention_heads=4, num_key_value_heads=4)
    tiny.write(tmp_path / "model", settings, tiny.tensors(settings))
    words = ("--model", tmp_path / "model", "--format", "gguf", "--out", tmp_path / "out")
    run = cli.json("export", *words, "--dtype", "q8_0")
    assert (run.code, run.data["format"], run.data["dtype"]) == (0, "gguf", "q8_0")
    assert run.data["config"]["architectures"] == ["llama"] and run.data["bytes"] > 0
    assert "has no tokenizer" in run.data["warnings"][0] and "round_to=32" in run.data["warnings"][1]
    assert read_gguf(tmp_path / "out" / "model.gguf").types["token_embd.weight"] == "Q8_0"
    assert cli("export", *words).code == 2  # the folder exists
    again = cli("export", *words, "--overwrite")
    assert again.code == 0 and "llama" in again.out


def test_what_does_not_go_together_is_named(cli, inputs, tmp_path):
    words = ("export", "--model", inputs.model, "--out", tmp_path / "out")
    for more, says in (
        (("--format", "gguf"), "a GGUF file holds a language model"),
        (("--dtype", "q8_0"), "dtype is 'q8_0', expected one of float32, bfloat16, float16"),
        (("--format", "gguf", "--int8"), "int8 (True) has no effect with format 'gguf'"),
        (("--format", "onnx", "--dtype", "float16"), "dtype (float16) has no effect with format 'onnx'"),
    ):
        run = cli(*words, *more)
        assert run.code == 2 and says in run.err, run.err
    assert not (tmp_path / "out").exists()
