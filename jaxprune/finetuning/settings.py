"""How to train: the settings that all methods with training share."""

from dataclasses import dataclass, field, replace
from typing import Literal

from ..checkpoint.manifest import check_saved_type
from ..checks import check_counts, check_seed
from ..errors import SettingsError
from ..model import Architecture
from .losses import Distillation

FULL_RATE, ADAPTER_RATE = 5e-5, 5e-4  # learning rates where none is given


@dataclass(frozen=True, kw_only=True)
class Train:
    """How to train: AdamW on a learning rate that rises linearly, then falls linearly to zero."""

    epochs: int = field(default=3, metadata={"help": "passes over the training texts"})
    batch_size: int = field(default=32, metadata={"help": "texts a step, on average: they are packed into rows"})
    learning_rate: float | None = field(
        default=None, metadata={"help": f"highest learning rate; {FULL_RATE:g} without, {ADAPTER_RATE:g} with adapters"}
    )
    warmup: float = field(default=0.06, metadata={"help": "share of the steps over which the rate rises, in [0, 1)"})
    weight_decay: float = field(default=0.01, metadata={"help": "decoupled decay; not on norms and biases"})
    clip: float = field(default=1.0, metadata={"help": "largest norm of the whole gradient"})
    dropout: float | None = field(default=None, metadata={"help": "dropout rate in [0, 1); the checkpoint's own"})
    smoothing: float = field(default=0.0, metadata={"help": "label smoothing of single-label classes, in [0, 1)"})
    accumulate: int = field(default=1, metadata={"help": "parts a batch is computed in: less memory, same step"})
    remat: bool = field(default=False, metadata={"help": "recompute layers in the backward pass: less memory"})
    dtype: Literal["float32", "bfloat16"] = field(
        default="float32", metadata={"help": "type to compute in; what trains and its moments stay float32"}
    )
    result_dtype: Literal["float32", "bfloat16", "float16"] | None = field(
        default=None,
        metadata={"help": "type of the result's weights, in which it is scored; the type that each was loaded in"},
    )
    distill: float = field(
        default=0.0,
        metadata={"help": "weight of the teacher's predictions (recap: the full model's) against the labels"},
    )
    temperature: float = field(default=2.0, metadata={"help": "softmax temperature of distillation"})
    distill_hidden: float = field(default=0.0, metadata={"help": "weight of the teacher's hidden states, added"})
    keep: Literal["best", "last"] = field(default="best", metadata={"help": "which epoch's weights are the result"})
    holdout: int = field(default=0, metadata={"help": "training texts set aside to find the best epoch; 0: validation"})
    save_minutes: float = field(default=10.0, metadata={"help": "minutes between saved states within an epoch"})
    seed: int = field(default=0, metadata={"help": "orders the texts, draws dropout and adapters"})

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(self, 1, "epochs", "batch_size", "accumulate")
        check_counts(self, 0, "holdout")
        for name in ("learning_rate", "clip", "temperature", "save_minutes"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("warmup", "smoothing", "dropout"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name} must lie in [0, 1), got {getattr(self, name)}.")
        if not 0 <= self.distill <= 1:
            raise SettingsError(f"distill must lie in [0, 1], got {self.distill}.")
        for name in ("weight_decay", "distill_hidden"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} must not be negative, got {getattr(self, name)}.")
        for name, choices in (("dtype", ("float32", "bfloat16")), ("keep", ("best", "last"))):
            if getattr(self, name) not in choices:
                raise SettingsError(f"{name} must be {' or '.join(choices)}, got {getattr(self, name)!r}.")
        if self.result_dtype is not None:
            check_saved_type(self.result_dtype)

    @property
    def distillation(self) -> Distillation:
        return Distillation(self.distill, self.temperature, self.distill_hidden)

    @property
    def distills(self) -> bool:
        return self.distill > 0 or self.distill_hidden > 0

    def resolved(self, architecture: Architecture, adapted: bool) -> "Train":
        """The same settings with a number in place of every None."""
        known = ADAPTER_RATE if adapted else FULL_RATE
        return replace(
            self,
            learning_rate=known if self.learning_rate is None else self.learning_rate,
            dropout=architecture.dropout if self.dropout is None else self.dropout,
        )

    def of_program(self) -> "Train":
        """The settings that a compiled step depends on: runs that differ in the others share one program."""
        return replace(
            self, epochs=1, batch_size=1, learning_rate=None, keep="last", holdout=0, save_minutes=1.0, seed=0,
            result_dtype=None,
        )  # fmt: skip
