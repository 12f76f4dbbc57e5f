"""Flags made from the fields of settings dataclasses, and what was given by them."""

import argparse
import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from ..settings import former_names
from .task_flags import flag

# `seed` is the command's own: it draws the calibration texts and seeds the method.
OWN = frozenset({"seed"})


def add_settings(
    parser: argparse.ArgumentParser, classes: Mapping[str, type], without: frozenset[str] = frozenset()
) -> None:
    """A flag for every field of the settings classes but those `without`; methods that share a field share the flag.

    A flag's help says which methods have it and their defaults. Flags not given leave no trace, so that defaults and
    presets stay where they are defined: in the classes.
    """
    group = parser.add_argument_group("settings of the method")
    fields: dict[str, list[tuple[str, dataclasses.Field[Any], Any]]] = {}
    for name, cls in classes.items():
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            fields.setdefault(field.name, []).append((name, field, hints[field.name]))
    for name, users in fields.items():
        if name in OWN | without:
            continue
        _, field, hint = users[0]
        # None is no value: the help says what it comes to.
        defaults = ", ".join(f"{method}: {_default(field)}" for method, field, _ in users if field.default is not None)
        add_field(group, field, hint, str(field.metadata.get("help", "")) + (f" ({defaults})" if defaults else ""))
    former = {(old, new) for cls in classes.values() for old, new in former_names(cls).items()}
    for old, new in sorted(former):
        _, field, hint = fields[new][0]
        add_field(group, field, hint, argparse.SUPPRESS, name=old)


def settings(arguments: argparse.Namespace, classes: Iterable[type]) -> dict[str, Any]:
    """The settings given on the command line, by field name, or the name that a field had before."""
    known = [*classes]
    names = dict.fromkeys(field.name for cls in known for field in dataclasses.fields(cls))
    names |= dict.fromkeys(old for cls in known for old in former_names(cls))
    return given_by(arguments, [name for name in names if name not in OWN])


def given_by(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else "required"


def add_field(parser: Any, field: dataclasses.Field[Any], hint: Any, help_text: str, name: str | None = None) -> None:
    """A flag for a field, or under another `name`."""
    options: dict[str, Any] = {"help": help_text.replace("%", "%%"), "default": argparse.SUPPRESS}
    kind, name = typing.get_origin(hint), name or field.name
    parts = typing.get_args(hint) if kind in (typing.Union, types.UnionType) else ()  # X | None, X | bool
    if parts:
        hint = next(part for part in parts if part is not types.NoneType)
        kind = typing.get_origin(hint)
    if hint is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif kind is Literal:
        choices = typing.get_args(hint)
        options |= {"choices": choices, "type": type(choices[0])}
        if bool in parts:  # --refit and --no-refit, as short for two of the choices
            options |= {"nargs": "?", "const": True}
            parser.add_argument(
                f"--no-{flag(name)[2:]}", dest=name, action="store_false", default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )  # fmt: skip
    elif kind is tuple:
        options |= {"nargs": "+", "type": typing.get_args(hint)[0], "action": _Tuple}
    elif hint in (int, float, str):
        options |= {"type": hint, "metavar": {int: "N", float: "X", str: "NAME"}[hint]}
    else:
        raise TypeError(f"field {field.name} has type {hint}, which no flag can carry")
    parser.add_argument(flag(name), **options)


class _Tuple(argparse.Action):
    """Stores several values as a tuple, as frozen settings hold them."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, tuple(values or ()))
