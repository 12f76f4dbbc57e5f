import json

import pytest

from jaxprune.cli.main import main
from tests.pruning.test_decoders import language_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("speaker") / "model"
    language_model(path, "llama")
    return str(path)


def test_prompts_are_continued(folder, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("the film\n\na book was\n")
    arguments = ["generate", "--model", folder, "--max-new-tokens", "5", "--quiet"]
    assert main([*arguments, "--prompt", "the film", "--prompts", str(tmp_path / "prompts.txt"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["prompt"] for entry in found["texts"]] == ["the film", "the film", "a book was"]
    assert found["texts"][0]["text"] == found["texts"][1]["text"] and found["tokens"] <= 15
    assert found["tokens_per_second"] > 0 and found["compile_seconds"] > 0
    assert found["tokens"] == sum(len(entry["ids"]) for entry in found["texts"])
    assert main([*arguments, "--prompt", "the film"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("the film" + found["texts"][0]["text"]) and "tokens per second" in out


def test_the_same_seed_draws_the_same_texts(folder, capsys):
    hot = ["generate", "--model", folder, "--prompt", "the", "--max-new-tokens", "8", "--temperature", "3", "--json"]
    texts = []
    for seed in ("0", "0", "1"):
        assert main([*hot, "--top-k", "20", "--top-p", "0.99", "--seed", seed]) == 0
        texts.append(json.loads(capsys.readouterr().out)["texts"][0]["text"])
    assert texts[0] == texts[1] != texts[2]


def test_end_tokens_are_flags(folder, capsys):
    asked = ["generate", "--model", folder, "--prompt", "the film", "--max-new-tokens", "5", "--json"]
    assert main(asked) == 0
    first = json.loads(capsys.readouterr().out)["texts"][0]
    token, number = first["text"].split()[0], first["ids"][0]
    for flags in (["--end-token", token], ["--end-id", str(number)]):
        assert main([*asked, *flags]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["texts"][0]["ids"] == [number] and found["texts"][0]["ended"]
        assert found["end_tokens"] == [token if flags[0] == "--end-token" else number]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "the", "--end-token", "cinema"], "the tokenizer has no token 'cinema'; name an end token"),
        (
            ["--prompt", "the", "--max-new-tokens", "9", "--end-id", "99"],
            "end_ids has 99, which is no token: the model's embedding has 26 rows.",
        ),
        ([], "there is nothing to continue; give --prompt TEXT or --prompts FILE."),
        (["--prompts", "no-such-file"], "no-such-file cannot be read: No such file or directory; check the path."),
        (["--prompt", ""], "prompt 0 is ''; give a text that is not empty."),
        (["--prompt", "the", "--temperature", "1", "--top-p", "2"], "--top-p must lie in (0, 1], got 2.0."),
        (["--prompt", "the", "--temperature", "-1"], "temperature must be a number of at least 0, got -1.0."),
        (["--prompt", "the", "--temperature", "1", "--top-k", "0"], "--top-k must be at least 1, got 0."),
        (["--prompt", "the", "--max-new-tokens", "0"], "--max-new-tokens must be at least 1, got 0."),
        (["--prompt", "the", "--max-new-tokens", "99"], "exceed the model's 64 positions"),
    ],
)
def test_errors_are_one_line(folder, arguments, message, capsys):
    assert main(["generate", "--model", folder, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err and err.count("\n") == 1


def test_a_model_that_cannot_speak(inputs, capsys):
    assert main(["generate", "--model", inputs.model, "--prompt", "the film"]) == 2
    assert "generating needs a causal_lm head, the model has classification" in capsys.readouterr().err
