"""Plots. Figures are made without pyplot, so that no window system is needed and no global state is touched."""

from pathlib import Path

from ..jsonio import replace_file
from .compare import Comparison, budget_differences

# Colour-blind safe (Okabe & Ito), and different markers, so that it reads in grey as well.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))


def comparison_plot(comparison: Comparison, path: str | Path) -> Path:
    """Score against what was removed, one line a method, the dense score dashed; bars span the seeds. Writes `path`.

    Where several budgets have one share, a method has a line for each of their settings, all of its colour.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.axhline(comparison.dense_score, color="0.3", linestyle="--", label=f"dense, {comparison.dense_score:.3f}")
    budgets = comparison.budgets
    shared = len({budget.remove for budget in budgets}) < len(budgets)
    settings = budget_differences(budgets) if shared else [()] * len(budgets)
    for number, method in enumerate(comparison.methods):
        color = STYLES[number % len(STYLES)][0]
        for shift, words in enumerate(dict.fromkeys(settings)):
            here = [budget for budget, own in zip(budgets, settings, strict=True) if own == words]
            mine = [[r for r in comparison.results if (r.method, r.budget) == (method, budget)] for budget in here]
            groups = [group for group in mine if group]
            x = [100 * sum(r.removed_flops for r in group) / len(group) for group in groups]
            y = [sum(r.score for r in group) / len(group) for group in groups]
            below = [mean - min(r.score for r in group) for mean, group in zip(y, groups, strict=True)]
            above = [max(r.score for r in group) - mean for mean, group in zip(y, groups, strict=True)]
            spread = (below, above) if any(len(group) > 1 for group in groups) else None
            label, marker = ", ".join((method, *words)), STYLES[(number + shift) % len(STYLES)][1]
            axes.errorbar(x, y, yerr=spread, label=label, color=color, marker=marker, markersize=5, capsize=3)
    axes.set_xlabel("FLOPs of heads and neurons removed, %")
    axes.set_ylabel(f"{comparison.metric} ({comparison.examples} texts)")
    axes.set_title(f"{comparison.task}: score after pruning, no retraining", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path = Path(path)
    replace_file(path, lambda part: figure.savefig(part, format=path.suffix.lstrip(".") or "png"))
    return path
