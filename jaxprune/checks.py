"""What settings of every kind have to be, checked where they come in."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from .errors import SettingsError


def is_whole(value: Any) -> bool:
    """Whether `value` is an integer of Python's or NumPy's; True and False are none."""
    return not isinstance(value, bool) and hasattr(value, "__index__")


def check_seed(seed: Any) -> None:
    """Raise `SettingsError` unless `seed` is a whole number that NumPy's and JAX's generators both take."""
    if not is_whole(seed) or not 0 <= int(seed) < 2**32:
        raise SettingsError(f"seed is {seed!r}, expected an integer from 0 to {2**32 - 1}.")


def check_counts(settings: Any, least: int, *names: str) -> None:
    """Raise `SettingsError` unless these fields are whole numbers of at least `least`; None, left open, passes."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not is_whole(value):
            raise SettingsError(f"{name} must be a whole number, got {value!r}.")
        if value is not None and value < least:
            raise SettingsError(f"{name} must be at least {least}, got {value}.")


def check_texts(settings: Any, *names: str) -> None:
    """Raise `SettingsError` where one of these fields, sequences of texts, is a single text."""
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, str):
            raise SettingsError(f"{name} must be a sequence of texts, got one text; write ({value!r},).")


def check_effect(
    settings: Any, names: Sequence[str], where: str, apart: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Raise `SettingsError` where one of these fields was given, though it does nothing `where`.

    Given is what differs from the field's default and, for presets, from its value in `apart`. Where the default itself
    would mislead, fields are None by default: what the method chooses.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in names and value != field.default and value != apart.get(field.name, field.default):
            raise SettingsError(f"{field.name} ({value}) has no effect {where}; leave it out.")
