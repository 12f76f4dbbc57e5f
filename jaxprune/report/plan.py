"""What a run will cost and give, before it starts: exact figures for the model, estimates for time and memory."""

import math
import time
from typing import Any

from ..data.batches import batch_tokens
from ..model import Architecture, LayerSizes, Model
from ..prune.budget import Budget
from ..prune.cost import flops, parameters, total_cost, whole_flops, whole_parameters
from .bench import compile_forward

BYTES = 4  # of a float32
FORWARDS = 11.0  # dense forward passes over the calibration texts, measured (experiments/results)
COMPILE_SECONDS = 8.0  # that its programs took to compile on models of six layers; they do not grow with depth


def plan(model: Model, calibration: Any, budget: Budget, *, tokenizer: Any = None) -> dict[str, Any]:
    """Predicted FLOPs, parameters, bytes and seconds of pruning `model` with K-prune to `budget`.

    `calibration` is a `Calibration`, whose tokens are counted, or a number of texts, taken to be `budget.length` tokens
    long each (128 where it says nothing). `tokenizer` takes the place of the model's own. One small forward pass is
    run to measure tokens per second here; the rest is arithmetic. `assumptions` says what the estimates rest on.
    """
    architecture = model.architecture
    texts, tokens, assumptions = _count(model.with_tokenizer(tokenizer), calibration, budget)
    length = budget.length or math.ceil(tokens / texts)
    allowed = budget.allowed(architecture, length)
    share = allowed / total_cost(architecture, budget.cost, length)
    outside = whole_parameters(architecture) - parameters(architecture)
    outside_flops = whole_flops(architecture, length) - flops(architecture, length)
    left = {
        "flops": allowed if budget.cost == "flops" else round(share * flops(architecture, length)),
        "params": allowed if budget.cost == "params" else round(share * parameters(architecture)),
    }
    rate, compile_seconds = _forward_rate(model)
    dense_forward = tokens / rate
    other = "params" if budget.cost == "flops" else "flops"
    assumptions += [
        f"{other} left: the same share as {budget.cost}; the split between heads and neurons decides.",
        f"seconds: {FORWARDS:g} dense forward passes and {COMPILE_SECONDS:g} s of compilation, "
        "as measured on a CPU; evaluation and loading apart.",
        "bytes: float32.",
    ]
    return {
        "length": length,
        "calibration": {"texts": texts, "tokens": tokens},
        "dense": {
            "flops": whole_flops(architecture, length),
            "prunable_flops": flops(architecture, length),
            "parameters": whole_parameters(architecture),
            "prunable_parameters": parameters(architecture),
            "bytes": BYTES * whole_parameters(architecture),
        },
        "pruned": {
            "flops": left["flops"] + outside_flops,
            "prunable_flops": left["flops"],
            "parameters": left["params"] + outside,
            "prunable_parameters": left["params"],
            "bytes": BYTES * (left["params"] + outside),
        },
        "tokens_per_second": rate,
        "forward_compile_seconds": compile_seconds,
        "dense_forward_seconds": dense_forward,
        "seconds": FORWARDS * dense_forward + COMPILE_SECONDS,
        "peak_bytes": peak_bytes(architecture, tokens),
        "assumptions": assumptions,
    }


def peak_bytes(architecture: Architecture, tokens: int) -> dict[str, int]:
    """The parts of a K-prune run's memory, its two phases, and under "total" the larger of them.

    Only `streams` grows with the calibration texts. Temporaries are the features of the widest sublayer and what is
    computed from them on the way back: an estimate, not a bound.
    """
    a, width = architecture, architecture.head_width
    units = [(size.heads * width, size.neurons) for size in a.layers]
    length = min(128, a.max_positions)
    features = max(max(pair) for pair in units)
    scores = max(size.heads for size in a.layers) * length  # per token: one row of every head's attention matrix
    parts = {
        "parameters": BYTES * whole_parameters(a),
        "statistics": BYTES * sum(n * n + a.hidden**2 for pair in units for n in pair),  # Grams and sensitivities
        # One batch on its way up leaves the stream and the input projections of every sublayer for the way back.
        "batch": BYTES * batch_tokens() * sum(2 * a.hidden + _projected(a, size) for size in a.layers),
        # Two boundary activations a token, its weight in every sublayer's fit, its id, segment, position and type.
        "streams": BYTES * tokens * (2 * a.hidden + 2 * len(a.layers) + 4),
        "temporaries": BYTES * batch_tokens() * 3 * max(features, scores),
    }
    measuring = parts["parameters"] + parts["statistics"] + parts["batch"] + parts["temporaries"]
    fitting = 2 * parts["parameters"] + parts["streams"] + parts["temporaries"]
    return {**parts, "measuring": measuring, "fitting": fitting, "total": max(measuring, fitting)}


def _projected(architecture: Architecture, size: LayerSizes) -> int:
    """Outputs of all input projections of a layer."""
    attention = size.groups * (size.queries + 2) * architecture.head_width
    return attention + size.neurons * (2 if architecture.gated else 1)


def _count(model: Model, calibration: Any, budget: Budget) -> tuple[int, int, list[str]]:
    if isinstance(calibration, int):
        length = budget.length or min(128, model.architecture.max_positions)
        return max(calibration, 1), max(calibration, 1) * length, [f"tokens: {length} a text; no texts were given."]
    from ..data.text import encoded_for

    encoded, _ = encoded_for(model, calibration)
    return len(encoded), encoded.tokens, []


def _forward_rate(model: Model) -> tuple[float, float]:
    """Tokens per second of a small forward pass, and its compile seconds."""
    length = min(128, model.architecture.max_positions)
    rows = max(1, 512 // length)
    compile_seconds, _, run = compile_forward(model, rows, length)
    run()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return rows * length / min(times), compile_seconds
