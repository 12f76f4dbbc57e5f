"""Settings of RECAP, and what follows from them for every round."""

from dataclasses import dataclass, field, replace
from typing import Literal

from ...checks import check_counts, check_effect, check_types
from ...errors import SettingsError
from ...model import Architecture
from ...model.heads import head_of
from ...pruning.refit_settings import kind_of
from ...settings import Presets, formerly

CAP = 0.85  # the largest share of a sublayer that a round may remove


@formerly(share_of="cost")
@dataclass(frozen=True, kw_only=True)
class Recap(Presets):
    """How RECAP goes in rounds; how it trains within one is said by `Train`, but for `epochs`, which follow from here.

    A setting that was given and has no effect is an error.
    """

    rounds: int = field(default=4, metadata={"help": "cycles of prune, tune and write back"})
    epochs_per_round: int = field(default=1, metadata={"help": "passes over the training texts in a round"})
    remove: float = field(default=0.33, metadata={"help": "share to prune in a round, in [0, 1), at most the cap"})
    freeze: float = field(default=0.5, metadata={"help": "share of the rows of what stays that is frozen, in [0, 1)"})
    freeze_schedule: Literal["constant", "interpolated"] = field(
        default="constant",
        metadata={"help": "freeze in every round, or from freeze in the first to remove in the last"},
    )
    pruning_steps: int = field(default=1, metadata={"help": "parts in which a round prunes, measuring again for each"})
    cap: float = field(default=CAP, metadata={"help": "largest share of a sublayer that a round may remove, in (0, 1)"})
    widths: Literal["own", "first"] | None = field(
        default=None,
        metadata={
            "help": "units that a sublayer keeps: as many as each round's ranking says (own), or as the first round's, "
            "so that later rounds run that one's programs; first on language models, else own"
        },
    )
    cost: Literal["units", "params"] = field(
        default="params",
        metadata={"help": "what remove is a share of, and what importance is per: units, parameters"},
    )
    importance: Literal["weights", "gates", "kprune"] = field(
        default="weights",
        metadata={
            "help": "of a unit: sum of (weight x gradient)^2, (sum of weight x gradient)^2, or K-prune's predicted KL"
        },
    )
    refit: Literal["none", "weights"] | bool = field(
        default="none",
        metadata={"help": "after the cut, fit nothing, or all weights to the full model's as K-prune"},
    )
    prefetch: bool = field(
        default=False,
        metadata={"help": "measure a round's importance while the device tunes, on the weights before that round"},
    )
    samples: int = field(default=256, metadata={"help": "training texts that importance, Fisher and a refit see"})
    average: float = field(default=0.0, metadata={"help": "weight of earlier rounds' importance, in [0, 1)"})
    moments: Literal["carried", "dropped", "bfloat16"] = field(
        default="carried",
        metadata={"help": "Adam's moments between rounds: kept, begun anew, or kept in half the bytes"},
    )
    outer: Literal["train", "frozen", "touched"] = field(
        default="train",
        metadata={"help": "embeddings, norms, pooler: all train; none (the head does); or of tokens those that occur"},
    )
    measure_on: Literal["host", "device"] = field(
        default="host", metadata={"help": "where importance is measured; layers come to the device one by one"}
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "highest learning rate where the training's settings name none"}
    )

    def __post_init__(self):
        object.__setattr__(self, "refit", kind_of(self.refit, ("none", "weights")))
        check_types(self)
        check_counts(self, 1, "rounds", "epochs_per_round", "pruning_steps", "samples")
        for name in ("remove", "freeze"):
            if not 0 <= getattr(self, name) < 1:
                hint = " For 33 % pass 0.33." if getattr(self, name) > 1 else ""
                raise SettingsError(f"{name} must lie in [0, 1), got {getattr(self, name)}.{hint}")
        if not 0 <= self.average < 1:
            raise SettingsError(f"average must lie in [0, 1), got {self.average}.")
        if not 0 < self.cap < 1:
            raise SettingsError(f"cap must lie in (0, 1), got {self.cap}; a sublayer must keep some of its units.")
        if self.remove > self.cap:
            raise SettingsError(
                f"remove {self.remove} is above the cap: at most {self.cap} of each sublayer goes; lower remove."
            )
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise SettingsError(f"learning_rate must be positive, got {self.learning_rate}.")
        if self.measure_on == "device" and (self.importance == "kprune" or self.refit != "none" or self.prefetch):
            raise SettingsError("importance kprune, refit and prefetch are done on the host; set measure_on to host.")
        if self.importance == "kprune" and self.pruning_steps > 1:
            raise SettingsError(
                f"K-prune's importance knows what went before, so pruning_steps must be 1, got {self.pruning_steps}."
            )
        if self.rounds == 1:
            check_effect(self, ("freeze_schedule", "average", "prefetch", "widths"), "in a single round")
        if self.remove == 0:  # what goes is then decided by nothing; cost stays, as presets set it
            names = ("pruning_steps", "cap", "importance", "refit", "prefetch", "average", "widths")
            check_effect(self, names, "with remove 0, which leaves every unit")
        if self.freeze == self.remove:
            check_effect(self, ("freeze_schedule",), f"from freeze {self.freeze} to remove {self.remove}")

    @classmethod
    def presets(cls) -> dict[str, "Recap"]:
        """Named settings beside the default: the paper's experiments, and K-prune at the cut.

        Vision models ran with 0.33 to 0.5 removed, 0.5 to 0.875 frozen and 10 to 20 rounds; a text model takes the
        middle of it. K-prune's measurement holds a square of every sublayer's features on the host.
        """
        published = {"cost": "units", "importance": "weights", "pruning_steps": 1}
        return {
            "published-bert-cola": Recap(
                remove=0.17, freeze=0.5, rounds=5, epochs_per_round=2, learning_rate=2e-5, **published
            ),
            # ViT-base on CIFAR-100, by the README of the released code (git-disl/recap) and its config.py.
            "published-vit": Recap(
                remove=0.33,
                freeze=0.875,
                rounds=10,
                epochs_per_round=2,
                learning_rate=1e-4,
                **{**published, "pruning_steps": 2},
            ),
            "published-vision-like": Recap(remove=0.5, freeze=0.75, rounds=10, epochs_per_round=1, **published),
            "kprune": Recap(importance="kprune", refit="weights"),
        }

    @property
    def epochs(self) -> int:
        """Passes over the training texts in the whole run."""
        return self.rounds * self.epochs_per_round

    def resolved(self, architecture: Architecture) -> "Recap":
        """The same settings with a value in place of every None that has an effect on such a model."""
        if self.widths or self.rounds == 1 or not self.remove:
            return self
        return replace(self, widths="own" if head_of(architecture).language is None else "first")

    def freeze_at(self, number: int) -> float:
        """The share of rows that is frozen in round `number`, from 0."""
        if self.freeze_schedule == "constant" or self.rounds == 1:
            return self.freeze
        return self.freeze + (self.remove - self.freeze) * number / (self.rounds - 1)


def step_shares(remove: float, steps: int) -> list[float]:
    """The share of what is left that each of `steps` equal parts of `remove` takes: (r/N) / (1 - i·r/N).

    >>> [round(share, 3) for share in step_shares(0.5, 2)]
    [0.25, 0.333]
    """
    return [remove / steps / (1 - number * remove / steps) for number in range(steps)]
