import json

import pytest

from jaxprune.cli.main import main
from tests.prune.test_decoders import language_model


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
    assert found["compilation_included"] and found["tokens_per_second"] > 0
    assert main([*arguments, "--prompt", "the film"]) == 0
    assert capsys.readouterr().out.startswith("the film")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to continue; give --prompt TEXT or --prompts FILE."),
        (["--prompts", "no-such-file"], "no-such-file cannot be read (No such file or directory); check --prompts."),
        (["--prompt", ""], "prompt 0 is ''; give a text that is not empty."),
        (["--prompt", "the", "--top-p", "2"], "top_p must lie in (0, 1], got 2.0."),
        (["--prompt", "the", "--max-new-tokens", "99"], "exceed the model's 64 positions"),
    ],
)
def test_errors_are_one_line(folder, arguments, message, capsys):
    assert main(["generate", "--model", folder, *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
