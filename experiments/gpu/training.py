"""What training takes at BERT-base, 32 x 128: bytes by the allocator beside those predicted, milliseconds a step."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import jaxprune as jp
from jaxprune.finetuning.finetune import chooser
from jaxprune.finetuning.lora import adapters_of, patterns_of, plan_of
from jaxprune.finetuning.step import everything, select
from jaxprune.finetuning.train import train
from jaxprune.finetuning.training_bytes import training_bytes
from jaxprune.tokens.encoded import Encoded
from jaxprune.tokens.packing import pack

from . import models
from .book import Book
from .clock import allocator_peak


def measure(book: Book) -> None:
    method, _, remat = book.part.partition(", ")
    settings = jp.Train(remat=bool(remat), keep="last")
    architecture = models.shape_of(models.BERT, book.tiny)
    rows, length, steps = (4, 16, 3) if book.tiny else (32, 128, 12)
    model = models.random_model(architecture)
    if method == "recap":
        book.case("tuning and the rest", recap, book, model, replace(settings, batch_size=rows), rows, length, steps)
    else:
        book.case("step", step, model, replace(settings, epochs=1), method == "lora", rows, length, steps)


def step(model: jp.Model, settings: jp.Train, lora: bool, rows: int, length: int, steps: int) -> Mapping[str, Any]:
    """Some steps of `train`, full or with adapters."""
    a = model.architecture
    adapters = adapters_of(plan_of(jp.Lora(), a), a) if lora else None
    trainable = chooser(model, patterns_of(jp.Lora(), a)) if lora else everything
    ids = list(models.random_ids(a, rows * steps, length))
    batches = pack(Encoded(ids, [np.zeros_like(row) for row in ids]), a, length=length, rows=rows)
    targets, ends = np.arange(len(ids), dtype=np.int32) % len(a.labels), []
    trained = train(
        model, lambda epoch: batches, targets, settings, trainable=trainable, adapters=adapters,
        on_step=lambda event: ends.append(time.perf_counter()),
    )  # fmt: skip
    parts = select(model.params, trainable)[0], [] if adapters is None else adapters.weights
    predicted = training_bytes(model, parts, rows, length, settings, trained.temp_bytes)
    return {
        "ms": 1e3 * float(np.median(np.diff(ends))),
        "compile_seconds": trained.compile_seconds,
        "predicted_bytes": predicted["predicted"],
        "program_bytes": predicted["measured"],  # parameters, moments and the compiled step's temporaries
        "allocator_peak_bytes": allocator_peak(),
    }


def recap(book: Book, model: jp.Model, settings: jp.Train, rows: int, length: int, steps: int) -> Mapping[str, Any]:
    """One round of RECAP, measured on the device: a line a phase, and the largest of them."""
    task = models.number_task(model.architecture, rows * steps, rows, length)
    ends: list[float] = []
    phases: dict[str, Any] = {}

    def on_step(event: dict[str, Any]) -> None:
        if event["phase"] == "train":
            ends.append(time.perf_counter())

    # The allocator's peak is of the whole process: it belongs to the first phase that reached it.
    chosen = jp.Recap(rounds=1, samples=2 * rows, measure_on="device")
    with tempfile.TemporaryDirectory() as folder:
        result = jp.recap(
            models.with_number_tokenizer(model, Path(folder)), task, chosen, settings,
            on_phase=lambda event: phases.update({event["phase"]: event}), on_step=on_step,
        )  # fmt: skip
    predicted = result.provenance.record["training"]["device_bytes"]["predicted"]
    names = ("seconds", "compile_seconds", "transfer_seconds", "allocator_peak_bytes")
    for phase, event in phases.items():
        counted = {"predicted_bytes": predicted[phase], "counted_bytes": event["peak_bytes"]}
        book.write(phase, **{name: event[name] for name in names}, **counted)
    return {
        "ms": 1e3 * float(np.median(np.diff(ends))),
        "compile_seconds": sum(event["compile_seconds"] for event in phases.values()),
        "predicted_bytes": max(predicted.values()),
        "program_bytes": max(event["peak_bytes"] for event in phases.values()),
        "allocator_peak_bytes": allocator_peak(),
    }
