"""Fine-tune a model, dense or pruned, on a task: all of it, some leaves, or low-rank adapters."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..checkpoint.load import NEW_WEIGHTS
from ..checkpoint.manifest import check_all_finite
from ..checks import check_effect, checked
from ..doubts import tell
from ..errors import SettingsError
from ..evaluation.evaluate import evaluate
from ..model import Architecture, Batch, Model, Params, Sites, forward
from ..model.heads import head_of
from ..model.transformer import whole_pass
from ..runtime.device_limit import check_limit
from ..runtime.devices import Devices, placed
from ..runtime.events import OnStep
from ..runtime.precision import full_precision
from ..tasks.example import picked
from ..tasks.kinds import KINDS
from ..tasks.running_text import text_digest
from ..tasks.task import Task
from ..tokens.packing import logits_difference
from ..tokens.text_doubts import CUT
from .epochs import batch_doubts, batch_shape, batches_for
from .fingerprint import digest_of
from .lora import Adapters, Lora, adapters_of, count, merged, patterns_of, plan_of, sites_of
from .losses import as_taught
from .masters import in_types, result_types
from .peft import adapter_digest, check_adapter_output, check_apart, write_peft
from .run_store import Store, check_resume
from .settings import Train
from .spread import training_devices
from .step import Trainable, everything, path_of, select
from .step_limit import remat_asked, within_limit
from .teacher import check_teacher, fitting
from .texts import encoded_by, prepare
from .train import Trained, train
from .training_bytes import training_bytes


class Tuned(NamedTuple):
    """A fine-tuned model and how it came about."""

    model: Model  # merged: plain parameters in the types they were loaded in or asked for, with the record
    base: Model  # before merging, in the same types
    adapters: Adapters | None
    trained: Trained


@checked
def finetune(
    model: Model,
    task: Task,
    settings: Train = Train(),
    *,
    lora: Lora | None = None,
    trainable: Trainable | Sequence[str] = everything,
    teacher: Model | None = None,
    mesh: jax.sharding.Mesh | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    adapter_out: str | Path | None = None,
    device_limit: int | None = None,
    on_step: OnStep | None = None,
    tokenizer: Any = None,
) -> Model:
    """A copy of `model`, dense or pruned, trained on the training texts of `task`.

    All leaves train; or those that `trainable` chooses, a function of a leaf's path or patterns such as
    "layers/*/attention/*"; or, with `lora`, adapters, which are merged at the end (`adapter_out` also writes them as
    a PEFT folder). What trains does so in float32; every parameter of the result, and of the model that is scored, has
    the type it was loaded in, or `settings.result_dtype`. `out` is a folder for the log and for states: a run that was
    killed goes on with `resume=True`, to the same numbers. `teacher`, `mesh`, `on_step` are those of `train`; where a
    mesh spreads weights the result is in host memory, as NumPy arrays. `device_limit`, bytes, refuses a run whose steps
    are predicted to need over a tenth more on a device, or once compiled do need more, before the first of them runs;
    where `settings.remat` is open, layers are recomputed if it is predicted to fit only so.
    `tokenizer` takes the place of the model's own, and stays with the result: a folder, or a loaded one.

    Every epoch is scored on the validation texts, or on `settings.holdout` training texts set aside, and the best one
    is the result; its `provenance.record["training"]` says what was done and what it cost. Raises `DataError`,
    `SettingsError`, `NumericalError`, `OutputError`.
    """
    model = model.with_tokenizer(tokenizer)
    check_resume(out, resume)
    check_limit(device_limit)
    if adapter_out is not None:
        if lora is None:
            raise SettingsError("adapter_out needs adapters; pass lora=Lora(…).")
        check_adapter_output(adapter_out, resume)
    adapters = None
    if lora is not None:
        if trainable is not everything:
            raise SettingsError("with lora, name the other leaves that train in Lora(train=…), not in trainable.")
        plan = plan_of(lora, model.architecture)
        adapters = adapters_of(plan, model.architecture, settings.seed)
        trainable = patterns_of(lora, model.architecture)
        if adapter_out is not None:
            check_apart(plan, trained_paths(model, trainable), model.architecture)
    tuned = tune(
        model, task, settings, trainable=trainable, adapters=adapters, teacher=teacher, mesh=mesh, on_step=on_step,
        store=None if out is None else Store(out, resume), device_limit=device_limit,
    )  # fmt: skip
    if adapter_out is not None and tuned.adapters is not None and not jax.process_index():
        write_peft(adapter_out, tuned.base, tuned.adapters, trained_paths(tuned.base, trainable), again=resume)
    notes = tuned.model.provenance.record["training"]
    notes |= {"method": "full" if lora is None else "lora"} | ({} if lora is None else {"lora": asdict(lora)})
    return tuned.model.with_record(training=notes)


def tune(
    model: Model,
    task: Task,
    settings: Train,
    *,
    trainable: Trainable | Sequence[str] = everything,
    adapters: Adapters | None = None,
    teacher: Model | None = None,
    mesh: jax.sharding.Mesh | None = None,
    store: Store | None = None,
    device_limit: int | None = None,
    on_step: OnStep | None = None,
) -> Tuned:
    """What `finetune` does, with its parts handed back: for methods that extend it."""
    chosen = chooser(model, trainable)
    settings.check_for(model.architecture)
    check_teacher(model.architecture, teacher, settings)
    devices = training_devices(mesh, settings)
    task, split = set_aside(task, settings), split_scored(settings)
    texts = prepare(model, task)
    doubts, read_by = texts.warnings, model.architecture
    if teacher is not None:
        teacher, more = fitting(teacher, model, task, texts.encoded, partial(encoded_by, task, model.architecture))
        doubts += more
        # Batches hold what either of them reads: a model with one token type takes all tokens for type 0.
        read_by = replace(read_by, token_types=max(read_by.token_types, teacher.architecture.token_types))
    batches = batches_for(texts.encoded, read_by, settings, devices)
    first = batches(0)
    leaves = select(model.params, chosen)[0], [] if adapters is None else adapters.weights
    settings = replace(settings, remat=remat_asked(settings, store))
    settings, tight = within_limit(device_limit, model, leaves, first, settings, devices, teacher)
    doubts += tight
    check_all_finite(model.params, "the model")

    types, cut_scored = result_types(model.params, settings.result_dtype), dict[str, None]()

    def score(current: Model, current_adapters: Adapters | None) -> dict[str, Any]:
        rounded = merged(current.replace(params=in_types(current.params, types)), current_adapters)
        scored_now = evaluate(rounded, task, split=split, stream=devices.splits)  # no device holds all weights
        cut_scored.update(dict.fromkeys(warning for warning in scored_now.warnings if CUT in warning))
        return {
            "score": scored_now.score,
            "metric": scored_now.metric,
            "metrics": scored_now.metrics,
            "score_seconds": scored_now.seconds,
        }

    trained = train(
        model, batches, texts.targets, settings, trainable=chosen, adapters=adapters, teacher=teacher,
        encoded=texts.encoded, mesh=mesh, score=score, store=store, on_step=on_step, scored=scored_texts(task, split),
        device_limit=device_limit,
    )  # fmt: skip
    weights = [] if trained.adapters is None else trained.adapters.weights
    parts = select(model.params, chosen)[0], weights
    seconds, (rows, length) = [record["seconds"] for record in trained.epochs], first[0].ids.shape
    notes = {
        "settings": asdict(settings.resolved(model.architecture, adapters is not None)),
        "task": task.name,
        "source": task.source,
        "texts": len(texts.encoded),
        "pairs": task.paired,
        "tokens": texts.encoded.tokens,
        "batch": batch_shape(first),
        "trainable_parameters": count(parts),
        "parameters": count(model.params),
        "epochs": list(trained.epochs),
        "kept_epoch": trained.kept,
        "scored_on": split,
        "seconds": sum(seconds),
        "seconds_per_epoch": sum(seconds) / len(seconds),
        "compile_seconds": trained.compile_seconds,
        "bytes": training_bytes(
            model, parts, rows, length, settings, trained.temp_bytes, devices, teacher, len(first), device_limit
        ),
        "peak_bytes": trained.peak_bytes,
    }
    if devices.mesh is not None:
        notes["mesh"] = {**devices.mesh.shape, "processes": jax.process_count()}
    base = trained.model.replace(params=in_types(trained.model.params, types))
    result = merged(base, trained.adapters)
    if trained.adapters is not None:
        notes["adapter"] = adapter_digest(trained.adapters)
        notes["merged_vs_unmerged"] = merged_versus_unmerged(
            base, trained.adapters, result, as_taught(first[0], model.architecture), devices
        )
    warnings = [entry for entry in model.provenance.warnings if NEW_WEIGHTS not in entry]
    told = [*warnings, *doubts, *batch_doubts(first, settings, devices), *cut_scored]
    provenance = replace(model.provenance, warnings=tuple(dict.fromkeys(told)))
    tell(provenance.warnings)
    return Tuned(
        result.replace(provenance=provenance).with_record(training=notes),
        base.replace(provenance=provenance),
        trained.adapters,
        trained,
    )


@partial(jax.jit, static_argnames="architecture")
def _outputs(params: Params, weights: Any, scaling: Any, batch: Batch, *, architecture: Architecture) -> jax.Array:
    """What `whole_pass` gives, with adapters apart."""
    out = forward(params, batch, architecture, Sites(adapters=sites_of(weights, scaling)))
    language = head_of(architecture).language
    if language is not None:
        return language.losses(params, out.hidden, batch, architecture)
    assert out.logits is not None  # a whole forward pass ends with the head
    return out.logits


def merged_versus_unmerged(
    base: Model, adapters: Adapters, result: Model, batch: Batch, devices: Devices = Devices()
) -> float:
    """Largest difference of logits (of a language model, of next-token losses), adapters apart against merged,
    relative to the largest.
    """
    batch = devices.everywhere(jax.tree.map(lambda leaf: np.asarray(leaf[:2]), batch))
    static, fetch = {"architecture": base.architecture}, devices.fetch
    with full_precision():
        apart = _outputs(fetch(base.params), fetch(adapters.weights), fetch(adapters.scaling), batch, **static)
        together = whole_pass(base.architecture)(fetch(result.params), batch, **static)
    return logits_difference(devices.read(apart), devices.read(together), placed(devices.read(batch)))


def chooser(model: Model, trainable: Trainable | Sequence[str]) -> Trainable:
    """A function of a leaf's path, from one or from patterns. Raises `SettingsError` for one that matches nothing."""
    if callable(trainable):
        return trainable
    patterns = (trainable,) if isinstance(trainable, str) else tuple(trainable)
    paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(model.params)]
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise SettingsError(
                f"pattern {pattern!r} matches no leaf of the model; they are such as {paths[len(paths) // 2]}."
            )
    return lambda path: any(fnmatchcase(path, pattern) for pattern in patterns)


def trained_paths(model: Model, trainable: Trainable | Sequence[str]) -> list[str]:
    """Paths of the leaves that `trainable` chooses."""
    chosen = chooser(model, trainable)
    return [
        path
        for path in (path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(model.params))
        if chosen(path)
    ]


def split_scored(settings: Train) -> str:
    """The split by whose score the best epoch is found."""
    return "holdout" if settings.holdout else "validation"


def scored_texts(task: Task, split: str) -> dict[str, Any]:
    """What the scores of two runs must share for the better of them to mean anything, as `fingerprint` says it."""
    further = task.scored_beside if split == "validation" else ()
    if not KINDS[task.kind].labelled:
        told = [task.max_length, task.windows, text_digest(task.split(split))]
        return {f"{split} texts": digest_of(told), "metric": task.metric}
    examples = [*task.split(split), *(example for name in further for example in task.others.get(name, ()))]
    told = lambda example: [example.text, example.pair] if example.image is None else example.image.hash  # noqa: E731
    texts = [told(example) for example in examples]
    return {
        f"{split} texts": digest_of([task.max_length, texts]),
        f"{split} labels": digest_of([task.labels, [example.label for example in examples]]),
        "metric": task.metric,
    }


def set_aside(task: Task, settings: Train) -> Task:
    """The task with `settings.holdout` training texts as a split "holdout" of their own.

    Raises `SettingsError` for texts set aside of a running text, which has a text of its own to be scored on.
    """
    if task.running:
        check_effect(settings, ("holdout",), "on running text, whose own validation text is scored")
    if not settings.holdout:
        task.split("validation")  # every epoch is scored on it: known to be there before the first
        return task
    train_texts = task.split("train")
    if settings.keep == "last" and task.is_labelled("validation"):
        raise SettingsError(
            f"holdout ({settings.holdout}) has no effect with keep 'last' but to take texts from training: the "
            "validation texts score it; leave one of the two out."
        )
    if settings.holdout >= len(train_texts):
        raise SettingsError(
            f"holdout {settings.holdout} leaves nothing of {len(train_texts)} training texts; set aside fewer."
        )
    order = np.random.RandomState(settings.seed).permutation(len(train_texts))
    held, rest = order[: settings.holdout], np.sort(order[settings.holdout :])
    return replace(
        task,
        train=picked(train_texts, rest),
        others={**task.others, "holdout": picked(train_texts, held)},
    )
