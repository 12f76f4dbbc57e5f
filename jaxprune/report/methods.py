"""The pruning methods by name, as data: where each lives, and its settings."""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import SettingsError
from ..model import Model
from ..pruning.budget import Budget


class Entry(NamedTuple):
    """Module, function and settings class of a method; imported only when asked for."""

    module: str
    function: str
    settings: str


METHODS: Mapping[str, Entry] = MappingProxyType(
    {
        "kprune": Entry("jaxprune.pruning.methods.kprune", "kprune", "KPrune"),
        "fisher": Entry("jaxprune.pruning.methods.fisher", "fisher", "Fisher"),
        "magnitude": Entry("jaxprune.pruning.methods.magnitude", "magnitude", "Magnitude"),
        "flap": Entry("jaxprune.pruning.methods.flap", "flap", "Flap"),
        "taylor": Entry("jaxprune.pruning.methods.taylor", "taylor", "Taylor"),
        "random": Entry("jaxprune.pruning.methods.random", "random_prune", "Random"),
    }
)


COMPARED = ("kprune", "fisher", "magnitude", "random")  # by default: those that serve every kind of model


class Method(NamedTuple):
    """A method with its settings, ready to run."""

    name: str
    settings: Any

    def run(
        self,
        model: Model,
        calibration: Any,
        budgets: Sequence[Budget],
        seed: int | None = None,
        on_step: Any = None,
        **where: Any,
    ) -> list[Model]:
        """One pruned model per budget, from one measuring pass. `seed` replaces the settings' own, if they have one.

        `where`: mesh, stream, keep_bytes, and for methods that measure once, out and resume: see `kprune`.
        """
        entry = METHODS[self.name]
        function = getattr(importlib.import_module(entry.module), entry.function)
        settings = self.settings
        if seed is not None and any(field.name == "seed" for field in dataclasses.fields(settings)):
            settings = dataclasses.replace(settings, seed=seed)
        return list(function(model, calibration, list(budgets), settings, on_step=on_step, **where))

    @property
    def group(self) -> int | None:
        """How many calibration texts have a batch of their own; None: batches are filled up."""
        return getattr(self.settings, "group", None)

    @property
    def measures_once(self) -> bool:
        """Whether the method's measurement can be kept in a folder, to resume from."""
        return getattr(self.settings, "measures_once", False)


def settings_class(name: str) -> type:
    """The frozen dataclass of a method's settings. Raises `SettingsError` for an unknown method."""
    if name not in METHODS:
        raise SettingsError(f"method {name!r} is unknown; use one of {', '.join(METHODS)}.")
    entry = METHODS[name]
    return getattr(importlib.import_module(entry.module), entry.settings)


def presets(name: str) -> dict[str, Any]:
    """Named settings of a method, from its class's `presets`; every method has "default"."""
    cls: Any = settings_class(name)
    named = cls.presets() if hasattr(cls, "presets") else {}
    return {"default": cls(), **named}


def method(name: str, preset: str | None = None, **changes: Any) -> Method:
    """A method from its name, a preset and changes to single settings.

    Raises `SettingsError` for an unknown method, preset or setting, naming those there are.
    """
    known = presets(name)
    if preset is not None and preset not in known:
        raise SettingsError(f"{name} has no preset {preset!r}; use one of {', '.join(known)}.")
    settings = known[preset or "default"]
    fields = [field.name for field in dataclasses.fields(settings)]
    for change in changes:
        if change not in fields:
            raise SettingsError(f"{change} is not a setting of {name}; it has: {', '.join(fields) or 'none'}.")
    return Method(name, dataclasses.replace(settings, **changes))
