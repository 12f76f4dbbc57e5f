"""What commands say of a checkpoint that Python would be told in its own words."""

import json
from typing import Any

import pytest

from jaxprune.cli import flags
from jaxprune.cli.finetune import load_for
from jaxprune.cli.main import COMMANDS, parser
from jaxprune.jsonio import dumps
from tests.cli.conftest import write_model


@pytest.fixture
def model(tmp_path):
    """model(**changes) -> a checkpoint whose config.json has these settings beside its own, as text."""

    def make(**changes) -> str:
        folder = tmp_path / "model"
        write_model(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(dumps(config | changes))
        return str(folder)

    return make


def test_unknown_settings_are_ignored_by_a_flag_that_the_error_names(cli, model):
    folder = model(talking_heads=3, use_mrope=True)
    run = cli("inspect", "--model", folder)
    assert run.code == 2 and run.err.count("\n") == 1
    assert "talking_heads = '3', use_mrope = 'True' are not known" in run.err
    assert "--ignore-config-key talking_heads use_mrope" in run.err and "ignore_config_keys" not in run.err
    run = cli("inspect", "--model", folder, "--ignore-config-key", "talking_heads", "use_mrope")
    assert run.code == 0 and "talking_heads = '3' was ignored, as asked" in run.err


def test_every_command_that_loads_a_model_has_the_flag():
    commands: Any = next(action for action in parser()._actions if action.dest == "command").choices
    assert len(commands) == len(COMMANDS)
    flags = {
        name: {flag for action in command._actions for flag in action.option_strings}
        for name, command in commands.items()
    }
    assert all(("--ignore-config-key" in own) == ("--model" in own) for own in flags.values())


@pytest.mark.parametrize("command", ["evaluate", "prune"])
def test_no_command_advises_an_argument_of_python(cli, inputs, model, tmp_path, command):
    folder = model(architectures=["BertForMultipleChoice"])
    more = ("--remove", "0.5", "--out", tmp_path / "out") if command == "prune" else ()
    run = cli(command, "--model", folder, "--task", "text-classification", "--data", inputs.data, *more)
    assert run.code == 2 and "names a class whose head is not supported" in run.err
    assert "head=" not in run.err and "jp." not in run.err


def test_fine_tuning_draws_a_head_where_the_checkpoint_has_one_of_another_kind(inputs, model):
    folder = model(architectures=["BertForTokenClassification"])
    words = [
        "finetune",
        "--model",
        folder,
        "--task",
        "text-classification",
        "--data",
        inputs.data,
        "--out",
        "unwritten",
    ]
    arguments = parser().parse_args(words)
    tuned = load_for(flags.task(arguments), arguments)
    assert tuned.architecture.head == "classification" and tuned.architecture.labels == ("0", "1")
    assert any("no weights for the classification head" in warning for warning in tuned.provenance.warnings)
