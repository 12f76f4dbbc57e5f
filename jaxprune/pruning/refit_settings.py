"""How what is kept is fitted: the settings of the refit that methods share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..checks import check_types
from ..errors import SettingsError

Kind = Literal["none", "scales", "weights"]
KINDS = get_args(Kind)
# Of every method's field `refit`.
REFIT = {"help": "after the cut, fit nothing, one scale per unit, or all output weights as K-prune does"}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How kept weights are fitted."""

    kind: Kind = field(default="weights", metadata={"help": "plain cutting, one scale per unit, or all output weights"})
    ridge: float = field(default=2000.0, metadata={"help": "ridge of the output fit, in tokens"})
    pull: float = field(default=1.0, metadata={"help": "shrink towards this multiple of the old weights"})
    intercept: bool = field(default=True, metadata={"help": "fit output biases too"})
    inputs: bool = field(default=True, metadata={"help": "fit q, k, v and up to the changed stream first"})
    input_ridge: float = field(default=700.0, metadata={"help": "ridge of the input fit, in tokens"})

    def __post_init__(self):
        check_types(self)


PUBLISHED_FIT = Fit(ridge=1e-2, pull=0.0, intercept=False, inputs=False)
SCALES = Fit(kind="scales", ridge=10.0, inputs=False)


def kind_of(refit: Any, kinds: Sequence[str] = KINDS) -> Kind:
    """What a setting `refit` says: true is short for "weights", false for "none". Raises `SettingsError` for others."""
    kind: Any = {True: "weights", False: "none"}[refit] if isinstance(refit, bool) else refit
    if kind not in kinds:
        raise SettingsError(f"refit must be one of {', '.join(kinds)}, got {refit!r}.")
    return kind
