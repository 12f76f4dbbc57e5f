"""K-prune by phase: at BERT-base's shape, and on language models, weights resident and streamed; and one trace."""

import gzip
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax

import jaxprune as jp
from jaxprune.model import Architecture

from . import models
from .book import Book
from .clock import allocator_peak
from .watch import by_phase, cache_events, scoring_in_bfloat16

PHASES = ("prepare", "measure", "search", "refit", "cut")
TRACE = "gpu_trace.json.gz"
TRACE_LIMIT = 16 * 10**6  # bytes


def figures(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's own record says, seconds by phase among it."""
    names = ("seconds", "compile_seconds", "compiled_programs", "dense_forward_seconds", "dense_forwards")
    return {
        **{name: record[name] for name in names},
        **{phase: record["phases"].get(phase, 0.0) for phase in PHASES},
        "tokens": record["calibration"]["tokens"],
        "counted_peak_bytes": record["peak_bytes"],
        "masked_vs_cut": record["masked_vs_cut"],
        "allocator_peak_bytes": allocator_peak(),
    }


def run(model: jp.Model, texts: jp.Calibration, stream: bool = False) -> dict[str, Any]:
    """One run to 60 % removed."""
    with cache_events() as counts:
        record = jp.kprune(model, texts, jp.Budget(0.6), stream=stream).provenance.record
    return figures(record) | counts


def again(model: jp.Model, texts: jp.Calibration) -> tuple[dict[str, Any], dict[str, Any]]:
    """A warm run, and what a further budget adds to it."""
    first, second = jp.kprune(model, texts, [jp.Budget(0.6), jp.Budget(0.4)])
    return figures(first.provenance.record), figures(second.provenance.record)


def watched(model: jp.Model, texts: jp.Calibration) -> dict[str, Any]:
    """A warm run by phase: {"measure": {"all", "device", "host solves", "transfers"}, …}, in seconds."""
    with by_phase() as seconds:
        jp.kprune(model, texts, jp.Budget(0.6))
    return {"phases": {phase: {k: round(v, 4) for k, v in found.items()} for phase, found in seconds.items()}}


# --- K-prune on BERT-base's shape


def measure_bert(book: Book) -> None:
    architecture = models.shape_of(models.BERT, book.tiny)
    model = models.on_device(models.random_model(architecture))
    texts = models.calibration(architecture, *((64, 16) if book.tiny else (800, 128)))
    with scoring_in_bfloat16() if book.part == "bfloat16" else nullcontext():
        if not book.case("cold", run, model, texts):
            return
        warm: list[dict[str, Any]] = []

        def first() -> dict[str, Any]:
            warm.extend(again(model, texts))
            return warm[0]

        if book.case("warm", first):
            book.write("second budget", **warm[1])
        book.case("warm, by phase", watched, model, texts)


# --- language models: OPT-125M's shape, and some layers of Llama-3.2-1B's

LLAMA_LAYERS, FEWER = 4, 2


def measure_language_models(book: Book) -> None:
    stream = book.part == "llama streamed"
    if book.part == "opt":
        architecture, texts, length = models.OPT, 32, 512
    else:
        architecture, texts, length = models.LLAMA, 16, 512
    texts, length = (16, 16) if book.tiny else (texts, length)
    if book.part == "opt":
        book.case("12 layers, cold", language_model, models.shape_of(architecture, book.tiny), texts, length, stream)
        return
    seconds: dict[int, dict[str, Any]] = {}

    def with_layers(layers: int) -> dict[str, Any]:
        shape = models.shape_of(architecture, book.tiny, layers)
        seconds[layers] = language_model(shape, texts, length, stream)
        return seconds[layers]

    cold = book.case(f"{LLAMA_LAYERS} layers, cold", with_layers, LLAMA_LAYERS)
    # Only where there is time: half of the first run, and its programs are there.
    took = seconds[LLAMA_LAYERS]["seconds"] - seconds[LLAMA_LAYERS]["compile_seconds"] if cold else 0.0
    if cold and book.case(f"{FEWER} layers", with_layers, FEWER, needs=took):
        every = len(architecture.layers)
        book.write(f"{every} layers, extrapolated", **extrapolated(seconds[FEWER], seconds[LLAMA_LAYERS], every))


def language_model(architecture: Architecture, texts: int, length: int, stream: bool) -> dict[str, Any]:
    """One run with weights in bfloat16, as such checkpoints come."""
    model = models.random_model(architecture, dtype="bfloat16")
    return run(model if stream else models.on_device(model), models.calibration(architecture, texts, length), stream)


def extrapolated(fewer: Mapping[str, Any], more: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Seconds of so many layers without compilation, on a line through two runs: nothing of this size was run."""
    short, long = (entry["seconds"] - entry["compile_seconds"] for entry in (fewer, more))
    each = (long - short) / (LLAMA_LAYERS - FEWER)
    return {"seconds": long + (layers - LLAMA_LAYERS) * each, "extrapolated_from": [FEWER, LLAMA_LAYERS]}


# --- one trace


def measure_trace(book: Book) -> None:
    """A trace of a warm run on one batch, small enough to hand around, and what took longest in it."""
    architecture = models.shape_of(models.BERT, book.tiny, 4)
    model = models.on_device(models.random_model(architecture))
    texts = models.calibration(architecture, *((32, 16) if book.tiny else (128, 128)))
    if book.case("cold", run, model, texts):
        book.case("trace of a warm run", traced, book.out, model, texts)


def traced(out: Path, model: jp.Model, texts: jp.Calibration) -> dict[str, Any]:
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level, options.host_tracer_level = 0, 1  # else it is hundreds of megabytes
    with tempfile.TemporaryDirectory() as scratch:
        with jax.profiler.trace(scratch, profiler_options=options):
            jp.kprune(model, texts, jp.Budget(0.6))
        (file,) = Path(scratch).rglob("*.trace.json.gz")
        size = file.stat().st_size
        if size < TRACE_LIMIT:
            shutil.copyfile(file, out / TRACE)
        with gzip.open(file) as opened:
            found = largest(json.load(opened)["traceEvents"])
    return {"file": TRACE if size < TRACE_LIMIT else None, "bytes": size, "largest": found}


def largest(events: list[dict[str, Any]], count: int = 10) -> list[dict[str, Any]]:
    """The names that took longest in all, of the device's own rows where the trace has them."""
    places = {event["pid"]: event["args"]["name"] for event in events if event.get("name") == "process_name"}
    on_device = {pid for pid, name in places.items() if name.startswith("/device:")}
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in events:
        if event.get("ph") == "X" and (event["pid"] in on_device or not on_device):
            spent[event["name"]][0] += event.get("dur", 0.0)
            spent[event["name"]][1] += 1
    first = sorted(spent.items(), key=lambda item: -item[1][0])[:count]
    return [{"name": name[:120], "ms": us / 1e3, "calls": int(calls)} for name, (us, calls) in first]
