"""A picture of what pruning cuts: the heads and neurons of every layer that stay, dense and at several budgets.

    python experiments/what_is_cut.py --remove 0.4 0.6 0.8 --out docs/images/what-is-cut.png

K-prune, default settings, on the small model that comes with the package, 512 calibration texts, seed 0. Each column is
a model with its score; each line a layer, the last one on top: a square for every head, a stroke for every neuron, dark
where it stays, at its place in the dense model.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

STAYS, GOES, NEURON = "#1b4b7a", "#e3e6ea", "#c8571b"


def kept_masks(kept: list[int], of: int) -> np.ndarray:
    mask = np.zeros(of, bool)
    mask[kept] = True
    return mask


def draw(columns: list[tuple[str, str, list[dict[str, Any]]]], layers: Any, path: Path) -> None:
    """`columns`: a title, a line below it, and the kept units of every layer, as a record lists them."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(11, 0.95 + 0.62 * len(layers)), dpi=220)
    grid = figure.subplots(len(layers), len(columns), squeeze=False)
    figure.subplots_adjust(
        left=0.07, right=0.99, top=1 - 0.68 / figure.get_figheight(), bottom=0.06, wspace=0.07, hspace=0.3
    )
    for column, (title, below, kept) in enumerate(columns):
        for layer, sizes in enumerate(layers):
            axes = grid[len(layers) - 1 - layer][column]
            heads = kept_masks(kept[layer]["heads"], sizes.groups)
            neurons = kept_masks(kept[layer]["neurons"], sizes.neurons)
            width = 1 / len(heads)
            for number, stays in enumerate(heads):
                spot = Rectangle(
                    (number * width + 0.12 * width, 0.62), 0.76 * width, 0.34, color=STAYS if stays else GOES, lw=0
                )
                axes.add_patch(spot)
            colors = ListedColormap([GOES, NEURON])
            axes.imshow(
                neurons[None],
                cmap=colors,
                vmin=0,
                vmax=1,
                aspect="auto",
                extent=(0, 1, 0.2, 0.52),
                interpolation="nearest",
            )
            told = f"{heads.sum()} of {len(heads)} heads, {neurons.sum()} of {len(neurons)} neurons"
            axes.text(0, 0.14, told, fontsize=7.5, color="0.35", va="top")
            axes.set(xlim=(0, 1), ylim=(0, 1))
            axes.axis("off")
            if column == 0:
                axes.text(-0.06, 0.5, f"layer {layer}", ha="right", va="center", fontsize=9)
        top = grid[0][column]
        top.text(0, 1.55, title, fontsize=11, weight="bold", va="bottom")
        top.text(0, 1.18, below, fontsize=8.5, color="0.25", va="bottom")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white")


def main() -> None:
    import jaxprune as jp
    from jaxprune.assets import demo_data_path, demo_model_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--remove", type=float, nargs="+", default=[0.4, 0.6, 0.8], help="shares of the FLOPs to remove"
    )
    parser.add_argument("--calibration-samples", type=int, default=512, help="texts to measure on (512)")
    parser.add_argument("--limit", type=int, help="score the first texts only")
    parser.add_argument("--out", type=Path, default=Path("docs/images/what-is-cut.png"), help="a .png file")
    arguments = parser.parse_args()
    model, task = jp.load(demo_model_path()), jp.tasks.folder(demo_data_path())
    calibration = task.calibration(arguments.calibration_samples, seed=0)
    models = jp.kprune(model, calibration, [jp.Budget(remove) for remove in arguments.remove])
    layers = model.architecture.layers
    whole = [{"heads": list(range(size.groups)), "neurons": list(range(size.neurons))} for size in layers]
    score = lambda each: f"accuracy {jp.evaluate(each, task, limit=arguments.limit).score:.3f}"  # noqa: E731
    columns = [("dense", score(model), whole)]
    for remove, pruned in zip(arguments.remove, models, strict=True):
        columns.append((f"{remove:.0%} of the FLOPs removed", score(pruned), pruned.provenance.record["kept"]))
    draw(columns, layers, arguments.out)
    for title, below, _ in columns:
        print(f"{title}: {below}")


if __name__ == "__main__":
    main()
