"""Methods by name: ours, and those that installed packages name in the entry-point group `jaxprune.methods`.

A package says in its pyproject.toml

    [project.entry-points."jaxprune.methods"]
    smallest = "their_package.pruning:Smallest"

where `Smallest` is a `Method` (`method.py`). Nothing of it is imported before it is asked for.
"""

import dataclasses
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from ..errors import SettingsError
from ..settings import in_new_name
from .method import PARTS, Method, check_method
from .methods import OURS

METHODS: Mapping[str, Any] = MappingProxyType({cls.name: cls for cls in OURS})
GROUP = "jaxprune.methods"


def installed() -> dict[str, list[EntryPoint]]:
    """What other packages offer, by name; not loaded."""
    offered: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        offered.setdefault(entry.name, []).append(entry)
    return offered


def method_names() -> list[str]:
    """Ours first, then those of other packages."""
    return [*METHODS, *sorted(installed().keys() - METHODS.keys())]


def method_class(name: str) -> Any:
    """The class of a method, a `type[Method]`.

    Raises `SettingsError` for a name that is not known or that several have, and for what another package offers but
    cannot be loaded, or is no method; it names the package.
    """
    offered = installed().get(name, [])
    if name in METHODS:
        if offered:
            raise SettingsError(
                f"{_package(offered[0])} offers a method {name!r}, which is one of jaxprune's own; uninstall it, or "
                f"pass settings, such as {METHODS[name].__name__}(), in place of the name."
            )
        return METHODS[name]
    if not offered:
        raise SettingsError(f"method {name!r} is unknown; use one of {', '.join(method_names())}.")
    if len(offered) > 1:
        raise SettingsError(
            f"{' and '.join(map(_package, offered))} both offer a method {name!r}; uninstall one, or pass settings in "
            "place of the name."
        )
    (entry,) = offered
    try:
        cls: Any = entry.load()
    except Exception as error:  # whatever importing another's code raises
        line = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise SettingsError(
            f"method {name!r} of {_package(entry)} cannot be loaded ({line}); mend or uninstall it."
        ) from error
    if isinstance(cls, type) and dataclasses.is_dataclass(cls) and all(hasattr(cls, part) for part in PARTS):
        return cls
    raise SettingsError(f"method {name!r} of {_package(entry)} is no dataclass that inherits from Method; tell them.")


def method_of(given: Any) -> Method:
    """A method from settings, or from a name: "kprune", "kprune:published" for a preset of it.

    Raises `SettingsError`.
    """
    if isinstance(given, str):
        name, _, preset = given.partition(":")
        return method_class(name).preset(preset or "default")
    check_method(given)
    return given


def changed(method: Method, **changes: Any) -> Method:
    """The method with single settings changed. Raises `SettingsError` for one that it does not have."""
    fields = [field.name for field in dataclasses.fields(method)]  # type: ignore[arg-type]  # a dataclass
    changes = {in_new_name(type(method), name): value for name, value in changes.items()}
    for change in changes:
        if change not in fields:
            raise SettingsError(f"{change} is not a setting of {method.name}; it has: {', '.join(fields) or 'none'}.")
    return dataclasses.replace(method, **changes)  # type: ignore[type-var]


def label_of(method: Method) -> str:
    """A method's name as tables have it: with its preset, or with the settings that are not the default."""
    cls: Any = type(method)
    for name, preset in cls.presets().items():
        if method == preset:
            return f"{method.name}:{name}"
    default = cls()
    others = [
        f"{field.name}={getattr(method, field.name)}"
        for field in dataclasses.fields(method)  # type: ignore[arg-type]
        if getattr(method, field.name) != getattr(default, field.name)
    ]
    return ", ".join([method.name, *others])


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else f"an unknown package ({entry.value})"
