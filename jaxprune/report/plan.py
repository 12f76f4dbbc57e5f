"""What a run will cost and give, before it starts: exact figures for the model, estimates for time and memory."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from ..checks import check_given, checked
from ..doubts import tell
from ..errors import DataError
from ..model import Architecture, LayerSizes, Model
from ..pruning.budget import Budget
from ..pruning.by_name import method_of
from ..pruning.call_checks import as_budgets, check_budget
from ..pruning.cost import flops, parameters, total_cost, whole_flops, whole_parameters
from ..pruning.kept import KEEP_BYTES
from ..pruning.method import Method
from ..pruning.methods import KPrune
from ..runtime.memory import host_peak_bytes
from ..tasks.calibration import Calibration
from ..tasks.example import MAX_LENGTH
from ..tokens.packing import batch_tokens
from ..tokens.tokenizer import Tokenizer
from ..tokens.windows import encoded_for, first_windows
from .figures import Plan, PlannedForwards, PlannedSize, PlannedTexts
from .forecast import forecast

FLOAT_BYTES = 4  # of a float32


@checked
def plan(
    model: Model,
    calibration: int | Calibration,
    budget: Budget | Sequence[Budget],
    method: Method | str = KPrune(),
    *,
    length: int | None = None,
    tokenizer: Any = None,
    mesh: Mesh | None = None,
    stream: bool = False,
    keep_bytes: int = KEEP_BYTES,
) -> Plan:
    """Predicted FLOPs, parameters, bytes and seconds of pruning `model` to `budget`, or to several in one run.

    `calibration` is a `Calibration`, whose tokens are counted, or a number of texts, taken to be `length` tokens
    long each (None: `budget.length`, else 128), or of images, which have as many as they have. `method` is that of
    `prune`, `tokenizer` takes the place of the model's own; `mesh`, `stream` and `keep_bytes` are those of the run
    to come. Seconds come from the method itself, run on one and two layers (`forecast`), and hold for this process:
    what it has compiled before costs nothing. Peak bytes are predicted for K-prune on one device that holds the
    weights, else None. The rest is arithmetic. `assumptions` says in words what the estimates rest on, `warnings`
    what is doubtful. Raises `BudgetError`, `DataError`.
    """
    check_given(model=(model, Model))
    check_budget(budget)
    model = model.with_tokenizer(tokenizer)
    budgets, alone = as_budgets(budget)
    architecture, chosen = model.architecture, method_of(method)
    lengths, assumptions, warnings = _lengths(model, calibration, length or budgets[0].length)
    texts, tokens = len(lengths), sum(lengths)
    counted_at = budgets[0].length or math.ceil(tokens / texts)
    left = [_left(architecture, entry, counted_at) for entry in budgets]
    expected = forecast(model, chosen, budgets, lengths, mesh=mesh, stream=stream, keep_bytes=keep_bytes)
    # The formula is of one device that has all weights.
    predicted = chosen.name == "kprune" and mesh is None and not stream
    assumptions += [
        "FLOPs and parameters: what a budget does not count is left in the same share as what it does; the split "
        "between heads and neurons decides.",
        "seconds: measured here on one and two layers of the model; evaluation and loading apart.",
        "bytes: float32; those of peak are predicted for K-prune on one device that holds the weights, and arrays: "
        "Python, its libraries and what they do come to it (host_peak_bytes: the whole process so far).",
    ]
    tell(warnings)
    return Plan(
        method=chosen.name,
        length=counted_at,
        calibration=PlannedTexts(texts=texts, tokens=tokens),
        dense=PlannedSize(
            flops=whole_flops(architecture, counted_at),
            prunable_flops=flops(architecture, counted_at),
            parameters=whole_parameters(architecture),
            prunable_parameters=parameters(architecture),
            bytes=FLOAT_BYTES * whole_parameters(architecture),
        ),
        pruned=tuple(left),
        tokens_per_second=tokens / expected.dense_forward_seconds,
        dense_forward_seconds=expected.dense_forward_seconds,
        dense_forwards=PlannedForwards(first=expected.first_forwards, further=expected.further_forwards),
        compile_seconds=expected.compile_seconds,
        seconds=expected.seconds,
        peak_bytes=peak_bytes(architecture, tokens, keep_bytes, _bytes_of(model)) if predicted else None,
        assumptions=assumptions,
        host_peak_bytes=host_peak_bytes(),
        warnings=warnings,
        several=not alone,
    )


def _left(architecture: Architecture, budget: Budget, length: int) -> PlannedSize:
    """What a budget leaves of the model, in FLOPs at `length` tokens, parameters and bytes."""
    own = budget.length or length
    allowed = budget.allowed(architecture, own)
    share = allowed / total_cost(architecture, budget.cost, own)
    outside = whole_parameters(architecture) - parameters(architecture)
    outside_flops = whole_flops(architecture, length) - flops(architecture, length)
    exact = budget.cost == "flops" and own == length
    kept_flops = allowed if exact else round(share * flops(architecture, length))
    kept = allowed if budget.cost == "params" else round(share * parameters(architecture))
    return PlannedSize(
        flops=kept_flops + outside_flops,
        prunable_flops=kept_flops,
        parameters=kept + outside,
        prunable_parameters=kept,
        bytes=FLOAT_BYTES * (kept + outside),
    )


def _bytes_of(model: Model) -> int:
    """Of all weights, in the types that they are kept in."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))


def peak_bytes(
    architecture: Architecture, tokens: int, keep_bytes: int = KEEP_BYTES, weights: int | None = None
) -> dict[str, int]:
    """The parts of a K-prune run's memory, its two phases, and under "total" the larger of them.

    `weights` are the bytes of all of them (None: of float32).
    Only `streams`, and up to `keep_bytes` what is kept between passes, grow with the calibration texts. Temporaries are
    the features of the widest sublayer and what is computed from them on the way back: an estimate, not a bound.
    """
    a, width = architecture, architecture.head_width
    units = [(size.heads * width, size.neurons) for size in a.layers]
    length = min(128, a.max_positions)
    features = max(max(pair) for pair in units)
    scores = max(size.heads for size in a.layers) * length  # per token: one row of every head's attention matrix
    parts = {
        "parameters": FLOAT_BYTES * whole_parameters(a) if weights is None else weights,
        "statistics": FLOAT_BYTES * sum(n * n + a.hidden**2 for pair in units for n in pair),  # Grams and sensitivities
        # One batch on its way up leaves the stream and the input projections of every sublayer for the way back.
        "batch": FLOAT_BYTES * batch_tokens() * sum(2 * a.hidden + _projected(a, size) for size in a.layers),
        # Two boundary activations a token, its weight in every sublayer's fit, its id, segment, position and type.
        "streams": FLOAT_BYTES * tokens * (2 * a.hidden + len(a.sublayers()) + 4),
        "temporaries": FLOAT_BYTES * batch_tokens() * 3 * max(features, scores),
    }
    held = FLOAT_BYTES * tokens * features if FLOAT_BYTES * tokens * features <= keep_bytes else 0
    parts["kept"] = min(FLOAT_BYTES * tokens * a.hidden * len(a.sublayers()), keep_bytes - held)
    measuring = parts["parameters"] + parts["statistics"] + parts["batch"] + parts["temporaries"] + parts["kept"]
    fitting = 2 * parts["parameters"] + parts["streams"] + parts["temporaries"] + parts["kept"] + held
    return {**parts, "measuring": measuring, "fitting": fitting, "total": max(measuring, fitting)}


def _projected(architecture: Architecture, size: LayerSizes) -> int:
    """Outputs of all input projections of a layer."""
    attention = size.groups * (size.queries + 2) * architecture.head_width
    return attention + size.neurons * (2 if architecture.gated else 1)


def _lengths(
    model: Model, calibration: int | Calibration, length: int | None
) -> tuple[list[int], list[str], list[str]]:
    """The tokens of every text, what was assumed of them, and doubts."""
    if isinstance(calibration, int):
        a, texts = model.architecture, calibration
        if texts < 1:
            raise DataError(f"a run calibrates on one text at least, got {texts}; say how many, such as 512.")
        if a.patches is not None:
            if length not in (None, a.patches.tokens):
                raise DataError(f"images are {a.patches.tokens} tokens to the model, not {length}; leave length out.")
            return [a.patches.tokens] * texts, [f"tokens: {a.patches.tokens} an image; no images were given."], []
        if length is not None and a.positions != "none" and length > a.max_positions:
            raise DataError(f"texts of {length} tokens do not fit the model's {a.max_positions} positions.")
        length = length or min(MAX_LENGTH, a.max_positions)
        return [length] * texts, [f"tokens: {length} a text; no texts were given."], []
    if calibration.windows is not None:  # their tokens are known, so that only as many need be there
        tokenizer = Tokenizer.of(model)
        first_windows(tokenizer, calibration, calibration.windows)
        doubts = [*calibration.warnings, *tokenizer.doubts(())]
        return [calibration.max_length] * calibration.windows, [], doubts
    encoded, surprises = encoded_for(model, calibration)
    return [len(ids) for ids in encoded.ids], [], [*calibration.warnings, *surprises]
