"""Settings of Prune-LoRA, and what those that were left open come to."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..checks import check_counts, check_effect, check_types
from ..errors import SettingsError
from ..model import Architecture
from ..model.heads import head_of
from ..settings import Presets
from .lora import TRAINED, Lora

SAMPLES, HEAD_STEPS, HIGH_BLOCKS, HIGH_RANK, LOW_RANK = 256, 50, 4, 8, 4  # where none is given
MEASURED = ("gates", "fisher")  # scores that are measured on texts


@dataclass(frozen=True, kw_only=True)
class PruneLora(Presets):
    """Settings of Prune-LoRA. `PruneLora.preset("published")` is the paper's recipe.

    None: a default that is filled in where the setting has an effect. One that was given and has none is an error.
    """

    remove_heads: float = field(default=0.3, metadata={"help": "share of the heads to remove, in [0, 1]"})
    remove_neurons: float = field(default=0.0, metadata={"help": "share of the neurons to remove, in [0, 1]"})
    score: Literal["gates", "fisher", "magnitude", "random"] | None = field(
        default=None,
        metadata={"help": "importance: mean |gradient| of gates (by default), its square, weight norms, or chance"},
    )
    samples: int | None = field(
        default=None, metadata={"help": f"training texts that importance is measured on; {SAMPLES} by default"}
    )
    head_steps: int | None = field(
        default=None,
        metadata={"help": f"steps that train the task head alone before measuring; {HEAD_STEPS} by default"},
    )
    high_blocks: int | None = field(
        default=None,
        metadata={"help": f"blocks that get the high rank, the most important ones; {HIGH_BLOCKS} by default"},
    )
    high_rank: int | None = field(
        default=None, metadata={"help": f"rank of adapters in these blocks; {HIGH_RANK} by default"}
    )
    low_rank: int | None = field(default=None, metadata={"help": f"rank in the other blocks; {LOW_RANK} by default"})
    rank_budget: int | None = field(
        default=None, metadata={"help": "parameters of all adapters: ranks in proportion to importance instead"}
    )
    alpha: float = field(default=16.0, metadata={"help": "the update is scaled by alpha / rank"})
    rslora: bool = field(default=False, metadata={"help": "scale by alpha / sqrt(rank) instead (rsLoRA)"})
    projections: tuple[str, ...] = field(
        default=("q", "k", "v"), metadata={"help": "which of q, k, v, o, up, gate, down"}
    )
    train: tuple[str, ...] = field(default=TRAINED, metadata=dict(Lora.__dataclass_fields__["train"].metadata))

    def __post_init__(self):
        check_types(self)
        for name in ("remove_heads", "remove_neurons"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} must lie in [0, 1], got {getattr(self, name)}. To remove 30 % pass 0.3.")
        check_counts(self, 0, "head_steps", "high_blocks")
        check_counts(self, 1, "samples", "high_rank", "low_rank", "rank_budget")
        self.lora  # noqa: B018 - checks projections and alpha
        if self.score not in (None, *MEASURED):
            check_effect(
                self, ("samples", "head_steps"), f"with score {self.score}: no text is read", {"head_steps": 0}
            )
        if self.rank_budget is not None:
            check_effect(self, ("high_blocks", "high_rank", "low_rank"), "with rank_budget: it decides the ranks")
        if self.high_blocks == 0:
            check_effect(self, ("high_rank",), "with high_blocks 0")

    def check_for(self, architecture: Architecture, handed_in: bool = False) -> None:
        """Raise `SettingsError` for a setting without effect on such a model; `handed_in`: importance is."""
        if handed_in:
            check_effect(self, ("score", "samples", "head_steps"), "with importance handed in", {"head_steps": 0})
        head = head_of(architecture)
        if not head.drawn:
            where = "on a language model, whose head came with its vocabulary"
            where = where if head.language is not None else f"on {head.name}, of which no new head is drawn"
            check_effect(self, ("head_steps",), where, {"head_steps": 0})
        high, blocks = self.settled().high_blocks, len(architecture.layers)
        if high is not None and high >= blocks:
            check_effect(self, ("low_rank",), f"with high_blocks {high} on {blocks} blocks")

    def settled(self, handed_in: bool = False) -> "PruneLora":
        """The same settings with every None filled in that has an effect; `handed_in`: importance is not measured."""
        measured = not handed_in and self.score in (None, *MEASURED)
        known: dict[str, Any] = {} if handed_in else {"score": "gates"}
        known |= {"samples": SAMPLES, "head_steps": HEAD_STEPS} if measured else {}
        if self.rank_budget is None:
            known |= {"high_blocks": HIGH_BLOCKS, "low_rank": LOW_RANK}
            known |= {"high_rank": HIGH_RANK} if self.high_blocks != 0 else {}
        return replace(self, **{name: value for name, value in known.items() if getattr(self, name) is None})

    @property
    def lora(self) -> Lora:
        """The same adapters as settings of LoRA, ranks apart."""
        return Lora(
            rank=self.low_rank or LOW_RANK,
            alpha=self.alpha,
            projections=self.projections,
            rslora=self.rslora,
            train=self.train,
        )

    @classmethod
    def presets(cls) -> dict[str, "PruneLora"]:
        """Named settings beside the default. 30 % of BERT-base's 144 heads are the paper's 43."""
        return {"published": PruneLora(head_steps=0)}
