"""What a pruning method is: a frozen dataclass of settings that can prune. Those of other packages are no different."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from ..checks import check_types
from ..errors import SettingsError
from ..model.architecture import Architecture
from ..model.model import Model
from ..settings import Presets
from .budget import Budget
from .run import Run

AnyMethod = TypeVar("AnyMethod", bound="Method")


@runtime_checkable
class Method(Presets, Protocol):
    """The settings of a pruning method, and the method: a frozen dataclass, its fields with a help, and `prune`.

    Inherit from this class: what a method leaves out is then as written here, and `name` and `prune` are enough. Any
    other class that has all of it is a method too. Its `presets` are those of `Presets`; a field called `seed` is set
    by whoever draws calibration texts with several seeds.

    The fields' help, `field(metadata={"help": …})`, is that of the flags on the command line, where a method of another
    package is known by the entry point that names it, in the group `jaxprune.methods`.
    """

    name: ClassVar[str]  # as records, tables and the command line have it

    @property
    def measures_once(self) -> bool:
        """Whether one measurement (`Run.once`) serves all that follows, so that it can be kept to resume from."""
        return False

    @property
    def needs_texts(self) -> bool:
        """Whether the calibration texts decide anything; where they do not, the command line does without."""
        return True

    @property
    def group(self) -> int | None:
        """How many calibration texts have a batch of their own; None: batches are filled up."""
        return None

    def settled(self, architecture: Architecture) -> "Method":
        """These settings with every open one as it is for such a model; called before anything is measured.

        The place to refuse a kind of model (`DataError`) or a setting without effect on it (`SettingsError`).
        """
        return self

    def prepared(self, model: Model) -> Model:
        """The model that is measured and cut, where that is not the one given: FLAP adds biases of zero."""
        return model

    def prune(self, run: Run, budgets: Sequence[Budget]) -> list[Model]:
        """One model for every budget, in their order, each from `run.finish`; measures once for all of them if it can.

        `run` holds the prepared model, its parameters where it keeps them, and the calibration batches. Called on
        settled settings. Raises `BudgetError` before measuring where a budget leaves nothing (`run.allowed`).
        """
        ...


# What makes an object one of them.
PARTS = ("name", "measures_once", "needs_texts", "group", "presets", "preset", "settled", "prepared", "prune")


def check_method(given: Any) -> None:
    """Raise `SettingsError` for what is no method, naming what it lacks, or a setting that is not of its type."""
    if isinstance(given, type) and all(hasattr(given, part) for part in PARTS):
        raise SettingsError(f"method is the class {given.__name__}; pass settings, such as {given.__name__}().")
    lacking = [part for part in PARTS if not hasattr(given, part)]
    if getattr(type(given), "prune", None) is Method.prune:  # written here for its description alone
        lacking.append("prune")
    if not dataclasses.is_dataclass(given) or isinstance(given, type):
        raise SettingsError(f"method is a {type(given).__name__}; pass settings such as KPrune(), or a method's name.")
    if lacking:
        raise SettingsError(
            f"{type(given).__name__} is no pruning method: it lacks {', '.join(lacking)}; inherit from "
            "jaxprune.pruning.method.Method, and write name and prune."
        )
    check_types(given)


def seeded(method: AnyMethod, seed: int) -> AnyMethod:
    """The method with `seed` in place of its own, if it has one."""
    if any(field.name == "seed" for field in dataclasses.fields(method)):  # type: ignore[arg-type]  # a dataclass
        return dataclasses.replace(method, seed=seed)  # type: ignore[type-var]
    return method
