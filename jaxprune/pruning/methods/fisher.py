"""Fisher: units by the Fisher information of their gates. A baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np

from ...checks import check_types
from ...model.architecture import HALVES, Architecture
from ...model.model import Model
from ...settings import formerly
from ..budget import Budget
from ..by_scores import Refitting, masks_for, refitted_and_cut, split_like
from ..cut import Mask
from ..measure import measure
from ..measured import Arrays
from ..refit_settings import REFIT, Kind, kind_of
from ..run import Run


@formerly(repair="refit")
@dataclass(frozen=True, kw_only=True)
class Fisher(Refitting):
    """Kwon et al., A Fast Post-Training Pruning Framework for Transformers, NeurIPS 2022.

    Gates' diagonal Fisher information picks how many heads and neurons stay, a greedy rearrangement under the
    Fisher blocks of each sublayer picks which, and one scale per unit is fitted to the dense output.
    We use the model's own predictions where the paper uses the training labels: calibration texts have none.
    """

    rearrange: bool = field(default=True, metadata={"help": "choose units inside a sublayer by its Fisher block"})
    refit: Kind | bool = field(default="scales", metadata=REFIT)
    seed: int = field(default=0, metadata={"help": "draws labels for the Fisher factors where classes are many"})
    name: ClassVar[str] = "fisher"
    measures_once: ClassVar[bool] = True

    def __post_init__(self):
        object.__setattr__(self, "refit", kind_of(self.refit))
        check_types(self)

    def prune(self, run: Run, budgets: Sequence[Budget]) -> list[Model]:
        allowed = [run.allowed(entry) for entry in budgets]
        measured = run.once(self, lambda: _fisher_information(run, self), reads=("rearrange", "seed"))
        sublayers = range(len(measured) // 2)
        scores, blocks = ([measured[f"{part}.{index}"] for index in sublayers] for part in ("gates", "block"))
        results = []
        for number, (entry, limit) in enumerate(zip(budgets, allowed, strict=True)):
            with run.phase("search"):
                masks = masks_for(run, entry, scores, limit, partial(fisher_masks, architecture=run.model.architecture))
                if self.rearrange:
                    masks = [rearrange(block, int(mask.sum())) for block, mask in zip(blocks, masks, strict=True)]
            results.append(refitted_and_cut(run, self, entry, masks, ("measurement",) if number else ()))
        return results


def _fisher_information(run: Run, settings: Fisher) -> Arrays:
    """Of every sublayer the Fisher information of its gates: its diagonal, and with `rearrange` all of it."""
    with run.phase("measure"):
        measured = measure(
            run.params,
            run.model.architecture,
            run.batches,
            temperature=1.0,
            floor=1.0,
            exact_up_to=4,
            seed=settings.seed,
            programs=run.programs,
            grams=False,
            gates=True,
            fisher_blocks=settings.rearrange,
            on_part=lambda done, of: run.step("measure", done, of),
            kept=run.kept if settings.refit != "none" else None,
            parts=run.parts,
        )
    arrays: Arrays = {}
    for index, (gates, block) in enumerate(run.devices.read([(s.gates, s.block) for s in measured.statistics])):
        arrays |= {f"gates.{index}": np.asarray(gates, np.float64), f"block.{index}": np.asarray(block, np.float64)}
    return arrays


def fisher_masks(
    scores: Sequence[np.ndarray], costs: Sequence[int], allowed: int, *, architecture: Architecture
) -> list[Mask]:
    """Masks that keep the most Fisher information within `allowed` (Kwon et al., section 4.1, algorithm 1).

    For every number of heads kept, best heads first, the best neurons fill the rest; the best number wins. Needs heads
    to cost the same in all layers, and neurons likewise (true of a dense model).
    """
    by_half = {half: architecture.of_half(half, scores) for half in HALVES}
    heads, neurons = (np.concatenate(by_half[half]) for half in HALVES)
    head_cost, neuron_cost = (architecture.of_half(half, costs)[0] for half in HALVES)
    head_order, neuron_order = (np.argsort(-values, kind="stable") for values in (heads, neurons))
    head_sums = np.concatenate([[0.0], np.cumsum(heads[head_order])])
    neuron_sums = np.concatenate([[0.0], np.cumsum(neurons[neuron_order])])
    kept_heads = np.arange(min(len(heads), allowed // head_cost) + 1)
    kept_neurons = np.minimum((allowed - kept_heads * head_cost) // neuron_cost, len(neurons))
    best = int(np.argmax(head_sums[kept_heads] + neuron_sums[kept_neurons]))
    masks = [np.zeros(len(heads), bool), np.zeros(len(neurons), bool)]
    masks[0][head_order[: kept_heads[best]]] = True
    masks[1][neuron_order[: kept_neurons[best]]] = True
    parts = {half: split_like(mask, by_half[half]) for half, mask in zip(HALVES, masks, strict=True)}
    return [parts[at.half][at.layer] for at in architecture.sublayers()]


def rearrange(block: np.ndarray, keep: int) -> Mask:
    """The units to keep so that the removed ones lose little together: rᵀ F r, r the removed, F the Fisher block.

    Greedy: the next to go is the one that raises the sum least (Kwon et al., section 4.2).
    """
    n = len(block)
    mask, rise = np.ones(n, bool), np.diag(block).copy()
    for _ in range(n - keep):
        worst = int(np.argmin(np.where(mask, rise, np.inf)))
        mask[worst] = False
        rise += 2 * block[worst]
    return mask
