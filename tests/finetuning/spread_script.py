"""What `test_spread` runs in processes of their own: `python -m tests.finetuning.spread_script WHAT …` prints JSON."""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from jaxprune.errors import SettingsError
from jaxprune.finetuning import epochs
from jaxprune.finetuning.spread import check_divides, check_spread, training_devices
from jaxprune.finetuning.texts import prepare
from jaxprune.finetuning.train import train
from jaxprune.finetuning.training_bytes import compiled_step, training_bytes
from jaxprune.model import Architecture, LayerSizes, Model, parameter_shapes
from jaxprune.runtime.devices import Devices
from jaxprune.runtime.memory import temp_bytes
from tests.finetuning.test_language_models import sentences
from tests.helpers.decoders import language_model

SHAPES = {"one": None, "data": (4, 1), "weights": (4, 1), "both": (2, 2), "two": (2, 1)}
SETTINGS = jp.Train(epochs=1, batch_size=16, learning_rate=3e-3)
FEW = ["layers/1/feed_forward/*", "head/*"]


def on(name: str, settings: jp.Train) -> dict[str, Any]:
    """Settings and mesh of a run on the devices called `name`: weights are spread on all but the first two."""
    shape, mesh = SHAPES[name], None
    if shape is not None:
        mesh = jax.sharding.Mesh(np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape), ("data", "model"))
    return {"settings": replace(settings, shard="batches" if name in ("one", "data") else "weights"), "mesh": mesh}


def norms(tree: Any) -> list[float]:
    return [float(np.linalg.norm(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(tree)]


def tuned(model: jp.Model, task: jp.Task, given: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Losses and score of a run of `finetune`, and what it made."""
    told: list[float] = []
    result = jp.finetune(model, task, on_step=lambda event: told.append(event["loss"]), **given, **more)
    notes = result.provenance.record["training"]
    assert notes.get("merged_vs_unmerged", 0) < 1e-5
    return {"losses": [*told, notes["epochs"][-1]["score"]], "norms": norms(result.params)}


def trained(model: jp.Model, task: jp.Task, given: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The same of `train`, which scores nothing: the mean loss is in the score's place."""
    told, settings = list[float](), given["settings"]
    texts, devices = prepare(model, task), training_devices(given["mesh"], settings)
    batches = epochs.batches_for(texts.encoded, model.architecture, settings, devices)
    result = train(
        model, batches, texts.targets, settings, mesh=given["mesh"],
        on_step=lambda event: told.append(event["loss"]), **more,
    )  # fmt: skip
    return {"losses": [*told, result.epochs[-1]["loss"]], "norms": norms(result.model.params)}


def text_task(folder: Path) -> jp.Task:
    random = np.random.RandomState(0)
    for name, count in (("train.txt", 300), ("valid.txt", 60)):
        (folder / name).write_text(sentences(random, count))
    return jp.tasks.text(folder / "valid.txt", train=folder / "train.txt", length=16)


def same_losses(folder: Path) -> dict[str, Any]:
    """A decoder with a teacher, in parts; one with adapters, in few bits and recomputed."""
    sizes: dict[str, Any] = {"hidden_size": 24, "num_attention_heads": 8, "num_key_value_heads": 4}
    sizes |= {"intermediate_size": 16, "num_hidden_layers": 1}
    decoder, text = language_model(folder / "llama", "llama", vocab_size=28, **sizes), text_task(folder)
    still = replace(SETTINGS, batch_size=8, dropout=0.0)
    taught = replace(still, distill=0.5, distill_hidden=1.0, accumulate=2)
    small = replace(still, remat=True, frozen_dtype="bfloat16", moments_dtype="bfloat16")
    lora = jp.Lora(rank=2, projections=("q", "o", "up"))
    return {
        "adapters": [tuned(decoder, text, on(name, small), lora=lora) for name in ("one", "weights")],
        "decoder": [trained(decoder, text, on(name, taught), teacher=decoder) for name in ("one", "data")],
    }


def resumed(encoder: jp.Model, task: jp.Task, folder: Path) -> dict[str, Any]:
    """A run of an encoder on one device and on four; one that stops after two steps on some goes on on others."""

    def stop(event: dict[str, Any]) -> None:
        if event["done"] == 2:
            os.kill(os.getpid(), signal.SIGINT)  # waits for the step, and a state is saved

    results = {name: tuned(encoder, task, on(name, SETTINGS), trainable=FEW) for name in ("one", "both")}
    for first, then in (("weights", "one"), ("one", "weights"), ("weights", "two")):
        given: dict[str, Any] = {"trainable": FEW, "out": folder / f"{first}-{then}"}
        with suppress(KeyboardInterrupt):
            jp.finetune(encoder, task, **on(first, SETTINGS), on_step=stop, **given)
        results[f"{first} {then}"] = tuned(encoder, task, on(then, SETTINGS), resume=True, **given)
    return results


def recovered(encoder: jp.Model, task: jp.Task) -> dict[str, list[float]]:
    """How far a pruned model is from the dense one in the course of its recovery: on one device; and on a mesh, with
    the dense one in host memory.
    """
    settings = jp.Recover(task.calibration(40), steps=3, learning_rate=5e-3, hidden=0.0, trainable=("layers/1/*",))
    looks = {}
    for name, place in (("one", "device"), ("both", "host")):
        recover, mesh = replace(settings, teacher_in=place), on(name, SETTINGS)["mesh"]
        small = jp.prune(encoder, task.calibration(16), jp.Budget(0.5), jp.Magnitude(), mesh=mesh, recover=recover)
        looks[name] = small.provenance.record["recovery"]["gap"]["looks"]
    return looks


def step_bytes() -> dict[str, Any]:
    """What the steps of a small model are predicted to take on a device; of two, what their programs do."""
    a = Architecture(
        family="bert", vocab=1000, hidden=128, head_width=32, layers=(LayerSizes(groups=4, neurons=512),) * 2,
        max_positions=64, token_types=2, pooler="tanh", head="classification", labels=("a", "b"),
    )  # fmt: skip
    leaf = lambda shape: jax.ShapeDtypeStruct(shape, np.float32)  # noqa: E731
    model = Model(a, jax.tree.map(leaf, parameter_shapes(a), is_leaf=lambda node: isinstance(node, tuple)))
    results = {}
    for name, remat in (("one", False), ("data", False), ("weights", False), ("both", True)):
        given = on(name, jp.Train(dropout=0.0, remat=remat))
        settings, devices = given["settings"], training_devices(given["mesh"], given["settings"])
        step = compiled_step(model, 16, 64, settings, devices=devices) if devices.by_weights else None
        temp = 0 if step is None else temp_bytes(step)
        results[name] = training_bytes(model, (model.params, []), 16, 64, settings, temp, devices)
        if step is not None:
            results[name]["arguments"] = step.memory_analysis().argument_size_in_bytes
    return results


def refused() -> list[str]:
    """What is said of meshes that do not go with the rest."""
    grid = lambda *shape: np.array(jax.devices()).reshape(shape)  # noqa: E731
    weights = {"head": {"kernel": np.zeros((6, 2))}}
    calls: list[Callable[[], Any]] = [
        lambda: check_divides(Devices(jax.sharding.Mesh(grid(4), ("data",))), 6, 2),
        lambda: check_spread(Devices(jax.sharding.Mesh(grid(1, 4), ("data", "model"))), weights),
        lambda: check_spread(Devices(jax.sharding.Mesh(grid(4), ("data",)), by_weights=True), weights),
        lambda: training_devices(jax.sharding.Mesh(grid(2, 2), ("data", "rows")), SETTINGS),
    ]
    said = []
    for call in calls:
        try:
            call()
        except SettingsError as error:
            said.append(str(error))
    return said


def of_processes(encoder: jp.Model, task: jp.Task, folder: Path) -> dict[str, Any]:
    """One run of all processes, with a folder that they share; and the rows that this one reads for a step."""
    built, batch_of, by_step = [], epochs.batch_of, []
    epochs.batch_of = lambda rows, *rest: built.append(rest[-1][0]) or batch_of(rows, *rest)  # type: ignore[attr-defined]

    def on_step(event: dict[str, Any]) -> None:
        by_step.append((event["loss"], list(built)))
        built.clear()

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    result = jp.finetune(
        encoder, task, replace(SETTINGS, shard="weights"), mesh=mesh, trainable=FEW, out=folder / "run", on_step=on_step
    )
    score = result.provenance.record["training"]["epochs"][-1]["score"]
    losses, rows = zip(*by_step, strict=True)
    return {"losses": [*losses, score], "norms": norms(result.params), "rows": rows[1:], "devices": jax.device_count()}


if __name__ == "__main__":
    what, folder, data, out, *meeting = sys.argv[1:]
    if meeting:
        jax.distributed.initialize(meeting[0], int(meeting[1]), int(meeting[2]))
    inputs = jp.load(folder), jp.tasks.folder(data), Path(out)
    if what == "devices":
        found: dict[str, Any] = {"losses": same_losses(inputs[2]), "resumed": resumed(*inputs)}
        answer = found | {"bytes": step_bytes(), "refused": refused(), "recovered": recovered(*inputs[:2])}
    else:
        answer = of_processes(*inputs)
    print("RESULT " + json.dumps(answer), flush=True)
