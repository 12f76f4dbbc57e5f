import argparse
import dataclasses
import importlib
from typing import Any, Literal

import pytest

from jaxprune.cli import flags
from jaxprune.cli.main import COMMANDS, parser
from jaxprune.pruning.by_name import METHODS, method_of


def option(default, text="help, 50 % of it"):
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True, kw_only=True)
class First:
    ridge: float = option(1e-3)
    refit: bool = option(True)
    order: Literal["up", "down"] = option("up")
    passes: int | None = option(None)
    ridges: tuple[float, ...] = option((0.1,))
    seed: int = option(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Second:
    ridge: float = option(0.5)


def parse(*words):
    words_parser = argparse.ArgumentParser()
    flags.add_settings(words_parser, {"first": First, "second": Second})
    return flags.settings(words_parser.parse_args(words), [First, Second])


def commands() -> dict[str, Any]:
    """The parsers of all commands, by name."""
    actions: Any = parser()._subparsers
    return actions._group_actions[0].choices


def test_only_what_is_given_is_set():
    assert parse() == {}
    assert parse("--ridge", "2") == {"ridge": 2.0}
    assert parse("--no-refit", "--order", "down") == {"refit": False, "order": "down"}
    assert parse("--passes", "3", "--ridges", "1", "2") == {"passes": 3, "ridges": (1.0, 2.0)}


def test_help_names_methods_and_defaults(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "50 % of it (first: 0.001, second: 0.5)" in shown


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_every_method_has_a_help_and_a_flag(name):
    """And a method built from no flags is the class's default."""
    known = set(commands()["prune"]._option_string_actions)
    for field in dataclasses.fields(METHODS[name]):
        assert field.metadata.get("help"), field.name
        assert flags.flag(field.name) in known
    assert method_of(name) == METHODS[name]()


def test_kprune_has_the_published_preset():
    published = METHODS["kprune"].preset("published")
    assert published != METHODS["kprune"]()
    assert method_of("kprune:published") == published


def test_every_command_takes_json():
    assert len(commands()) == len(COMMANDS)
    for command in commands().values():
        assert "--json" in command._option_string_actions


@pytest.mark.parametrize("name, place", [("finetune", 0), ("recap", 1)])
def test_weights_are_trained_to_be_scored_in_the_type_that_they_are_saved_in(name, place):
    command = importlib.import_module(f"jaxprune.cli.{name}")
    words = ["--model", "m", "--task", "sst2", "--out", "o", "--save-dtype", "bfloat16"]
    arguments = commands()[name].parse_args(words)
    assert command._settings(arguments)[place].result_dtype == "bfloat16"
    assert "--result-dtype" not in commands()[name]._option_string_actions
