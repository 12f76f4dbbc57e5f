"""How much of a model may stay."""

from dataclasses import dataclass, field
from fractions import Fraction

from ..checks import check_types, is_number, is_whole
from ..errors import BudgetError
from ..model.architecture import Architecture
from .cost import COSTS, Cost, total_cost, unit_costs
from .cut import heads_stay


@dataclass(frozen=True)
class Budget:
    """The fraction of a cost to take away: `Budget(0.6)` leaves 40 % of the FLOPs of all heads and neurons.

    The fraction is of what pruning can remove (`prune.cost`), not of the whole file: embeddings and the task head stay.
    Raises `BudgetError` for values outside their range.
    """

    remove: float = field(metadata={"help": "fraction of the cost to remove, in (0, 1)"})
    cost: Cost = field(default="flops", metadata={"help": "what is counted: flops, params or bytes"})
    length: int | None = field(
        default=None, metadata={"help": "tokens a text at which FLOPs are counted (default: the calibration's mean)"}
    )
    round_to: int = field(default=1, metadata={"help": "keep neurons in multiples of this; the budget still holds"})
    uniform: bool = field(
        default=False, metadata={"help": "the same number of heads, groups and neurons in every layer, for export"}
    )
    keep_heads: bool = field(default=False, metadata={"help": "with uniform: remove neurons only"})

    def __post_init__(self):
        if not is_number(self.remove) or not 0 < self.remove < 1:
            raise BudgetError(f"remove must lie in (0, 1), got {self.remove!r}. To remove 40 % pass 0.4.")
        if self.cost not in COSTS:
            raise BudgetError(f"cost must be one of {', '.join(COSTS)}, got {self.cost!r}.")
        if self.length is not None and (not is_whole(self.length) or self.length < 1):
            raise BudgetError(f"length must be a number of tokens, at least 1, got {self.length!r}.")
        if not is_whole(self.round_to) or self.round_to < 1:
            raise BudgetError(f"round_to must be a whole number, at least 1, got {self.round_to!r}.")
        check_types(self, BudgetError)
        if self.keep_heads and not self.uniform:
            raise BudgetError("keep_heads goes with uniform=True; without it heads and neurons compete for the budget.")

    def allowed(self, architecture: Architecture, length: int | None = None) -> int:
        """The cost that may stay, rounded down; `length` is used where the budget does not state one.

        Raises `BudgetError` where nothing can be pruned, or where not even the cheapest unit would stay.
        """
        if not self.keep_heads and (reason := heads_stay(architecture)):
            raise BudgetError(f"{reason}; remove neurons alone, Budget(uniform=True, keep_heads=True).")
        if self.length is not None:
            _check_length(architecture, self.length)
        length = self.length if self.length is not None else length
        total = total_cost(architecture, self.cost, length)
        if total == 0:
            raise BudgetError("the model has no heads and no neurons left to remove; start from a larger one.")
        # Decimal, not binary: 1 - 0.6 must be 2/5 exactly, so that a budget means the same at every size.
        allowed = int((1 - Fraction(str(float(self.remove)))) * total)
        pairs = zip(architecture.layers, unit_costs(architecture, self.cost, length), strict=True)
        present = [
            cost
            for size, (head, neuron) in pairs
            for count, cost in ((size.groups, head), (size.neurons, neuron))
            if count
        ]
        if allowed < min(present):
            raise BudgetError(
                f"remove={self.remove} leaves {allowed} of {total} {self.cost}, less than one unit ({min(present)}); "
                f"remove less than {1 - min(present) / total:.6g}."
            )
        return allowed


def _check_length(architecture: Architecture, length: int) -> None:
    """Raise `BudgetError` for a length that no text of the model has: FLOPs would be those of another model."""
    if architecture.patches is not None and length != architecture.patches.tokens:
        raise BudgetError(
            f"images are {architecture.patches.tokens} tokens to the model, and the budget's length is {length}; leave "
            "it out."
        )
    if architecture.positions != "none" and length > architecture.max_positions:
        raise BudgetError(f"the budget's length {length} is more than the model's {architecture.limit}; lower it.")
