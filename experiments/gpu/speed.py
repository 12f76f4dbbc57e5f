"""How much faster pruned models of BERT-base's shape are, against what their FLOPs promise."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune.model import Architecture
from jaxprune.model.transformer import whole_forward
from jaxprune.pruning.allocation import keep_mask, round_masks
from jaxprune.pruning.cost import flops, sublayer_costs
from jaxprune.pruning.cut import cut_architecture, unit_counts
from jaxprune.report.bench import full_batch

from . import models
from .book import Book
from .clock import in_turns

LENGTH = 128  # tokens a text
REMOVES, ROUNDED = (0.4, 0.6, 0.8), (1, 64)


def measure(book: Book) -> None:
    dense = models.shape_of(models.BERT, book.tiny)
    length, turns = (16, 3) if book.tiny else (LENGTH, 20)
    rows = (1, 8) if book.tiny else (32, 1, 256, 8)  # the most telling first
    removes, rounded = ((0.6,), (1, 16)) if book.tiny else (REMOVES, ROUNDED)
    shapes = {"dense": dense} | {
        f"{remove:.0%} removed{'' if to == 1 else f', rounded to {to}'}": ragged(dense, remove, to, length)
        for remove, to in product(removes, rounded)
    }
    dtype = jnp.dtype(book.part)
    # Weights are kept in the type that is computed in.
    held = {name: models.on_device(models.random_model(shape, dtype=dtype.name)) for name, shape in shapes.items()}
    for texts in rows:
        book.case(f"{texts} x {length}", compare, book, held, texts, length, turns, needs=0.15 * book.seconds)


def ragged(dense: Architecture, remove: float, round_to: int, length: int) -> Architecture:
    """Widths as a method leaves them, odd and different in every layer: units are drawn, some sublayers lose more."""
    random, each = np.random.default_rng(0), sublayer_costs(dense, "flops", length)
    counts = unit_counts(dense)
    scores = [random.random(count) * random.uniform(0.85, 1.15) for count in counts]
    every = np.concatenate([np.full(count, cost) for count, cost in zip(counts, each, strict=True)])
    kept = keep_mask(np.concatenate(scores), every, jp.Budget(remove, length=length).allowed(dense))
    masks = np.split(kept, np.cumsum(counts)[:-1])
    return cut_architecture(dense, round_masks(dense, masks, [np.argsort(score) for score in scores], round_to))


def compare(book: Book, held: dict[str, jp.Model], rows: int, length: int, turns: int) -> dict[str, Any]:
    """All models in turns; a line each, the dense one's last."""
    dense = held["dense"].architecture
    with ThreadPoolExecutor(8) as pool:  # XLA compiles one program on one core
        compiled = pool.map(lambda model: forward(model, rows, length, jnp.dtype(book.part)), held.values())
    seconds = in_turns(dict(zip(held, compiled, strict=True)), turns)
    for name, model in held.items():
        if name == "dense":
            continue
        low, speedup, high = np.percentile(seconds["dense"] / seconds[name], (25, 50, 75))
        ratio = flops(dense, length) / flops(model.architecture, length)
        book.write(
            f"{rows} x {length}, {name}", ms=1e3 * float(np.median(seconds[name])), speedup=float(speedup),
            quartiles=[float(low), float(high)], flops_ratio=ratio, of_flops=float(speedup) / ratio,
        )  # fmt: skip
    median = float(np.median(seconds["dense"]))
    return {"ms": 1e3 * median, "tokens_per_second": rows * length / median}


def forward(model: jp.Model, rows: int, length: int, dtype: Any) -> Callable[[], Any]:
    """A compiled forward pass."""
    batch, static = full_batch(model.architecture, rows, length), {"architecture": model.architecture, "dtype": dtype}
    program = whole_forward.lower(model.params, batch, **static).compile()
    return lambda: program(model.params, batch)
