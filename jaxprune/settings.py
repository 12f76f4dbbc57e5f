"""What the settings of every method share: presets, which have a name, and the names that fields had before."""

import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Protocol, TypeVar, runtime_checkable

from .errors import SettingsError

Settings = TypeVar("Settings", bound="Presets")
Class = TypeVar("Class", bound=type)


@runtime_checkable
class Presets(Protocol):
    """Settings of which some have a name: `KPrune.preset("published")`, `Recap.preset("kprune")`."""

    @classmethod
    def presets(cls: type[Settings]) -> dict[str, Settings]:
        """Named settings beside the default, such as a paper's own."""
        return {}

    @classmethod
    def preset(cls: type[Settings], name: str) -> Settings:
        """The settings of that name; "default" are those of the class. Raises `SettingsError`, naming those there are.

        Change single ones with `dataclasses.replace`.
        """
        known = {"default": cls(), **cls.presets()}
        if name not in known:
            raise SettingsError(f"{cls.__name__} has no preset {name!r}; use one of {', '.join(known)}.")
        return known[name]


# --- names that fields had before: taken for one release, with a warning


class FormerName(FutureWarning):
    """Something was asked for by the name that it had in an earlier release."""


def formerly(**names: str) -> Callable[[Class], Class]:
    """A decorator of a settings dataclass: `@formerly(repair="refit")` also takes `refit` under its old name, `repair`.

    Given so, it is a warning (`FormerName`); given by both names, a `SettingsError`.
    """

    def decorate(cls: Class) -> Class:
        init: Any = cls.__init__

        @wraps(init)
        def __init__(self: Any, *args: Any, **given: Any) -> None:
            both = [old for old, new in names.items() if old in given and new in given]
            if both:
                raise SettingsError(
                    f"{both[0]} is called {names[both[0]]} now, which is given too; leave {both[0]} out."
                )
            init(self, *args, **{in_new_name(cls, name, stacklevel=4): value for name, value in given.items()})

        cls.__init__ = __init__
        cls.former_names = names  # type: ignore[attr-defined]
        for old, new in names.items():
            setattr(cls, old, property(lambda self, new=new: getattr(self, new)))
        return cls

    return decorate


def former_names(cls: type) -> Mapping[str, str]:
    """The fields of a settings class that had another name before: {old: new}."""
    return getattr(cls, "former_names", {})


def in_new_name(cls: type, name: str, stacklevel: int = 2) -> str:
    """The name of a field that was given by `name`, with a warning where that is an old one."""
    new = former_names(cls).get(name)
    if new is None:
        return name
    told = f"{cls.__name__}: {name} is called {new} now; the next release will not know the old name."
    warnings.warn(told, FormerName, stacklevel=stacklevel)
    return new


# What a run that is to go on may have written before, by the name of its setting: the present name and values.
_FORMER_SETTINGS: Mapping[str, tuple[str, Mapping[Any, Any]]] = {
    "repair": ("refit", {}),
    "refit": ("refit", {True: "weights", False: "none"}),
    "share_of": ("cost", {}),
}


def settings_as_now(written: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings as an earlier version wrote them, in a record or a run's fingerprint, by their present names and values.

    >>> settings_as_now({"repair": "weights", "seed": 0}), settings_as_now({"refit": False})
    ({'refit': 'weights', 'seed': 0}, {'refit': 'none'})
    """
    renamed = {}
    for key, value in written.items():
        name, values = _FORMER_SETTINGS.get(key.removeprefix(prefix), (None, {}))
        if name is None or not key.startswith(prefix):
            renamed[key] = value
        else:
            renamed[prefix + name] = values.get(value, value) if isinstance(value, bool) else value
    return renamed
