"""K-prune as published: sublayer-wise search with gradients of the knowledge lost so far.

Park, Choi, Kang: Accurate Retraining-free Pruning for Pretrained Encoder-based Language Models, ICLR 2024. Written
from the paper, with the released code's scalings, so that both can be compared unit by unit. For every sublayer,
bottom up: predictive and representational knowledge of all units from here to the top (equations 5 to 8), one
threshold over them under what is left of the budget (algorithm 2), removal here, refit here (section 3.3).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...errors import DataError
from ...model.architecture import ATTENTION, Architecture
from ...model.context import context_of
from ...model.heads import head_of
from ...model.model import Batch, Model, Params
from ...model.sublayer import OUTPUT, project_out, residual, sublayer_features
from ...model.transformer import apply_head
from ...runtime.by_sublayer import finish, last_stream, outer_params, streams
from ...runtime.programs import Programs
from ..allocation import threshold_mask
from ..backward import output_kernel, unit_width
from ..cut import Mask, unit_counts
from ..kept import KeptPasses
from ..measure import count_texts, count_tokens
from ..refit import begin, follow_sublayer
from ..refit_settings import PUBLISHED_FIT, Fit


class Knowledge(NamedTuple):
    """Sums over the calibration batches, one number per feature of a sublayer."""

    predictive: Float[Array, " features"]  # Σ over batches ½ (gradient of the batch-mean loss to the gate)²
    energy: Float[Array, " features"]  # Σ over real tokens of feature²


def knowledge_loss(
    logits: Array, said: Array, batch: Batch, architecture: Architecture, temperature: float
) -> Float[Array, ""]:
    """T² · KL(p_dense ‖ p_pruned) at temperature T, summed over the batch and divided by its texts (equation 5)."""
    divergence = head_of(architecture).divergence
    assert divergence is not None  # `published_masks` refuses such models
    each = divergence(logits, said, batch, temperature)
    return jnp.sum(jnp.where(batch.index >= 0, each, 0)) / jnp.maximum(jnp.sum(batch.index >= 0), 1)


@partial(jax.jit, static_argnames=("architecture", "temperature"))
def gap_cotangent(
    params: Params, x: Array, said: Array, batch: Batch, *, architecture: Architecture, temperature: float
) -> Array:
    """Gradient of `knowledge_loss` to the last residual stream."""

    def loss(x):
        logits = apply_head(params, x, batch, architecture).astype(jnp.float32)
        return knowledge_loss(logits, said, batch, architecture, temperature)

    return jax.grad(loss)(x)


@partial(jax.jit, static_argnames=("half", "architecture"), donate_argnames="sums")
def knowledge_back(
    p: Params, x: Array, batch: Batch, cotangent: Array, sums: Knowledge, *, half: str, architecture: Architecture
) -> tuple[Array, Knowledge]:
    """Pull the gradient back over one sublayer and add one batch to its knowledge."""
    context = context_of(architecture, batch)
    features, pull_features = jax.vjp(lambda x: sublayer_features(half, p, x, context, architecture), x)
    update = project_out(p[OUTPUT[half]], features)
    _, pull_residual = jax.vjp(lambda x, update: residual(p, x, update, architecture), x, update)
    g_x, g_update = pull_residual(cotangent)
    flat = features.reshape(*features.shape[:2], -1)
    g_flat = g_update @ output_kernel(p, half).T
    (g_through,) = pull_features(g_flat.reshape(features.shape))
    exact = partial(jnp.einsum, precision="highest")
    gate = exact("rtf,rtf->f", flat, g_flat)  # one gate per feature, shared by the batch
    energy = exact("rtf,rt->f", flat**2, batch.real.astype(jnp.float32))
    return g_x + g_through, Knowledge(sums.predictive + gate**2 / 2, sums.energy + energy)


def published_masks(
    model: Model,
    params: Params,
    batches: Sequence[Batch],
    costs: Sequence[int],
    allowed: int,
    *,
    temperature: float,
    balance: float,
    head_weight: float,
    programs: Programs,
    fit: Fit = PUBLISHED_FIT,
    on_sublayer: Callable[[int], None] = lambda done: None,
    kept: KeptPasses | None = None,
) -> tuple[Model, list[Mask], list[dict[str, Any]]]:
    """Prune and fit as published; `batches` hold 32 texts each, `costs` the cost of one unit per sublayer.

    `params` are the model's where the run keeps them, `balance` is λ, `head_weight` μ. Returns the fitted model in
    full size, masks, and a report per sublayer.
    """
    architecture, devices = model.architecture, programs.devices
    if head_of(architecture).divergence is None:
        raise DataError("the published K-prune is for classifiers and question answering; use the default settings.")
    sublayers = architecture.sublayers()
    outer = devices.fetch(outer_params(params))
    counts = unit_counts(architecture)
    units = [cost / 1e9 for cost in costs]
    said = [
        programs(finish, outer, last_stream(params, batch, architecture, programs), batch, architecture=architecture)
        for batch in batches
    ]
    tokens, texts = count_tokens(batches, devices), count_texts(batches, devices)
    both, kept = begin(params, architecture, batches, programs), kept or KeptPasses()
    weights = [batch.real.astype(jnp.float32) for batch in batches]
    halves = []
    masks: list[Mask] = []
    reports = []
    for here in sublayers:
        above_here = sublayers[here.index :]
        sums = {
            at.index: Knowledge(*(jnp.zeros(len(output_kernel(at.of(model.params["layers"]), at.half))),) * 2)
            for at in above_here
        }
        sums = devices.everywhere(sums)
        for number, batch in enumerate(batches):
            # Above `here` nothing is pruned yet, so the dense parameters serve; below, the stream remembers.
            above = list(streams(params, batch, architecture, programs, here.index, both.pruned[number]))
            cotangent = programs(
                gap_cotangent,
                outer,
                above[-1],
                said[number],
                batch,
                architecture=architecture,
                temperature=temperature,
            )
            for at, p in devices.sublayers(params["layers"], reversed(above_here)):
                cotangent, sums[at.index] = programs(
                    knowledge_back,
                    p,
                    above[at.index - here.index],
                    batch,
                    cotangent,
                    sums[at.index],
                    half=at.half,
                    architecture=architecture.of_layer(at.layer),
                )
            programs.meter.sample("measure")
        scores, unit_costs = [], []
        for at in above_here:
            p = at.of(model.params["layers"])
            kernel = np.asarray(output_kernel(p, at.half))
            knowledge = devices.read(sums[at.index])
            predictive = knowledge.predictive.astype(np.float64) / texts
            representational = knowledge.energy.astype(np.float64) * np.mean(kernel**2, axis=1) / tokens
            per_unit = (predictive + balance * representational).reshape(-1, unit_width(p, at.half)).mean(axis=1)
            scores.append(per_unit * (head_weight if at.half == ATTENTION else 1.0) / units[at.index])
            unit_costs.append(np.full(counts[at.index], costs[at.index]))
        mask = threshold_mask(np.concatenate(scores), np.concatenate(unit_costs), allowed)[: counts[here.index]]
        allowed -= int(mask.sum()) * costs[here.index]
        masks.append(mask)
        for _, p in devices.sublayers(params["layers"], [here]):
            fitted, report = follow_sublayer(p, architecture, here, mask, both, batches, weights, fit, programs, kept)
            halves.append(fitted)
        reports.append(report)
        on_sublayer(here.index + 1)
    return model.replace(params={**model.params, "layers": architecture.by_layer(halves)}), masks, reports
