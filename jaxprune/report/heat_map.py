"""Which units matter, as a picture: the importance of heads, or what RECAP kept from round to round."""

from pathlib import Path
from typing import Any

import numpy as np

from ..checks import checked
from ..errors import DataError, OutputError
from ..jsonio import replace_file
from ..model import Model


@checked
def heat_map(model: Model, path: str | Path) -> Path:
    """A picture of a result of `prune_lora` or `recap` (or a folder of one, loaded): its record holds the numbers.

    Prune-LoRA: the importance of every head before pruning, layers down and heads across; a cross marks those that were
    pruned. RECAP: in how many rounds each head was kept; the neurons each round kept of every layer; and the share of
    the kept units that the round before had removed. Raises `DataError` for any other model, `OutputError` where `path`
    cannot be written.
    """
    from matplotlib.figure import Figure

    record = model.provenance.record
    if record.get("method") == "recap":
        figure = Figure(figsize=(10.5, 1.6 + 0.3 * len(model.architecture.layers)), dpi=150, layout="constrained")
        _rounds(figure, record["training"]["epochs"], record["training"]["kept_epoch"], record)
    elif record.get("importance", {}).get("heads"):
        importance = record["importance"]["heads"]
        size = 1.6 + 0.42 * max(map(len, importance)), 1.4 + 0.36 * len(importance)
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        _importance(figure, importance, record)
    else:
        raise DataError("the model's record holds no importance of heads; give a result of prune_lora or recap.")
    path = Path(path)
    kind = path.suffix.lstrip(".").lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise OutputError(f"pictures cannot be written as {path.suffix}; name a file that ends in .png, .svg or .pdf.")
    replace_file(path, lambda part: figure.savefig(part, format=kind))
    return path


def _importance(figure: Any, importance: list[list[float]], record: dict[str, Any]) -> None:
    widest = max(map(len, importance))
    grid = np.full((len(importance), widest), np.nan)  # layers that were cut before have fewer heads
    for layer, values in enumerate(importance):
        grid[layer, : len(values)] = values
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


def _rounds(figure: Any, rounds: list[dict[str, Any]], best: int, record: dict[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    depth, units = len(rounds[0]["heads"]), record["units"]
    heads = np.full((depth, max(units["heads"], default=1)), np.nan)
    for layer, count in enumerate(units["heads"]):
        heads[layer, :count] = [sum(head in entry["heads"][layer] for entry in rounds) for head in range(count)]
    whole = np.maximum(np.array(units["neurons"]), 1)
    neurons = np.array([entry["neurons"] for entry in rounds]).T / whole[:, None]
    left, middle, right = figure.subplots(1, 3)
    for axes, grid, top, across, told in (
        (left, heads, len(rounds), "head", "rounds that kept a head"),
        (middle, neurons, 1.0, "round", "share of neurons kept"),
    ):
        image = axes.imshow(grid, cmap="viridis", vmin=0, vmax=top, aspect="auto")
        axes.set_xlabel(across)
        axes.set_ylabel("layer")
        axes.set_title(told, loc="left", fontsize=9)
        first = int(across == "round")  # rounds count from 1, heads from 0 as in the record
        ticks = range(0, grid.shape[1], 1 if grid.shape[1] <= 20 else 5)
        axes.set_xticks(ticks, [str(tick + first) for tick in ticks])
        figure.colorbar(image, ax=axes, ticks=MaxNLocator(integer=axes is left))
    numbers = range(1, len(rounds) + 1)
    for name, color, marker in (("heads", "#0072B2", "o"), ("neurons", "#D55E00", "s")):
        right.plot(numbers, [entry["new"][name] for entry in rounds], color=color, marker=marker, label=f"new {name}")
    right.axvline(best + 1, color="0.3", linestyle="--", label=f"kept, {rounds[best]['score']:.3f}")
    right.set_xlabel("round")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_ylim(0, None)
    right.set_title("share of kept units that came back", loc="left", fontsize=9)
    right.legend(frameon=False, fontsize=8)
