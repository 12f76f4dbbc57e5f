"""What `prune` is given, and what a method gives back: refused before the work, or named after it."""

from collections.abc import Sequence
from typing import Any

from ..checks import check_given, in_short
from ..errors import BudgetError, DataError, SettingsError
from ..model.model import Model
from ..tasks.calibration import Calibration
from .budget import Budget


def check_call(model: Any, calibration: Any, budget: Any) -> None:
    """Raise for what is no model, no calibration texts or no budget, saying what would be."""
    check_given(model=(model, Model))
    if not isinstance(calibration, Calibration):
        raise DataError(
            f"calibration is a {type(calibration).__name__}; pass task.calibration(512), Calibration.of_texts(texts) "
            "or Calibration.of_ids(ids, mask)."
        )
    check_budget(budget)


def check_budget(budget: Any) -> None:
    """Raise `BudgetError` for what is neither a budget nor several."""
    if not isinstance(budget, Budget | Sequence) or isinstance(budget, str):
        raise BudgetError(f"the budget is {budget!r}; pass Budget(remove=0.6), or a list of budgets.")
    for entry in [budget] if isinstance(budget, Budget) else budget:
        if not isinstance(entry, Budget):
            raise BudgetError(f"{entry!r} is no budget; pass Budget(remove=0.6).")


def check_recovery(recover: Any) -> None:
    """Raise `SettingsError` for what cannot be called with a pruned model."""
    if recover is not None and not callable(recover):
        raise SettingsError(f"recover is {in_short(recover)}; pass jaxprune.Recover(texts, steps=500).")


def check_results(
    name: str, results: Any, budgets: Sequence[Budget], finished: Sequence[tuple[Budget, dict[str, Any]]] = ()
) -> None:
    """Raise `SettingsError` where a method gave other than one model for every budget, in their order, each `finished`.

    `finished` are the budgets and records of what `Run.finish` gave. A model may have got further notes since.
    """
    if not isinstance(results, Sequence) or len(results) != len(budgets):
        given = f"{len(results)} models" if isinstance(results, Sequence) else type(results).__name__
        raise SettingsError(f"{name}.prune gave {given} for {len(budgets)} budgets; return one model for each.")
    for result, budget in zip(results, budgets, strict=True):
        record = result.provenance.record if isinstance(result, Model) else {}
        # A tuple's == takes an object for equal to itself, NaN included.
        of = [of for of, told in finished if all((record.get(key),) == (value,) for key, value in told.items())]
        if not of:
            raise SettingsError(f"{name}.prune gave a model that did not come from run.finish; return what that gives.")
        if budget not in of:
            raise SettingsError(
                f"{name}.prune gave the model of {of[0]} in the place of {budget}; return one for every budget, in "
                "their order."
            )


def as_budgets(budget: Budget | Sequence[Budget]) -> tuple[list[Budget], bool]:
    """A list of budgets, and whether one came alone. Raises `BudgetError` where there is none."""
    budgets, alone = ([budget], True) if isinstance(budget, Budget) else (list(budget), False)
    if not budgets:
        raise BudgetError("there are no budgets; give at least one.")
    twice = [entry for number, entry in enumerate(budgets) if entry in budgets[:number]]
    if twice:
        raise BudgetError(f"{twice[0]} is named twice; name every budget once.")
    return budgets, alone
