"""Structured pruning of Transformer checkpoints in JAX.

import jaxprune as jp

model = jp.load("path-or-hub-id")
task = jp.tasks.glue("sst2", "path-or-None-for-hub")
pruned = jp.prune(model, task.calibration(512, seed=0), jp.Budget(remove=0.6, cost="flops"))
jp.save(pruned, "small")

Every error of what was handed in is a `jp.JaxpruneError`. Doubts go, once each, to the logger "jaxprune", which prints
them on stderr unless logging is set up otherwise; results keep them (`.warnings`, `model.provenance.warnings`).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import load as load, save as save
    from .checkpoint.families import FAMILIES as FAMILIES, Family as Family, HeadModules as HeadModules
    from .checkpoint.push import push as push
    from .errors import JaxpruneError as JaxpruneError
    from .evaluation.embed import embed as embed
    from .evaluation.evaluate import evaluate as evaluate
    from .evaluation.generate import generate as generate
    from .evaluation.lm_eval import lm_eval as lm_eval
    from .evaluation.onnx_model import load_onnx as load_onnx
    from .evaluation.predict import predict as predict
    from .exports.export import export as export
    from .finetuning.finetune import finetune as finetune
    from .finetuning.importance import Importance as Importance
    from .finetuning.lora import Lora as Lora
    from .finetuning.peft_read import load_adapter as load_adapter
    from .finetuning.prune_lora import PruneLora as PruneLora, prune_lora as prune_lora
    from .finetuning.recap import Recap as Recap, recap as recap
    from .finetuning.recover import Recover as Recover
    from .finetuning.settings import Train as Train
    from .model import Architecture as Architecture, Model as Model, logits as logits
    from .model.nnx import from_nnx as from_nnx, to_nnx as to_nnx
    from .pruning.budget import Budget as Budget
    from .pruning.method import Method as Method
    from .pruning.methods import (
        Fisher as Fisher,
        Flap as Flap,
        KPrune as KPrune,
        Magnitude as Magnitude,
        Random as Random,
        Taylor as Taylor,
    )
    from .pruning.prune import (
        fisher as fisher,
        flap as flap,
        kprune as kprune,
        magnitude as magnitude,
        prune as prune,
        random_prune as random_prune,
        taylor as taylor,
    )
    from .report.bench import bench as bench, generation_speed as generation_speed
    from .report.compare import compare as compare
    from .report.demo import demo as demo
    from .report.heat_map import heat_map as heat_map
    from .report.plan import plan as plan
    from .runtime.decode import generate_ids as generate_ids
    from .tasks.calibration import Calibration as Calibration
    from .tasks.example import Example as Example
    from .tasks.task import Task as Task

__version__ = "0.2.0"

# Where each public name lives; imported on first use, so that `import jaxprune` starts no device and loads little.
_HOMES = {
    "load": "checkpoint",
    "Family": "checkpoint.families",
    "HeadModules": "checkpoint.families",
    "FAMILIES": "checkpoint.families",
    "save": "checkpoint",
    "push": "checkpoint.push",
    "export": "exports.export",
    "embed": "evaluation.embed",
    "evaluate": "evaluation.evaluate",
    "generate": "evaluation.generate",
    "load_onnx": "evaluation.onnx_model",
    "predict": "evaluation.predict",
    "lm_eval": "evaluation.lm_eval",
    "Calibration": "tasks.calibration",
    "Example": "tasks.example",
    "Task": "tasks.task",
    "finetune": "finetuning.finetune",
    "load_adapter": "finetuning.peft_read",
    "Importance": "finetuning.importance",
    "Lora": "finetuning.lora",
    "PruneLora": "finetuning.prune_lora",
    "prune_lora": "finetuning.prune_lora",
    "Recap": "finetuning.recap",
    "recap": "finetuning.recap",
    "Recover": "finetuning.recover",
    "Train": "finetuning.settings",
    "JaxpruneError": "errors",
    "Architecture": "model",
    "Model": "model",
    "logits": "model",
    "generate_ids": "runtime.decode",
    "from_nnx": "model.nnx",
    "to_nnx": "model.nnx",
    "Budget": "pruning.budget",
    "Method": "pruning.method",
    "Fisher": "pruning.methods",
    "Flap": "pruning.methods",
    "KPrune": "pruning.methods",
    "Magnitude": "pruning.methods",
    "Random": "pruning.methods",
    "Taylor": "pruning.methods",
    "prune": "pruning.prune",
    "fisher": "pruning.prune",
    "flap": "pruning.prune",
    "kprune": "pruning.prune",
    "magnitude": "pruning.prune",
    "random_prune": "pruning.prune",
    "taylor": "pruning.prune",
    "bench": "report.bench",
    "compare": "report.compare",
    "generation_speed": "report.bench",
    "demo": "report.demo",
    "heat_map": "report.heat_map",
    "plan": "report.plan",
}


def __getattr__(name: str) -> Any:
    if name == "tasks":
        return importlib.import_module(".tasks", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*_HOMES, "tasks", "__version__"])
