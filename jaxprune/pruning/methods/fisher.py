"""Fisher: units by the Fisher information of their gates. A baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jax.sharding import Mesh

from ...checks import check_seed
from ...model.architecture import HALVES, Architecture
from ...model.model import Model
from ...runtime.events import OnStep
from ...tasks.calibration import Calibration
from ..budget import Budget
from ..by_scores import _split, check_repair, masks_for, repaired
from ..cut import Mask
from ..kept import KEEP_BYTES
from ..measure import measure
from ..measured import Arrays
from ..run import Run, as_budgets


@dataclass(frozen=True, kw_only=True)
class Fisher:
    """Kwon et al., A Fast Post-Training Pruning Framework for Transformers, NeurIPS 2022.

    Gates' diagonal Fisher information picks how many heads and neurons stay, a greedy rearrangement under the
    Fisher blocks of each sublayer picks which, and one scale per unit is fitted to the dense output.
    We use the model's own predictions where the paper uses the training labels: calibration texts have none.
    """

    rearrange: bool = field(default=True, metadata={"help": "choose units inside a sublayer by its Fisher block"})
    repair: Literal["none", "scales", "weights"] = field(
        default="scales", metadata={"help": "after cutting: nothing, one scale per unit, or K-prune's refit"}
    )
    seed: int = field(default=0, metadata={"help": "draws labels for the Fisher factors where classes are many"})
    measures_once: ClassVar[bool] = True  # its measurement can be kept to resume from

    def __post_init__(self):
        check_seed(self.seed)
        check_repair(self.repair)


def fisher(
    model: Model,
    calibration: Calibration,
    budget: Budget | Sequence[Budget],
    settings: Fisher = Fisher(),
    *,
    on_step: OnStep | None = None,
    mesh: Mesh | None = None,
    stream: bool = False,
    tokenizer: Any = None,
    keep_bytes: int = KEEP_BYTES,
    out: str | Path | None = None,
    resume: bool = False,
) -> Any:
    """Prune by the Fisher information of gates; see `Fisher`. Same interface as `kprune`."""
    budgets, alone = as_budgets(budget)
    where: dict[str, Any] = {
        "mesh": mesh,
        "stream": stream,
        "tokenizer": tokenizer,
        "keep_bytes": keep_bytes,
        "out": out,
        "resume": resume,
    }
    run = Run.start(model, calibration, on_step, **where)
    allowed = [run.allowed(entry) for entry in budgets]
    found = run.once("fisher", settings, lambda: _fisher_information(run, settings))
    sublayers = range(len(found) // 2)
    scores, blocks = ([found[f"{part}.{index}"] for index in sublayers] for part in ("gates", "block"))
    results = []
    for number, (entry, limit) in enumerate(zip(budgets, allowed, strict=True)):
        with run.phase("search"):
            masks = masks_for(run, entry, scores, limit, partial(fisher_masks, architecture=run.model.architecture))
            if settings.rearrange:
                masks = [rearrange(block, int(mask.sum())) for block, mask in zip(blocks, masks, strict=True)]
        results.append(repaired(run, "fisher", settings, entry, masks, ("measurement",) if number else ()))
    return results[0] if alone else results


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
            kept=run.kept if settings.repair != "none" else None,
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
    parts = {half: _split(mask, by_half[half]) for half, mask in zip(HALVES, masks, strict=True)}
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
