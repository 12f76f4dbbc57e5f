"""Bottom up, sublayer by sublayer: fit what is kept so that the pruned stream follows the dense stream.

Two residual streams run side by side over the calibration texts, the dense model's and the pruned model's. At every
sublayer the kept units are fitted to the dense model's targets on the *pruned* stream's inputs, so that each sublayer
also repairs what the ones below it lost (K-prune, section 3.3).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..model.architecture import ATTENTION, Architecture, Sublayer
from ..model.context import context_of
from ..model.model import Batch, Model, Params
from ..model.sublayer import (
    INPUTS,
    NORMS,
    OUTPUT,
    norm,
    project_out,
    read_stream,
    residual,
    shares_with_distances,
    sublayer_features,
)
from ..runtime.by_sublayer import advance, outer_params, output_of, start
from ..runtime.programs import Programs
from .backward import unit_width
from .cut import Mask, kept_groups, put_queries, put_units, take_queries, take_units
from .kept import KeptPasses
from .least_squares import Normal, Refit, accumulate, empty_normal, solve, solve_scales
from .refit_settings import Fit

ACCELERATED = 300  # times the work that an accelerator does while it compiles one program, a two-core CPU's being 1


class Streams(NamedTuple):
    """Both residual streams before the next sublayer, one array a batch: all that is kept for every token."""

    dense: list[Array]
    pruned: list[Array]


@partial(jax.jit, static_argnames="architecture", donate_argnames="normal")
def observe_inputs(
    norms: Params, x_dense: Array, x_pruned: Array, weight: Array, normal: Normal, *, architecture: Architecture
) -> Normal:
    """Sums for `fit_inputs` of what the input projections read on both streams; `norms` are the sublayer's."""
    x_dense, x_pruned = (read_stream(norms, x, architecture) for x in (x_dense, x_pruned))
    return accumulate(normal, x_pruned, x_dense, weight)


def fit_inputs(small: Params, normal: Normal, ridge: float, *, half: str) -> tuple[Params, Refit]:
    """Input projections (and biases, where the family has them) that read the dense stream off the pruned one.

    With x on the dense stream and y on the pruned one, the least-squares fit of x W + b on y, shrunk towards W, is
    M W for every W, where M y + m is the fit of x itself, shrunk towards y: one small system instead of one as wide as
    all projections. `small` holds numpy arrays. Keys and queries that distances share are left as they are: what
    distances say has not changed.
    """
    first = small[INPUTS[half][0]]
    hidden = len(first["kernel"])
    solved = solve(normal, np.eye(hidden), np.zeros(hidden), ridge, 1.0, "bias" in first)
    fitted = dict(small)
    shared = ("q", "k") if shares_with_distances(small) else ()
    for name in INPUTS[half]:
        if name in small and name not in shared:
            kernel = small[name]["kernel"]
            flat = kernel.reshape(hidden, -1)
            fitted[name] = {"kernel": (solved.weight @ flat).reshape(kernel.shape)}
            if "bias" in small[name]:
                bias = small[name]["bias"]
                fitted[name]["bias"] = bias + (solved.bias @ flat).reshape(bias.shape)
    return fitted, solved


@partial(jax.jit, static_argnames=("half", "architecture"))
def features_at(
    small: Params, x_pruned: Array, batch: Batch, *, half: str, architecture: Architecture
) -> Float[Array, "rows length features"]:
    """What the units of a sublayer say on the pruned stream."""
    features = sublayer_features(half, small, x_pruned, context_of(architecture, batch), architecture)
    return features.reshape(*features.shape[:2], -1)


@partial(jax.jit, static_argnames="architecture", donate_argnames="normal")
def observe(
    features: Array, goal: Array, x_pruned: Array, weight: Array, normal: Normal, *, architecture: Architecture
) -> Normal:
    """Sums for fitting the output projection; `goal` is the dense stream after the sublayer, before its norm.

    The input's difference is included. Not where what a sublayer adds is normed on its own: that sum is not linear in
    the projection, and `goal` is what the dense sublayer gives to its norm.
    """
    return accumulate(normal, features, goal if architecture.norms_update else goal - x_pruned, weight)


@partial(jax.jit, static_argnames="architecture", donate_argnames="x_pruned")
def leave(out: Params, norms: Params, features: Array, x_pruned: Array, *, architecture: Architecture) -> Array:
    """The pruned stream after the sublayer: `out` is its output projection, `norms` its norms."""
    return residual(norms, x_pruned, project_out(out, features), architecture)


@partial(jax.jit, static_argnames="architecture")
def settle(norms: Params, x_dense: Array | None, goal: Array, *, architecture: Architecture) -> Array:
    """The dense stream after a sublayer whose norm comes last, or that norms what it adds to `x_dense`."""
    if x_dense is not None:
        return residual(norms, x_dense, goal, architecture)
    return norm(norms["norm"], goal, architecture)


def fit_outputs(small: Params, normal: Normal, fit: Fit, *, half: str, units: int) -> tuple[Params, Refit]:
    """The output projection of the first `units` units by least squares, all weights or one scale a unit.

    Units beyond them, which only fill up the shape, write nothing. `small` holds numpy arrays.
    """
    out = small[OUTPUT[half]]
    shape = out["kernel"].shape
    kernel = out["kernel"][:units].reshape(-1, shape[-1])
    bias = out.get("bias", np.zeros(shape[-1], np.float32))
    if fit.kind == "weights":
        solved = solve(normal, kernel, bias, fit.ridge, fit.pull, fit.intercept and "bias" in out)
    else:
        solved = solve_scales(normal, kernel, bias, fit.ridge, units)
    fitted = np.zeros(shape, np.float32)
    fitted[:units] = solved.weight.reshape(units, *shape[1:])
    return {**small, OUTPUT[half]: {"kernel": fitted} | ({"bias": solved.bias} if "bias" in out else {})}, solved


def silence(small: Params, *, half: str, units: int) -> Params:
    """The half, all but its first `units` units writing nothing. `small` holds numpy arrays."""
    out = small[OUTPUT[half]]
    kernel = out["kernel"].copy()
    kernel[units:] = 0
    return {**small, OUTPUT[half]: {**out, "kernel": kernel}}


def widths(work: int) -> int:
    """Into how many widths sublayers are sorted, by the multiply-adds of all their Gram matrices.

    Compiling for one more width takes about half a second; by count, twice the widths save some tenth of the work. The
    thresholds follow from that for two cores, and were not measured. An accelerator does some hundred times that work
    while it compiles (experiments/results/gpu.md).
    """
    share = work if jax.default_backend() == "cpu" else work / ACCELERATED
    return 4 if share < 2e11 else 8 if share < 2e12 else 16


def padded_units(mask: Mask, parts: int) -> tuple[np.ndarray, int]:
    """Kept indices, filled up with removed ones to a multiple of a `parts`-th of all units, and how many are kept.

    A handful of widths means a handful of compiled programs, whatever the depth.
    """
    kept, gone = np.flatnonzero(mask), np.flatnonzero(~mask)
    step = max(-(-len(mask) // parts), 1)  # a sublayer may have come without units
    width = min(len(mask), max(-(-len(kept) // step), 1) * step)
    return np.concatenate([kept, gone[: width - len(kept)]]).astype(np.int32), len(kept)


def begin(params: Params, architecture: Architecture, batches: Sequence[Batch], programs: Programs) -> Streams:
    """Both streams before sublayer 0."""
    outer = programs.devices.fetch(outer_params(params))
    streams = [programs(start, outer, batch, architecture=architecture) for batch in batches]
    return Streams(list(streams), [jnp.array(x) for x in streams])  # copies: the pruned stream is donated on its way


def dense_output(
    p: Params,
    architecture: Architecture,
    at: Sublayer,
    number: int,
    x: Array,
    batch: Batch,
    programs: Programs,
    kept: KeptPasses,
) -> Array:
    """What the dense sublayer makes of batch `number` on its stream `x` (`output_of`): kept, or computed."""
    output = kept.outputs.get((at.index, number))
    if output is None:
        after, trace = programs(advance, p, x, batch, half=at.half, architecture=architecture)
        output = output_of(after, trace, architecture)
    return programs.devices.rows(output)


def follow_sublayer(
    p: Params,
    architecture: Architecture,
    at: Sublayer,
    mask: Mask,
    streams: Streams,
    batches: Sequence[Batch],
    weights: Sequence[Any],
    fit: Fit,
    programs: Programs,
    kept: KeptPasses,
) -> tuple[Params, dict[str, Any]]:
    """Fit the kept units of a sublayer and move both streams past it (in place).

    `p` is the dense sublayer on the devices, `weights` one array of token weights a batch. Returns the half's
    parameters as NumPy arrays in full size, units that go untouched (the cut removes them), and a report of plain
    numbers.
    """
    devices, half, architecture = programs.devices, at.half, architecture.of_layer(at.layer)
    full = whole = devices.read(p)
    if mask.ndim == 2:  # query heads go first; what is left is an attention with fewer of them
        full = take_queries(whole, mask)
    width = unit_width(full, half)
    work = sum(batch.ids.size for batch in batches) * (len(mask) * width) ** 2 * len(architecture.layers)
    units, left = padded_units(kept_groups(mask), widths(work) // (2 if half == ATTENTION else 1))
    report: dict[str, Any] = {"sublayer": at.index, "half": half, "kept": left}
    small = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), take_units(half, full, units))
    inputs = fit.kind == "weights" and fit.inputs and at.index > 0  # at the first sublayer the streams are the same
    norms = {name: leaf for name, leaf in p.items() if name in NORMS}
    before: list[Any] = [None] * len(batches)  # the dense streams, where they are needed again
    normal = devices.everywhere(empty_normal(*(architecture.hidden, architecture.hidden) if inputs else (0, 0)))
    for number, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
        both = streams.dense[number], streams.pruned[number]
        goal = dense_output(p, architecture, at, number, both[0], batch, programs, kept)
        if inputs:
            weight = devices.rows(weight)
            normal = programs(observe_inputs, norms, *both, weight, normal, architecture=architecture)
        before[number] = both[0] if architecture.norms_update else None
        streams.dense[number] = goal
    if inputs:
        small, solved = fit_inputs(small, devices.read(normal), fit.input_ridge, half=half)
        report["input_residual"], report["input_residual_before"] = solved.residual, solved.before

    def rounded(small: Params) -> Params:
        # What is kept in fewer bits is rounded now, so that this fit, the pruned stream and all later fits know of it.
        return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype).astype(np.float32), small, full)

    on_device = devices.fetch(rounded(small))

    def say(number: int) -> Array:
        x_pruned, batch = streams.pruned[number], batches[number]
        return programs(features_at, on_device, x_pruned, batch, half=half, architecture=architecture)

    held: list[Any] = [None] * len(batches)
    if fit.kind == "none":
        small = silence(small, half=half, units=left)
    else:
        normal = devices.everywhere(empty_normal(len(units) * width, architecture.hidden))
        for number, (goal, x_pruned, weight) in enumerate(zip(*streams, weights, strict=True)):
            features = say(number)
            weight = devices.rows(weight)
            normal = programs(observe, features, goal, x_pruned, weight, normal, architecture=architecture)
            held[number] = features if kept.features else None
        programs.meter.sample("refit")
        small, solved = fit_outputs(small, devices.read(normal), fit, half=half, units=left)
        report |= {"rank": solved.rank, "features": left * width}
        report |= {"residual": solved.residual, "residual_before": solved.before}
    fitted = put_units(half, full, units[:left], small)
    if mask.ndim == 2:
        fitted = put_queries(whole, mask, fitted)
    out = devices.fetch({OUTPUT[half]: rounded(small)[OUTPUT[half]]})[OUTPUT[half]]
    for number, goal in enumerate(streams.dense):
        features = say(number) if held[number] is None else held[number]
        held[number] = None
        x_pruned = streams.pruned[number]
        streams.pruned[number] = programs(leave, out, norms, features, x_pruned, architecture=architecture)
        if architecture.norm_position != "pre":
            streams.dense[number] = programs(settle, norms, before[number], goal, architecture=architecture)
            before[number] = None
    return fitted, report


def follow(
    model: Model,
    params: Params,
    masks: Sequence[Mask],
    batches: Sequence[Batch],
    weights: Sequence[Sequence[Any]],
    fit: Fit,
    programs: Programs,
    on_sublayer: Callable[[int], None] = lambda done: None,
    kept: KeptPasses | None = None,
) -> tuple[Model, list[dict[str, Any]]]:
    """The dense model with the kept units of every sublayer fitted in turn; shapes stay (`cut` comes after).

    `params` are the model's where the run keeps them, `weights` token weights, [batch][sublayer]. `kept` spares a
    forward pass where it holds the dense outputs on these batches. A report per sublayer: rank, residuals before and
    after.
    """
    architecture, kept = model.architecture, kept or KeptPasses()
    streams = begin(params, architecture, batches, programs)
    halves, reports = [], []
    for at, p in programs.devices.sublayers(params["layers"], architecture.sublayers()):
        here = [per_batch[at.index] for per_batch in weights]
        fitted, report = follow_sublayer(
            p, architecture, at, masks[at.index], streams, batches, here, fit, programs, kept
        )
        halves.append(fitted)
        reports.append(report)
        on_sublayer(at.index + 1)
    return model.replace(params={**model.params, "layers": architecture.by_layer(halves)}), reports


def refit_warnings(refit: Sequence[dict[str, Any]]) -> list[str]:
    """One warning for all sublayers whose kept features the calibration texts do not determine."""
    short = [entry for entry in refit if entry.get("rank", 0) < entry.get("features", 0)]
    if not short:
        return []
    first = short[0]
    return [
        f"refit: the calibration texts leave directions undetermined in {len(short)} sublayers (sublayer "
        f"{first['sublayer']}: rank {first['rank']} of {first['features']}); calibrate on more texts."
    ]
