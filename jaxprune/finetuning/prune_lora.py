"""Prune-LoRA: prune the heads that a task does not need, then train adapters whose ranks follow importance.

Wang, Yang, Sun: Task-oriented Memory-efficient Pruning-Adapter, arXiv 2303.14704. The preset "published" is the
paper's recipe: importance at gates with the head as it came, k heads pruned, the B most important blocks at a high
rank and the others at a low one. Where paper and released code differ we follow the paper: the code measures on 3
examples (we take `samples`) and freezes the random task head (ours trains). Beyond it: importance after a short warm-up
of the head, neurons too, ranks in proportion to importance under a parameter budget, any other score, and any start,
such as a model that K-prune has cut.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..checks import checked
from ..errors import SettingsError
from ..model import Architecture, Model
from ..model.architecture import ATTENTION, HALVES
from ..model.heads import head_of
from ..pruning.cost import removed, whole_parameters
from ..pruning.cut import compose_kept, cut, kept_units, unit_counts
from ..pruning.cut_check import check_model, masked_versus_cut
from ..pruning.methods.magnitude import weight_norms
from ..runtime.device_limit import check_limit
from ..runtime.devices import placed
from ..runtime.events import OnStep
from ..tasks.task import Task
from ..tokens.packing import pack
from .epochs import batches_for, first_steps, masks_of
from .finetune import chooser, set_aside, trained_paths, tune
from .importance import Importance, check_importance, gate_importance, normalised
from .lora import HALF_OF, HEAD, Size, adapters_of, patterns_of, projection_shapes
from .masters import in_types, result_types
from .peft import check_adapter_output, check_apart, write_peft
from .prune_lora_limit import check_before
from .prune_lora_plan import (
    choose as choose,
    least_cost as least_cost,
    proportional_ranks as proportional_ranks,
    rank_plan as rank_plan,
)
from .prune_lora_settings import HEAD_STEPS, SAMPLES, PruneLora as PruneLora
from .run_store import Store, check_resume
from .settings import Train
from .spread import training_devices
from .step_limit import remat_asked
from .teacher import check_teacher, fitting
from .texts import Texts, encoded_by, prepare
from .train import check_head, train

HEAD_RATE = 1e-3  # learning rate of the head's warm-up: it starts from random weights, and nothing else moves


@checked
def prune_lora(
    model: Model,
    task: Task,
    settings: PruneLora = PruneLora(),
    training: Train = Train(),
    *,
    importance: Importance | None = None,
    teacher: Model | None = None,
    mesh: jax.sharding.Mesh | None = None,
    device_limit: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    adapter_out: str | Path | None = None,
    on_step: OnStep | None = None,
    tokenizer: Any = None,
) -> Model:
    """A smaller model tuned for `task`: unimportant heads (and neurons) cut, adapters trained and merged.

    `adapter_out` also writes the adapter as a PEFT folder, with the cut model that it fits in its folder "base".
    `importance` replaces the measurement: any numbers, higher is needed more; they are normalised like ours. The other
    arguments are those of `finetune`; `device_limit` holds for the head's warm-up and for measuring at gates too, and a
    training that is sure to need more is refused before both. The result's `provenance.record` holds importance, kept
    units, ranks and the training's books. Raises `DataError`, `SettingsError`, `NumericalError`, `OutputError`.
    """
    model = model.with_tokenizer(tokenizer)
    settings.check_for(model.architecture, importance is not None)
    settings = settings.settled(importance is not None)
    if not head_of(model.architecture).drawn:
        settings = replace(settings, head_steps=0)  # there is no new head to warm up
    check_resume(out, resume)
    check_limit(device_limit)
    if adapter_out is not None:
        check_adapter_output(adapter_out, resume)
    store = None if out is None else Store(out, resume)
    tell = on_step or (lambda event: None)
    phases: dict[str, float] = {}
    began = time.perf_counter()
    check_head(model.architecture)
    training.check_for(model.architecture)
    check_teacher(model.architecture, teacher, training)
    devices = training_devices(mesh, training)
    check_model(model)
    _check_room(model.architecture, settings)
    patterns = patterns_of(settings.lora, model.architecture)
    chooser(model, patterns)
    if adapter_out is not None:
        names = [path for path in projection_shapes(model.architecture) if path.endswith(settings.projections)]
        check_apart(dict.fromkeys(names, Size(1, 1.0)), trained_paths(model, patterns), model.architecture)
    samples = settings.samples or SAMPLES
    few = _some_texts(set_aside(task, training), samples, training.seed)
    texts = _some_windows(prepare(model, few), samples, training.seed)
    if teacher is not None:  # before the work; `tune` asks again, of all texts
        fitting(teacher, model, few, texts.encoded, partial(encoded_by, few, model.architecture))
    if importance is not None:
        check_importance(importance, model.architecture)
    asked, whole = replace(training, remat=remat_asked(training, store)), set_aside(task, training)
    check_before(device_limit, model, whole, settings, asked, patterns, importance, devices, teacher)
    if settings.head_steps:
        model = warm_head(model, whole, settings, training, on_step, device_limit)
    phases["head warm-up"] = time.perf_counter() - began

    began = time.perf_counter()
    # Texts that are compared with one another stay together.
    each = texts.encoded.together
    packed = pack(texts.encoded, model.architecture, group=None if each == 1 else each * training.batch_size)
    batches = [*map(masks_of(texts.encoded, training, 0), packed)]  # words as in the first epoch
    if importance is None:
        progress = lambda done: tell({"phase": "importance", "done": done, "of": len(batches)})  # noqa: E731
        importance = measured_importance(model, batches, texts.targets, settings, training.seed, progress, device_limit)
    check_importance(importance, model.architecture)
    heads, neurons = normalised(importance.heads), normalised(importance.neurons)
    phases["importance"] = time.perf_counter() - began

    began = time.perf_counter()
    masks = choose(heads, neurons, model.architecture, settings)
    small = cut(model, masks)
    small = small.replace(params=placed(small.params))
    error = masked_versus_cut(model, small, masks, batches[0])
    plan = rank_plan(heads, small.architecture, settings)
    # Where every head is gone there may be nothing to adapt: norms and the task head train alone then.
    adapters = adapters_of(plan, small.architecture, training.seed) if plan else None
    if adapter_out is not None and adapters is None:
        raise SettingsError("no projection is left for an adapter to write; remove less, or leave adapter_out out.")
    phases["cut"] = time.perf_counter() - began

    began = time.perf_counter()
    tuned = tune(
        small, task, training, trainable=patterns, adapters=adapters, teacher=teacher, mesh=mesh, store=store,
        on_step=on_step, device_limit=device_limit,
    )  # fmt: skip
    phases["training"] = time.perf_counter() - began
    if adapter_out is not None and tuned.adapters is not None and not jax.process_index():
        paths = trained_paths(tuned.base, patterns)
        write_peft(adapter_out, tuned.base, tuned.adapters, paths, again=resume, with_base=True)
    length = ceil(texts.encoded.tokens / len(texts.encoded))
    before = model.provenance.record
    warnings = [*tuned.model.provenance.warnings]
    if error > 1e-5:
        warnings.append(f"masked and cut model differ by {error:.1e} relative; expected at most 1e-5.")
    return tuned.model.replace(
        provenance=replace(tuned.model.provenance, warnings=tuple(dict.fromkeys(warnings)))
    ).with_record(
        method="prune-lora",
        settings=asdict(settings),
        started_from={name: before[name] for name in ("method", "settings", "budget", "removed") if name in before},
        removed=removed(model.architecture, small.architecture, length) | {"length": length},
        parameters={"before": whole_parameters(model.architecture), "after": whole_parameters(small.architecture)},
        kept=compose_kept(before.get("kept"), kept_units(model.architecture, masks), model.architecture),
        importance={"heads": [entry.tolist() for entry in heads]},
        pruned_heads=[np.flatnonzero(~mask).tolist() for mask in model.architecture.of_half(ATTENTION, masks)],
        ranks={name: size.rank for name, size in plan.items()},
        masked_vs_cut=error,
        seconds=sum(phases.values()),
        phases=phases,
        calibration={"source": few.source, "count": len(texts.encoded), "tokens": texts.encoded.tokens},
        warnings=warnings,
        training={**tuned.model.provenance.record["training"], "method": "prune-lora"},
    )


def warm_head(
    model: Model,
    task: Task,
    settings: PruneLora,
    training: Train,
    on_step: OnStep | None,
    device_limit: int | None = None,
) -> Model:
    """The model with its task head trained for `head_steps` steps: gradients through a random head say little."""
    steps = HEAD_STEPS if settings.head_steps is None else settings.head_steps
    texts = _some_texts(task, steps * training.batch_size, training.seed)
    ready = prepare(model, texts)
    warm = replace(
        training, epochs=1, learning_rate=HEAD_RATE, distill=0.0, temperature=None, distill_hidden=0.0,
        teacher_in="device", taught_dtype=None, accumulate=1, dropout=0.0, save_minutes=None, shard="batches",
    )  # fmt: skip
    wanted = [name for name in patterns_of(settings.lora, model.architecture) if name in (HEAD, "pooler/*")]
    batches = first_steps(batches_for(ready.encoded, model.architecture, warm), steps)
    renamed = None if on_step is None else lambda event: on_step({**event, "phase": "head"})
    chosen = chooser(model, wanted or [HEAD])
    warmed = train(
        model, batches, ready.targets, warm, trainable=chosen, on_step=renamed, device_limit=device_limit
    ).model
    return model.replace(params=in_types(warmed.params, result_types(model.params, None)))


def measured_importance(
    model: Model,
    batches: Sequence[Any],
    targets: np.ndarray,
    settings: PruneLora,
    seed: int,
    on_batch: Callable[[int], None] | None = None,
    device_limit: int | None = None,
) -> Importance:
    """The importance that `settings.score` names; measured at gates, in at most `device_limit` bytes on the device."""
    if settings.score == "magnitude":
        norms = weight_norms(model)
        return Importance(*(model.architecture.of_half(half, norms) for half in HALVES))
    if settings.score == "random":
        random, counts = np.random.RandomState(seed), unit_counts(model.architecture)
        return Importance(*([random.rand(n) for n in model.architecture.of_half(half, counts)] for half in HALVES))
    return gate_importance(
        model, batches, targets, neurons=settings.remove_neurons > 0, squared=settings.score == "fisher",
        on_batch=on_batch, device_limit=device_limit,
    )  # fmt: skip


def _some_texts(task: Task, count: int, seed: int) -> Task:
    """The task with `count` of its training texts, or all where there are fewer."""
    examples = task.split("train")
    if count >= len(examples):
        return task
    rows = np.random.RandomState(seed).choice(len(examples), count, replace=False)
    return replace(task, train=tuple(examples[row] for row in rows))


def _some_windows(texts: Texts, count: int, seed: int) -> Texts:
    """`count` of the windows that a running text was cut into, or all where there are fewer, as of other texts."""
    if count * texts.encoded.together >= len(texts.encoded):
        return texts
    rows = np.random.RandomState(seed).choice(len(texts.encoded), count, replace=False)
    return texts._replace(encoded=texts.encoded.picked(rows), targets=texts.targets[rows])


def _check_room(architecture: Architecture, settings: PruneLora) -> None:
    """What the settings ask of an unpruned projection is checked before anything is measured."""
    highest = 1 if settings.rank_budget else max(settings.high_rank or 1, settings.low_rank or 1)
    for name, (inputs, outputs) in projection_shapes(architecture).items():
        if name.rpartition("/")[2] in settings.projections and 0 < min(inputs, prod(outputs)) < highest:
            raise SettingsError(f"rank {highest} is above the width of {name}, {min(inputs, prod(outputs))}; lower it.")
    unknown = [
        name
        for name in settings.projections
        if not any(p.endswith(f"/{name}") for p in projection_shapes(architecture))
    ]
    if unknown:
        raise SettingsError(f"the model has no projection {unknown[0]}; it has {', '.join(HALF_OF)} where gated.")
    if settings.rank_budget is not None and settings.rank_budget < (least := least_cost(architecture, settings)):
        raise SettingsError(
            f"rank_budget {settings.rank_budget} is less than rank 1 everywhere takes, at least {least}; raise it."
        )
