"""The importance of heads as a picture: what a task needs, and what was pruned."""

from pathlib import Path

import numpy as np

from ..errors import DataError
from ..model import Model
from .files import replace_file


def heat_map(model: Model, path: str | Path) -> Path:
    """Importance of every head before pruning, layers down and heads across; a cross marks those that were pruned.

    `model` is a result of `prune_lora` (or a folder of one, loaded): its record holds the numbers. Raises `DataError`
    for any other, `OutputError` where `path` cannot be written.
    """
    from matplotlib.figure import Figure

    record = model.provenance.record
    importance = record.get("importance", {}).get("heads")
    if not importance:
        raise DataError("the model's record holds no importance of heads; give a result of prune_lora.")
    widest = max(map(len, importance))
    grid = np.full((len(importance), widest), np.nan)  # layers that were cut before have fewer heads
    for layer, values in enumerate(importance):
        grid[layer, : len(values)] = values
    figure = Figure(figsize=(1.6 + 0.42 * widest, 1.4 + 0.36 * len(importance)), dpi=150, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(grid, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    gone = [(head, layer) for layer, heads in enumerate(record.get("pruned_heads", [])) for head in heads]
    if gone:
        axes.plot(*zip(*gone, strict=True), "x", color="#D55E00", markersize=7, markeredgewidth=1.8)
    axes.set_xticks(range(widest))
    axes.set_yticks(range(len(importance)))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    task = record.get("training", {}).get("task", "")
    axes.set_title(f"{task}: importance of heads, {len(gone)} pruned (x)", loc="left", fontsize=9)
    figure.colorbar(image, ax=axes, label="importance")
    path = Path(path)
    replace_file(path, lambda part: figure.savefig(part, format=path.suffix.lstrip(".") or "png"))
    return path
