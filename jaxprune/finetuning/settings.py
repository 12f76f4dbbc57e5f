"""How to train: the settings that all methods with training share."""

from dataclasses import dataclass, field, replace
from typing import Literal

from ..checks import check_counts, check_effect, check_types
from ..errors import SettingsError
from ..model import Architecture
from ..model.heads import head_of
from ..tokens.masking import SHARE
from .losses import Distillation

# Where none is given: learning rates, passes over the texts, softmax temperature, minutes between saved states.
FULL_RATE, ADAPTER_RATE, EPOCHS, TEMPERATURE, SAVE_MINUTES = 5e-5, 5e-4, 3, 2.0, 10.0


@dataclass(frozen=True, kw_only=True)
class Train:
    """How to train: AdamW on a learning rate that rises linearly, then falls linearly to zero.

    None: a default that is filled in where the setting has an effect. One that was given and has none is an error.
    """

    epochs: int | None = field(default=None, metadata={"help": f"passes over the training texts; {EPOCHS} by default"})
    batch_size: int = field(
        default=32,
        metadata={
            "help": "texts, or pairs that belong together, a step, in all its parts and on all devices: the last of an "
            "epoch has what is left"
        },
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": f"highest learning rate; {FULL_RATE:g} without, {ADAPTER_RATE:g} with adapters"}
    )
    warmup: float = field(default=0.06, metadata={"help": "share of the steps over which the rate rises, in [0, 1)"})
    weight_decay: float = field(default=0.01, metadata={"help": "decoupled decay; not on norms and biases"})
    clip: float = field(default=1.0, metadata={"help": "largest norm of the whole gradient"})
    dropout: float | None = field(default=None, metadata={"help": "dropout rate in [0, 1); the checkpoint's own"})
    smoothing: float = field(default=0.0, metadata={"help": "label smoothing of single-label classes, in [0, 1)"})
    accumulate: int = field(
        default=1, metadata={"help": "parts in which the texts of a step are computed: less memory, same step"}
    )
    remat: bool | None = field(
        default=None,
        metadata={
            "help": "recompute layers in the backward pass: less memory; by default where device_limit asks for it"
        },
    )
    dtype: Literal["float32", "bfloat16"] = field(
        default="float32", metadata={"help": "type to compute in; what trains stays float32"}
    )
    frozen_dtype: Literal["float32", "bfloat16"] | None = field(
        default=None,
        metadata={"help": "type that weights which do not train are kept in while others do; the one they came in"},
    )
    moments_dtype: Literal["float32", "bfloat16"] = field(
        default="float32", metadata={"help": "type of Adam's moments; bfloat16 takes half the bytes"}
    )
    result_dtype: Literal["float32", "bfloat16", "float16"] | None = field(
        default=None,
        metadata={"help": "type of the result's weights, in which it is scored; the type that each was loaded in"},
    )
    mask_share: float | None = field(
        default=None,
        metadata={
            "help": f"share of tokens that are masked, anew in every epoch, of a masked language model; {SHARE:g} by "
            "default"
        },
    )
    distill: float = field(
        default=0.0,
        metadata={"help": "weight of the teacher's predictions (recap: the full model's) against the labels"},
    )
    temperature: float | None = field(
        default=None, metadata={"help": f"softmax temperature of distillation; {TEMPERATURE:g} by default"}
    )
    distill_hidden: float = field(default=0.0, metadata={"help": "weight of the teacher's hidden states, added"})
    teacher_in: Literal["device", "host", "disk"] = field(
        default="device",
        metadata={
            "help": "where the teacher is while its student trains: on the device; in host memory, from which one "
            "sublayer at a time comes to the device; or on disk, where what it says of all texts is kept, said once"
        },
    )
    taught_dtype: Literal["float16", "bfloat16", "float32"] | None = field(
        default=None,
        metadata={"help": "type in which what a language model says is kept on disk; float16 by default"},
    )
    keep: Literal["best", "last"] = field(default="best", metadata={"help": "which epoch's weights are the result"})
    holdout: int = field(
        default=0,
        metadata={
            "help": "training texts set aside to find the best epoch, or without others to score the last; 0: "
            "validation"
        },
    )
    save_minutes: float | None = field(
        default=None, metadata={"help": f"minutes between saved states within an epoch; {SAVE_MINUTES:g} by default"}
    )
    shard: Literal["batches", "weights"] = field(
        default="batches",
        metadata={
            "help": "what is spread over a mesh's axis data: batches, or also weights, their gradients and moments"
        },
    )
    seed: int = field(default=0, metadata={"help": "orders the texts, draws dropout and adapters"})

    def __post_init__(self):
        check_types(self)
        check_counts(self, 1, "epochs", "batch_size", "accumulate")
        check_counts(self, 0, "holdout")
        for name in ("learning_rate", "clip", "temperature", "save_minutes"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("warmup", "smoothing", "dropout"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name} must lie in [0, 1), got {getattr(self, name)}.")
        if self.mask_share is not None and not 0 < self.mask_share < 1:
            raise SettingsError(f"mask_share must lie in (0, 1), got {self.mask_share}. To mask 15 % pass 0.15.")
        if not 0 <= self.distill <= 1:
            raise SettingsError(f"distill must lie in [0, 1], got {self.distill}.")
        for name in ("weight_decay", "distill_hidden"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} must not be negative, got {getattr(self, name)}.")
        if not self.distill:
            check_effect(self, ("temperature",), "without distill: it is of the teacher's predictions")
        if not self.distills:
            check_effect(self, ("teacher_in",), "without distill: there is no teacher")
        elif self.teacher_in != "device" and self.distill_hidden:
            raise SettingsError(
                f"distill_hidden {self.distill_hidden} compares hidden states of every layer, which a teacher in "
                f"{self.teacher_in!r} does not hand over; set it to 0, or teacher_in to 'device'."
            )
        if self.teacher_in != "disk":
            check_effect(self, ("taught_dtype",), "but with teacher_in 'disk'")
        if self.distill == 1:
            check_effect(self, ("smoothing",), "with distill 1, which leaves the labels out")

    @property
    def distillation(self) -> Distillation:
        temperature = TEMPERATURE if self.temperature is None else self.temperature
        return Distillation(self.distill, temperature, self.distill_hidden)

    @property
    def distills(self) -> bool:
        return self.distill > 0 or self.distill_hidden > 0

    def check_for(self, architecture: Architecture) -> None:
        """Raise `SettingsError` for a setting that has no effect on such a model."""
        head = head_of(architecture)
        if not head.smooths:
            check_effect(self, ("smoothing",), f"on {head.name}: it is for single-label classes")
        if head.language is None or head.generates:
            check_effect(self, ("mask_share",), f"on {head.name}: it is for masked language models")
        if not head.softmax:
            check_effect(self, ("temperature",), f"on {head.name}, where the teacher says no probabilities")

    def resolved(self, architecture: Architecture, adapted: bool) -> "Train":
        """The same settings with a number in place of every None that has an effect."""
        rate = ADAPTER_RATE if adapted else FULL_RATE
        known = {"epochs": EPOCHS, "learning_rate": rate, "dropout": architecture.dropout, "remat": False}
        head = head_of(architecture)
        known |= {"mask_share": SHARE} if head.language is not None and not head.generates else {}
        return replace(self, **{name: value for name, value in known.items() if getattr(self, name) is None})

    def of_program(self) -> "Train":
        """The settings that a compiled step depends on: runs that differ in the others share one program."""
        return replace(
            self, epochs=1, batch_size=1, learning_rate=None, keep="last", holdout=0, save_minutes=None, seed=0,
            result_dtype=None, shard="batches", teacher_in="device", taught_dtype=None, mask_share=None,
        )  # fmt: skip
