"""Tables for people, as rich renderables; nothing here prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ..model.architecture import Architecture
from ..pruning.cost import flops
from .compare import Comparison, budget_differences
from .figures import Bench, GenerationBench


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def si(number: int | float, unit: str = "") -> str:
    """Three significant digits with a prefix: 1234567 -> 1.23 M."""
    shown = float(f"{number:.3g}")  # rounded before a prefix is chosen: 999999 is 1 M, not 1e+03 k
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(shown) >= factor:
            return f"{shown / factor:.3g} {prefix}{unit}"
    return f"{shown:.3g} {unit}".rstrip()


def _table(title: str, columns: Sequence[str], left: int = 1) -> Table:
    """An empty table whose first `left` columns are words and whose others are numbers."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    return table


def layers_table(architecture: Architecture, length: int, dense: Architecture | None = None) -> Table:
    """Heads, neurons and FLOPs of every layer; beside a `dense` model, what is left of it."""
    table = _table(
        f"Layers (FLOPs at {length} tokens)", ("layer", "heads", "neurons", "FLOPs", *(["left"] if dense else []))
    )
    references = dense.layers if dense else architecture.layers
    for index, (size, of) in enumerate(zip(architecture.layers, references, strict=True)):
        here = flops(architecture.with_layers((size,)), length)
        before = flops(architecture.with_layers((of,)), length)
        table.add_row(
            str(index),
            f"{size.heads} of {of.heads}" if dense else str(size.heads),
            f"{size.neurons} of {of.neurons}" if dense else str(size.neurons),
            si(here),
            *([percent(here / before) if before else ""] if dense else []),
        )
    return table


def facts_table(title: str, facts: Mapping[str, Any]) -> Table:
    """Two columns: what, and how much. None and empty lists are left out."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None and value != []:
            table.add_row(name, value if isinstance(value, str) else _plain(value))
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Methods down, budgets across: the mean score over seeds, with its half spread where there are several.

    Budgets of one share have their differences in the heads of their columns.
    """
    budgets = comparison.budgets
    heads = []
    for budget in budgets:
        alike = [entry for entry in budgets if entry.remove == budget.remove]
        words = budget_differences(alike)[alike.index(budget)]
        heads.append("\n".join((f"{percent(budget.remove)} removed", *words)))
    title = f"{comparison.task}: {comparison.metric}, dense {comparison.dense_score:.4f}"
    table = _table(title, ("method", *heads, "seconds", "dense forwards"))
    for method in comparison.methods:
        mine = [result for result in comparison.results if result.method == method]
        cells = []
        for budget in budgets:
            scores = [result.score for result in mine if result.budget == budget]
            spread = f" ± {(max(scores) - min(scores)) / 2:.4f}" if len(scores) > 1 else ""
            cells.append(f"{sum(scores) / len(scores):.4f}{spread}" if scores else "")
        # Budgets of one seed share a measuring pass, so their times belong together.
        seeds = {result.seed for result in mine}
        seconds = sum(result.seconds for result in mine) / max(len(seeds), 1)
        forwards = [result.dense_forwards for result in mine if result.dense_forwards is not None]
        table.add_row(method, *cells, f"{seconds:.1f}", f"{sum(forwards) / max(len(seeds), 1):.1f}" if forwards else "")
    return table


def bench_table(rows: Sequence[Bench]) -> Table:
    """Dense against pruned, a row per shape."""
    columns = (
        "rows x length",
        "dense ms",
        "pruned ms",
        "speed-up",
        "FLOPs ratio",
        "of ratio",
        "compile s (dense, pruned)",
    )
    table = _table("Dense against pruned, medians", columns)
    for row in rows:
        low, high = row.speedup_quartiles
        table.add_row(
            f"{row.rows} x {row.length}",
            f"{1e3 * row.dense_seconds:.2f}",
            f"{1e3 * row.pruned_seconds:.2f}",
            f"{row.speedup:.2f} ({low:.2f}–{high:.2f})",
            f"{row.flops_ratio:.2f}",
            percent(row.of_flops),
            f"{row.dense_compile_seconds:.1f}, {row.pruned_compile_seconds:.1f}",
        )
    return table


def generation_table(rows: Sequence[GenerationBench]) -> Table:
    """Tokens per second, dense against pruned, a row per batch."""
    columns = ("batch", "prompt + new tokens", "dense tokens/s", "pruned tokens/s", "speed-up")
    table = _table("Generating, dense against pruned, medians", columns)
    for row in rows:
        low, high = row.speedup_quartiles
        table.add_row(
            str(row.batch),
            f"{row.prompt_length} + {row.new_tokens}",
            f"{row.dense_tokens_per_second:.1f}",
            f"{row.pruned_tokens_per_second:.1f}",
            f"{row.speedup:.2f} ({low:.2f}–{high:.2f})",
        )
    return table


def benchmark_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Scores on the tasks of lm-evaluation-harness, a row a metric."""
    table = _table(title, ("task", "metric", "value", "standard error", "shots", "examples"), left=2)
    for row in rows:
        value, error = row["value"], row["stderr"]
        table.add_row(
            row["task"],
            row["metric"] + (f" ({row['filter']})" if row["filter"] else ""),
            f"{value:.4f}" if isinstance(value, float) else str(value),
            "" if error is None else f"{error:.4f}",
            *("" if row[name] is None else str(row[name]) for name in ("shots", "examples")),
        )
    return table


def rounds_table(rounds: Sequence[Mapping[str, Any]]) -> Table:
    """RECAP: what every round scored and kept, and its phases in seconds, without compilation, and bytes."""
    columns = ("round", "score", "loss", "heads", "neurons", "new", "seconds", "transfers", "compile s", "device MiB")
    table = _table("Rounds (seconds without compiling)", columns)
    for entry in rounds:
        phases = entry["phases"].values()
        compiling = sum(phase["compile_seconds"] for phase in phases)
        moved = sum(phase["transfer_seconds"] for phase in phases)
        seconds = entry["seconds"] - compiling
        table.add_row(
            str(entry["round"] + 1),
            f"{entry['score']:.4f}",
            f"{entry['loss']:.4f}",
            str(sum(len(heads) for heads in entry["heads"])),
            str(sum(entry["neurons"])),
            percent(entry["new"]["neurons"]),
            f"{seconds:.1f}",
            percent(moved / max(seconds, 1e-9)),
            f"{compiling:.1f}",
            f"{max(phase['peak_bytes'] for phase in phases) / 2**20:.1f}",
        )
    return table


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(entry)}" for name, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(entry) for entry in value)
    return str(value)
