"""Prune-LoRA under a limit on the device's bytes: what is sure to need more is refused before the work."""

from collections.abc import Sequence

import jax
import numpy as np

from ..model import Architecture, Model, parameter_shapes
from ..model.architecture import HALVES
from ..pruning.cut import cut_architecture, unit_counts
from ..runtime.devices import Devices
from ..tasks.task import Task
from .epochs import batches_for
from .finetune import chooser
from .importance import Importance, normalised
from .lora import adapters_of
from .masters import result_types
from .prune_lora_plan import choose, rank_plan
from .prune_lora_settings import PruneLora
from .settings import Train
from .step import select
from .step_limit import predicted_remat
from .texts import prepare


def check_before(
    limit: int | None,
    model: Model,
    task: Task,
    settings: PruneLora,
    training: Train,
    patterns: Sequence[str],
    importance: Importance | None,
    devices: Devices,
    teacher: Model | None,
) -> None:
    """Raise `SettingsError` where a training step of what will be left of `model` is sure to need more than `limit`.

    What stays follows from `importance`; where that is still to be measured, every layer is taken to lose the same
    share, which is as many units in all. `patterns` are the leaves that train beside adapters.
    """
    if limit is None:
        return
    heads, neurons = evenly(model.architecture) if importance is None else map(normalised, importance)
    small = cut_architecture(model.architecture, choose(heads, neurons, model.architecture, settings))
    plan = rank_plan(heads, small, settings)
    weights = adapters_of(plan, small, training.seed).weights if plan else []
    shapes, types = parameter_shapes(small), result_types(model.params, None)
    left = Model(small, jax.tree.map(lambda dtype, shape: jax.ShapeDtypeStruct(shape, dtype), types, shapes))
    batches = batches_for(prepare(model, task).encoded, small, training, devices)(0)
    leaves = select(left.params, chooser(left, patterns))[0], weights
    predicted_remat(limit, left, leaves, batches, training, devices, teacher)


def evenly(architecture: Architecture) -> Importance:
    """Importance by which every layer loses the same share of its units."""
    counts = unit_counts(architecture)
    return Importance(*([np.arange(n) / max(n, 1) for n in architecture.of_half(half, counts)] for half in HALVES))
