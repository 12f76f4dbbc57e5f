"""Low-rank adapters (LoRA): a frozen kernel W becomes W + s·A B, with A [inputs, rank] and B [rank, outputs].

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022. While training, x A B is computed through the
model's sites and A B is never multiplied out; `merged` does it once, at the end.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..checkpoint.known_families import family_named
from ..checks import check_counts, check_effect, check_types
from ..errors import SettingsError
from ..model import Architecture, Model, parameter_shapes
from ..model.architecture import ATTENTION, FEED_FORWARD
from ..model.heads import head_of

HALF_OF = {"q": ATTENTION, "k": ATTENTION, "v": ATTENTION, "o": ATTENTION}
HALF_OF |= {"up": FEED_FORWARD, "gate": FEED_FORWARD, "down": FEED_FORWARD}
HEAD = "head/*"  # a pattern: the leaves of a task head
TRAINED = ("*norm/*", HEAD)  # what trains beside adapters where nobody says anything else
SPREAD = 0.01  # standard deviation of A at the start; B starts at zero, so that training starts at the base model


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Which projections get adapters, and how large. A projection's path is such as layers/3/attention/q."""

    rank: int = field(default=8, metadata={"help": "rank of every adapter"})
    alpha: float = field(default=16.0, metadata={"help": "the update is scaled by alpha / rank"})
    projections: tuple[str, ...] = field(
        default=("q", "k", "v"), metadata={"help": "which of q, k, v, o, up, gate, down"}
    )
    rslora: bool = field(default=False, metadata={"help": "scale by alpha / sqrt(rank) instead (rsLoRA)"})
    rank_pattern: tuple[str, ...] = field(
        default=(), metadata={"help": "PATTERN=RANK for some projections, such as layers/0/*=16; the last match holds"}
    )
    alpha_pattern: tuple[str, ...] = field(default=(), metadata={"help": "PATTERN=ALPHA, likewise"})
    train: tuple[str, ...] = field(
        default=TRAINED,
        metadata={
            "help": f"patterns of the other leaves that train; by default norms and {HEAD}, the head of a task, no "
            "vocabulary"
        },
    )

    def __post_init__(self):
        check_types(self)
        unknown = [name for name in self.projections if name not in HALF_OF]
        if unknown or not self.projections:
            raise SettingsError(
                f"projections must be some of {', '.join(HALF_OF)}, got {', '.join(self.projections) or 'none'}."
            )
        check_counts(self, 1, "rank")
        if not 0 < self.alpha < float("inf"):
            raise SettingsError(f"alpha must be a positive number, got {self.alpha}.")
        for entry in self.rank_pattern:
            _split(entry, int)
        for entry in self.alpha_pattern:
            _split(entry, float)


class Size(NamedTuple):
    """Of one adapter."""

    rank: int
    alpha: float
    rslora: bool = False

    @property
    def scaling(self) -> float:
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


Plan = Mapping[str, Size]  # a projection's path -> its adapter


class Adapters(NamedTuple):
    """Adapters of a model, per layer, half and projection."""

    weights: list[Any]  # {"attention": {"q": {"a": [inputs, rank], "b": [rank, *outputs]}, …}, …}
    scaling: list[Any]  # {"attention": {"q": number, …}, …}


def projection_shapes(architecture: Architecture) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Every projection by its path: the width it reads, and the shape of what it writes."""
    shapes = {}
    for index, layer in enumerate(parameter_shapes(architecture)["layers"]):
        for name, half in HALF_OF.items():
            if name in layer[half]:
                kernel = layer[half][name]["kernel"]
                inputs = prod(kernel[:-1]) if name in ("o", "down") else kernel[0]
                shapes[f"layers/{index}/{half}/{name}"] = inputs, kernel[-1:] if name in ("o", "down") else kernel[1:]
    return shapes


def plan_of(settings: Lora, architecture: Architecture) -> dict[str, Size]:
    """The adapters that `settings` ask for. A projection of a block that has lost all its units gets none.

    Raises `SettingsError` for a pattern that matches no projection or has no effect, and for a rank above a
    projection's width.
    """
    shapes = projection_shapes(architecture)
    names = [path for path in shapes if path.rpartition("/")[2] in settings.projections]
    missing = [name for name in settings.projections if not any(path.endswith(f"/{name}") for path in names)]
    if missing:
        raise SettingsError(f"the model has no projection {missing[0]}; its feed-forward layers are not gated.")
    names = [name for name in names if min(shapes[name][0], prod(shapes[name][1]))]
    ranks, alphas = _matched(settings.rank_pattern, int, names), _matched(settings.alpha_pattern, float, names)
    for kind, given in (("rank", ranks), ("alpha", alphas)):
        if names and len(given) == len(names):
            check_effect(settings, (kind,), f"where {kind}_pattern matches every projection")
    plan = {
        name: Size(int(ranks.get(name, settings.rank)), float(alphas.get(name, settings.alpha)), settings.rslora)
        for name in names
    }
    check_plan(plan, architecture)
    return plan


def check_plan(plan: Plan, architecture: Architecture) -> None:
    """Raise `SettingsError` unless every adapter has a projection that it fits."""
    shapes = projection_shapes(architecture)
    if not plan:
        raise SettingsError("no projection gets an adapter; choose projections that still have heads or neurons.")
    for name, size in plan.items():
        if name not in shapes:
            raise SettingsError(
                f"the model has no projection {name}; it has layers 0 to {len(architecture.layers) - 1}."
            )
        widest = min(shapes[name][0], prod(shapes[name][1]))
        if not 1 <= size.rank <= widest:
            raise SettingsError(f"rank of {name} must lie in 1 … {widest}, its width, got {size.rank}.")


def adapters_of(plan: Plan, architecture: Architecture, seed: int = 0) -> Adapters:
    """New adapters: A from N(0, 0.01²), B = 0."""
    check_plan(plan, architecture)
    shapes, random = projection_shapes(architecture), np.random.RandomState(seed)
    weights: list[Any] = [{} for _ in architecture.layers]
    scaling: list[Any] = [{} for _ in architecture.layers]
    for path, size in plan.items():
        layer, half, name = place_of(path)
        inputs, outputs = shapes[path]
        a = jnp.array(random.normal(0, SPREAD, (inputs, size.rank)), jnp.float32)
        weights[layer].setdefault(half, {})[name] = {"a": a, "b": jnp.zeros((size.rank, *outputs), jnp.float32)}
        scaling[layer].setdefault(half, {})[name] = np.float32(size.scaling)
    return Adapters(weights, scaling)


def place_of(path: str) -> tuple[int, str, str]:
    """Layer, half and projection of a path.

    >>> place_of("layers/3/attention/q")
    (3, 'attention', 'q')
    """
    _, layer, half, name = path.split("/")
    return int(layer), half, name


def sites_of(weights: Sequence[Any], scaling: Sequence[Any]) -> list[Any] | None:
    """Adapters as `Sites` reads them: (A, B, scaling) a projection; None where there are none."""
    if not weights:
        return None
    return [
        {
            half: {name: (pair["a"], pair["b"], factors[half][name]) for name, pair in projections.items()}
            for half, projections in layer.items()
        }
        for layer, factors in zip(weights, scaling, strict=True)
    ]


def each_adapter(adapters: Adapters) -> Iterable[tuple[str, Any, Any, float]]:
    """(path, A, B, scaling) of every adapter."""
    for index, (layer, factors) in enumerate(zip(adapters.weights, adapters.scaling, strict=True)):
        for half, projections in layer.items():
            for name, pair in projections.items():
                yield f"layers/{index}/{half}/{name}", pair["a"], pair["b"], float(factors[half][name])


def merged(model: Model, adapters: Adapters | None) -> Model:
    """The plain model that computes what `model` with `adapters` does.

    Products and sums are taken in float64, and a kernel is then rounded to the type that it has in `model`.
    """
    if adapters is None:
        return model
    layers = [{half: dict(p) for half, p in layer.items()} for layer in model.params["layers"]]
    for path, a, b, scaling in each_adapter(adapters):
        layer, half, name = place_of(path)
        p = layers[layer][half][name]
        update = np.tensordot(np.asarray(a, np.float64), np.asarray(b, np.float64), axes=1).reshape(p["kernel"].shape)
        kernel = np.asarray(p["kernel"], np.float64) + scaling * update
        make = np.array if isinstance(p["kernel"], np.ndarray) else jnp.array
        layers[layer][half][name] = {**p, "kernel": make(kernel.astype(np.float32), p["kernel"].dtype)}
    return model.replace(params={**model.params, "layers": layers})


def count(tree: Any) -> int:
    """Numbers in the arrays of a tree."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree))


def adapted_share(architecture: Architecture, weights: Sequence[Any]) -> float:
    """The share of the feed-forwards' projections that have adapters, whose `weights` these are."""
    there = sum(len(layer.get(FEED_FORWARD, {})) for layer in weights)
    return there / max(1, len(weights) * (3 if architecture.gated else 2))


def patterns_of(settings: Lora, architecture: Architecture) -> tuple[str, ...]:
    """Patterns of the leaves that train beside the adapters; with them a pooler that no pretraining has made.

    Of the default ones without "head/*" of a language model, whose head is no new one but its vocabulary: half of a
    small model's weights; and where there is no such leaf. Whoever says which leaves train has those.
    """
    if head_of(architecture).language is not None or "head" not in parameter_shapes(architecture):
        asked = tuple(settings.train)
        return tuple(pattern for pattern in asked if pattern != HEAD) if asked == TRAINED else asked
    if architecture.pooler == "none" or HEAD not in settings.train:
        return settings.train
    new_pooler = not family_named(architecture.family).pretrained_pooler
    return settings.train + (("pooler/*",) if new_pooler else ())


def _split(entry: str, kind: type) -> tuple[str, Any]:
    pattern, sign, value = entry.rpartition("=")
    try:
        number = kind(value)
    except ValueError:
        sign = ""
    if not pattern or not sign or not number > 0:
        raise SettingsError(f"pattern {entry!r} must be PATTERN=NUMBER with a positive number, such as layers/0/*=8.")
    return pattern, number


def _matched(entries: Sequence[str], kind: type, names: Sequence[str]) -> dict[str, Any]:
    values_of, last = {}, {}
    for entry in entries:
        pattern, value = _split(entry, kind)
        hits = [name for name in names if fnmatchcase(name, pattern)]
        if not hits:
            raise SettingsError(f"pattern {pattern!r} matches no projection with an adapter; they are {_some(names)}.")
        values_of |= dict.fromkeys(hits, value)
        last |= dict.fromkeys(hits, entry)
    for entry in entries:
        if entry not in last.values():
            raise SettingsError(f"pattern {entry!r} has no effect: later ones match all that it matches; leave it out.")
    return values_of


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
