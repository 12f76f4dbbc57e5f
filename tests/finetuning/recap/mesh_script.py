"""What `test_mesh` runs in a process of four devices: `python -m tests.finetuning.recap.mesh_script …` prints JSON."""

import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from jaxprune.errors import SettingsError
from jaxprune.finetuning.recap import run_recap
from jaxprune.finetuning.recap.phase_bytes import abstract_parts, phase_bytes
from jaxprune.finetuning.recap.tuning import trainable_of
from jaxprune.finetuning.spread import training_devices
from jaxprune.finetuning.training_bytes import compiled_step
from jaxprune.model import Architecture, LayerSizes, Model
from jaxprune.runtime.memory import temp_bytes
from tests.finetuning.spread_script import norms, text_task
from tests.helpers.decoders import language_model

SHAPES = {"one": None, "data": (4, 1), "both": (2, 2)}
# Of 48 texts 20, so that of a batch some are measured.
SETTINGS = jp.Recap(rounds=2, remove=0.4, samples=20, outer="touched", measure_on="device", widths="first")
TRAINING = jp.Train(batch_size=24, learning_rate=3e-3, remat=False)
LIMIT = {"one": None, "data": 330_000, "both": None}  # bytes on a device


def on(name: str, training: jp.Train = TRAINING) -> dict[str, Any]:
    """Training and mesh of a run on the devices called `name`: on a mesh of two axes weights are spread too."""
    shape = SHAPES[name]
    if shape is None:
        return {"training": training, "mesh": None}
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(shape), ("data", "model"))
    return {"training": replace(training, shard="weights" if name == "both" else "batches"), "mesh": mesh}


def rounds_of(model: jp.Model, task: jp.Task, settings: jp.Recap, **given: Any) -> dict[str, Any]:
    """What a run came to: losses and scores, which units stayed in every round, the full model, and its books."""
    told: list[float] = []

    def on_step(event: dict[str, Any]) -> None:
        if event["phase"] == "train":
            told.append(event["loss"])

    result = run_recap(model, task, settings, on_step=on_step, **given)
    notes = result.model.provenance.record["training"]
    return {
        "losses": [*told, *(entry["score"] for entry in result.rounds)],
        "units": [[entry["heads"], entry["neurons"]] for entry in result.rounds],
        "norms": norms(result.full.params),
        "bytes": notes["device_bytes"],
        "mesh": notes.get("mesh"),
    }


def resumed(model: jp.Model, task: jp.Task, folder: Path) -> dict[str, Any]:
    """A run that stops after its first round on a mesh and goes on on one device."""

    def stop(event: dict[str, Any]) -> None:
        if event["round"]:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        jp.recap(model, task, SETTINGS, **on("both"), on_phase=stop, out=folder)
    return rounds_of(model, task, SETTINGS, **on("one"), out=folder, resume=True)


def taught(folder: Path) -> list[Any]:
    """A decoder whose full model teaches it, its weights frozen in few bits."""
    sizes: dict[str, Any] = {"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 4}
    sizes |= {"intermediate_size": 16, "num_hidden_layers": 1}
    decoder, text = language_model(folder / "llama", "llama", vocab_size=28, **sizes), text_task(folder)
    training = jp.Train(batch_size=8, learning_rate=3e-3, dropout=0.0, distill=0.5, frozen_dtype="bfloat16")
    settings = jp.Recap(rounds=1, remove=0.5, samples=16)
    return [rounds_of(decoder, text, settings, **on(name, training)) for name in ("one", "both")]


def step_bytes() -> dict[str, Any]:
    """What tuning of a larger model is predicted to take on a device, and what its compiled step does."""
    a = Architecture(
        family="bert", vocab=1000, hidden=128, head_width=32, layers=(LayerSizes(groups=4, neurons=512),) * 2,
        max_positions=64, token_types=2, pooler="tanh", head="classification", labels=("a", "b"),
    )  # fmt: skip
    settings, results = jp.Recap(remove=0.0, freeze=0.5), {}
    parts, trains = abstract_parts(a, 0.5), trainable_of(settings, a)
    for name in SHAPES:
        given = on(name, jp.Train(dropout=0.0, remat=name == "both"))
        devices = training_devices(given["mesh"], given["training"])
        predicted = phase_bytes(a, a, settings, given["training"], 16, 64, devices=devices)
        step = compiled_step(Model(a, parts), 16, 64, given["training"], trainable=trains, devices=devices)
        measured = step.memory_analysis().argument_size_in_bytes + temp_bytes(step)
        results[name] = {**predicted, "measured": measured}
    return results


def refused(model: jp.Model, task: jp.Task) -> list[str]:
    """What is said of what cannot be had together."""
    mesh, said = on("data")["mesh"], []
    odd = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 1), ("data", "rows"))
    calls: list[dict[str, Any]] = [
        {"device": "cpu:1", "mesh": mesh}, {"device_limit": LIMIT["data"]}, {"mesh": odd},
    ]  # fmt: skip
    for given in calls:
        try:
            jp.recap(model, task, SETTINGS, TRAINING, **given)
        except SettingsError as error:
            said.append(str(error))
    return said


if __name__ == "__main__":
    source, data, out = sys.argv[1:]
    model, task, folder = jp.load(source, host=True), jp.tasks.folder(data), Path(out)
    answer: dict[str, Any] = {
        name: rounds_of(model, task, SETTINGS, **on(name), device_limit=LIMIT[name]) for name in SHAPES
    }
    answer |= {"resumed": resumed(model, task, folder / "run"), "taught": taught(folder)}
    answer |= {"refused": refused(model, task), "bytes": step_bytes()}
    print("RESULT " + json.dumps(answer), flush=True)
