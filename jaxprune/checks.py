"""What settings of every kind have to be, checked where they come in.

Annotations say it once: `check_types` reads those of a settings class, `checked` those of a function's arguments.
"""

import inspect
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import fields
from functools import cache, wraps
from numbers import Real
from types import MappingProxyType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np

from .errors import JaxpruneError, SettingsError

P = ParamSpec("P")
R = TypeVar("R")


def is_whole(value: Any) -> bool:
    """Whether `value` is an integer of Python's or NumPy's; True and False are none."""
    if isinstance(value, (bool, np.bool_)):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def is_number(value: Any) -> bool:
    """Whether `value` is a number of Python's or NumPy's, and not NaN; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_)) and bool(value == value)


def expected(hint: Any, value: Any) -> str | None:
    """What `value` had to be by its annotation, where that is about numbers, truth values or choices; None: it is.

    Of other annotations nothing is known: what has such a type is right.

    >>> expected(int | None, 1.5), expected(Literal["a", "b"], "c"), expected(int | None, None)
    ('a whole number', 'a or b', None)
    """
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        told = [expected(part, value) for part in parts]
        return None if None in told else _either([entry for entry in told if entry])
    if hint is types.NoneType:
        return None if value is None else ""  # left out where something else would do, too
    if hint is bool:
        return None if isinstance(value, (bool, np.bool_)) else "True or False"
    if hint is int:
        return None if is_whole(value) else "a whole number"
    if hint is float:
        return None if is_number(value) else "a number"
    if kind is Literal:
        same = lambda part: isinstance(value, type(part)) and isinstance(value, bool) == isinstance(part, bool)  # noqa: E731
        known = any(same(part) and value == part for part in parts)
        return None if known else _either(list(map(str, parts)))
    if kind in (tuple, Sequence) and parts[:1] != ((),):
        of = "texts" if parts[0] is str else "values"
        if isinstance(value, str):
            return f"a sequence of {of}, got one text; write ({value!r},)."
        if not hasattr(value, "__len__") or not hasattr(value, "__iter__"):
            return f"a sequence of {of}"
        if parts[0] is str:
            return None if all(isinstance(entry, str) for entry in value) else "a sequence of texts"
        if kind is Sequence or parts[-1] is Ellipsis:
            return next((f"a sequence, each {told}" for entry in value if (told := expected(parts[0], entry))), None)
        return None
    if kind is Callable:
        return None if callable(value) else "a function"
    if (
        hint is not Any
        and isinstance(hint, type)
        and not typing.is_typeddict(hint)
        and not getattr(hint, "_is_protocol", False)
    ):
        return None if isinstance(value, hint) else f"a {hint.__name__}"
    return None


def _either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _check(name: str, hint: Any, value: Any, error: type[JaxpruneError]) -> None:
    if name == "seed" and value is not None:
        check_seed(value)
        return
    told = expected(hint, value)
    if told is not None:
        raise error(f"{name} must be {told}" + ("" if told.endswith(".") else f", got {in_short(value)}."))


def in_short(value: Any) -> str:
    """A value in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


@cache
def _hints(settings: type) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(settings)
    except Exception:  # of a class of another package, whose annotations are texts that say nothing here
        return {}


def check_types(settings: Any, error: type[JaxpruneError] = SettingsError) -> None:
    """Raise `error` for a field of a settings dataclass that is not of the type it is annotated with, naming it.

    Strings, fractions, truth values and NaN where a count or a number is meant would else be noticed late, by what has
    another name, or not at all: "false" is true.
    """
    hints = _hints(type(settings))
    for field in fields(settings):
        if _is_checked(hints.get(field.name), texts=True):
            _check(field.name, hints[field.name], getattr(settings, field.name), error)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator of a public function: `SettingsError` for an argument of another type than its annotation's.

    Of annotations that are about numbers and truth values, as `check_types`; what else they say is for the function.
    """
    signature = inspect.signature(function)
    hints = {name: entry.annotation for name, entry in signature.parameters.items()}
    hints = {name: hint for name, hint in hints.items() if _is_checked(hint, texts=False)}

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind_partial(*args, **kwargs).arguments
        except TypeError:  # which the call says better
            given = {}
        for name in hints.keys() & given.keys():
            _check(name, hints[name], given[name], SettingsError)
        return function(*args, **kwargs)

    return call


def _is_checked(hint: Any, texts: bool) -> bool:
    """Whether an annotation is about numbers, truth values, choices or lists of them, or also of `texts`.

    Where a text or a path may stand in a number's place, what has that argument tells them apart in words of its own.
    """
    kind, parts = get_origin(hint), get_args(hint)
    if hint in (int, float, bool) or kind is Literal:
        return True
    if kind in (Callable, Mapping, dict):
        return False
    if kind in (Union, types.UnionType) and (str in parts or (not texts and any(map(_of_texts, parts)))):
        return False
    lists = texts and kind in (tuple, Sequence) and str in parts
    return lists or any(_is_checked(part, texts) for part in parts)


def _of_texts(hint: Any) -> bool:
    """Whether an annotation is that of a sequence of texts."""
    return get_origin(hint) in (tuple, Sequence) and str in get_args(hint)


# What to pass for an argument of these classes, by name: rooms below know them. Others are called themselves.
_PASS = {
    "Model": "what jp.load gives",
    "Task": "what jp.tasks.folder, jp.tasks.text or another of jp.tasks gives",
    "Calibration": "task.calibration(512), Calibration.of_texts(texts) or Calibration.of_ids(ids, mask)",
}


def check_given(**given: tuple[Any, Any]) -> None:
    """Raise `SettingsError` for an argument, by name, that is not of the class beside it, saying what to pass.

    The class may be one that None is allowed beside, such as `Model | None`.
    """
    for name, (value, kind) in given.items():
        if not isinstance(value, kind):
            wanted, *others = get_args(kind) or (kind,)
            came = in_short(value) if value is None or isinstance(value, (bool, Real)) else f"a {type(value).__name__}"
            cure = _PASS.get(wanted.__name__, f"jp.{wanted.__name__}(…)") + (", or leave it out" if others else "")
            raise SettingsError(f"{name} is {came}; pass {cure}.")


def is_in_order(given: Any) -> bool:
    """Whether `given` holds values one after another; a set or mapping does not, nor a table, which iterates names."""
    unordered = isinstance(given, (str, bytes, Mapping, Set)) or not isinstance(given, Iterable)
    return not unordered and getattr(given, "ndim", 1) == 1


def check_seed(seed: Any) -> None:
    """Raise `SettingsError` unless `seed` is a whole number that NumPy's and JAX's generators both take."""
    if not is_whole(seed) or not 0 <= int(seed) < 2**32:
        raise SettingsError(f"seed is {seed!r}, expected an integer from 0 to {2**32 - 1}.")


def check_counts(settings: Any, least: int, *names: str) -> None:
    """Raise `SettingsError` unless these fields are whole numbers of at least `least`; None, left open, passes."""
    for name in names:
        value = getattr(settings, name)
        _check(name, int | None, value, SettingsError)
        if value is not None and value < least:
            raise SettingsError(f"{name} must be at least {least}, got {value}.")


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
