"""Tables of settings, made from the fields of their dataclasses and the help that these carry."""

import dataclasses
import types
import typing
from typing import Any, Literal


def settings_table(cls: type) -> str:
    """One row a field: name, what it may be, its default, its help."""
    hints = typing.get_type_hints(cls)
    rows = ["| setting | values | default | what it does |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(cls):
        words = cell(str(field.metadata.get("help", "")))
        rows.append(f"| `{field.name}` | {values(hints[field.name])} | {default(field)} | {words} |")
    return "\n".join(rows)


def presets_table(cls: Any) -> str:
    """One row a preset: its name, and the settings in which it differs from the default."""
    plain = cls()
    rows = ["| preset | settings that differ from the default |", "| --- | --- |"]
    for name, preset in cls.presets().items():
        pairs = [(field.name, getattr(preset, field.name)) for field in dataclasses.fields(cls)]
        changed = ", ".join(f"`{key}={value!r}`" for key, value in pairs if value != getattr(plain, key))
        rows.append(f"| `{name}` | {changed} |")
    return "\n".join(rows)


def values(hint: Any) -> str:
    """A type as a reader would say it: the choices of a Literal, else the type's name."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(values(part) for part in typing.get_args(hint) if part is not types.NoneType)
    if typing.get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"several {values(typing.get_args(hint)[0])}"
    return {bool: "yes or no", int: "whole number", float: "number", str: "text"}.get(hint, f"`{hint}`")


def default(field: Any) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    return "depends" if field.default is None else f"`{field.default!r}`"


def cell(text: str) -> str:
    """A text that a table's cell can hold."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
