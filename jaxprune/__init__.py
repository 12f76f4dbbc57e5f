"""Structured pruning of Transformer checkpoints in JAX.

import jaxprune as jp

model = jp.load("path-or-hub-id")
task = jp.tasks.glue("sst2", "path-or-None-for-hub")
pruned = jp.kprune(model, task.calibration(512, seed=0), jp.Budget(remove=0.6, cost="flops"))
jp.save(pruned, "small")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import load as load, save as save
    from .checkpoint.export import export as export
    from .data import tasks as tasks
    from .data.evaluate import evaluate as evaluate
    from .data.generate import generate as generate
    from .data.task import Calibration as Calibration, Example as Example, Task as Task
    from .finetuning.finetune import finetune as finetune
    from .finetuning.importance import Importance as Importance
    from .finetuning.lora import Lora as Lora
    from .finetuning.peft_read import load_adapter as load_adapter
    from .finetuning.prune_lora import PruneLora as PruneLora, prune_lora as prune_lora
    from .finetuning.recap import Recap as Recap, recap as recap
    from .finetuning.settings import Train as Train
    from .model import Model as Model, logits as logits
    from .model.generate import generate_ids as generate_ids
    from .model.nnx import from_nnx as from_nnx, to_nnx as to_nnx
    from .prune.baselines import (
        Fisher as Fisher,
        Magnitude as Magnitude,
        Random as Random,
        fisher as fisher,
        magnitude as magnitude,
        random_prune as random_prune,
    )
    from .prune.budget import Budget as Budget
    from .prune.flap import Flap as Flap, flap as flap
    from .prune.kprune import KPrune as KPrune, kprune as kprune
    from .prune.taylor import Taylor as Taylor, taylor as taylor
    from .report.bench import bench as bench, generation_speed as generation_speed
    from .report.heat_map import heat_map as heat_map
    from .report.plan import plan as plan

__version__ = "0.2.0"

# Where each public name lives; imported on first use, so that `import jaxprune` starts no device and loads little.
_HOMES = {
    "load": "checkpoint",
    "save": "checkpoint",
    "export": "checkpoint.export",
    "tasks": "data",
    "evaluate": "data.evaluate",
    "generate": "data.generate",
    "Calibration": "data.task",
    "Example": "data.task",
    "Task": "data.task",
    "finetune": "finetuning.finetune",
    "load_adapter": "finetuning.peft_read",
    "Importance": "finetuning.importance",
    "Lora": "finetuning.lora",
    "PruneLora": "finetuning.prune_lora",
    "prune_lora": "finetuning.prune_lora",
    "Recap": "finetuning.recap",
    "recap": "finetuning.recap",
    "Train": "finetuning.settings",
    "Model": "model",
    "logits": "model",
    "generate_ids": "model.generate",
    "from_nnx": "model.nnx",
    "to_nnx": "model.nnx",
    "Fisher": "prune.baselines",
    "Magnitude": "prune.baselines",
    "Random": "prune.baselines",
    "fisher": "prune.baselines",
    "magnitude": "prune.baselines",
    "random_prune": "prune.baselines",
    "Budget": "prune.budget",
    "Flap": "prune.flap",
    "flap": "prune.flap",
    "KPrune": "prune.kprune",
    "kprune": "prune.kprune",
    "Taylor": "prune.taylor",
    "taylor": "prune.taylor",
    "bench": "report.bench",
    "generation_speed": "report.bench",
    "heat_map": "report.heat_map",
    "plan": "report.plan",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f".{_HOMES[name]}", __name__)
    if name == "tasks":
        return importlib.import_module(".data.tasks", __name__)
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
