"""The page of the command line, made from the parsers themselves."""

import argparse
from typing import Any

from docs.generate.settings import cell


def commands() -> str:
    """Every command with its flags, as its parser has them."""
    from jaxprune.cli.main import parser

    parts = []
    for name, command in subparsers(parser()).items():
        parts += [f"## jaxprune {name}", (command.description or "").strip()]
        for group in command._action_groups:
            actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
            if actions:
                parts += [f"**{group.title}**", flags_table(actions)]
    return "\n\n".join(parts)


def subparsers(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


def flags_table(actions: list[Any]) -> str:
    rows = ["| flag | what it does |", "| --- | --- |"]
    for action in actions:
        rows.append(f"| `{spelled(action)}`{' (required)' if action.required else ''} | {cell(help_of(action))} |")
    return "\n".join(rows)


def spelled(action: Any) -> str:
    """A flag with what it takes: --remove X [X …]."""
    names = ", ".join(action.option_strings) or action.dest
    if action.nargs == 0:
        return names
    word = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper())
    return f"{names} {word} [{word} …]" if action.nargs in ("+", "*") else f"{names} {word}"


def help_of(action: Any) -> str:
    return (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
