"""The demonstration: the small model that comes with the package, pruned by every method, scored and timed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .. import tasks
from ..assets import demo_data_path, demo_model_path
from ..checkpoint import load
from ..checks import checked
from ..errors import SettingsError
from ..model import Model
from ..pruning.budget import Budget
from ..runtime.events import OnStep
from .bench import SHAPES, bench
from .compare import COMPARED, Comparison, Result, compare
from .figures import Bench

REMOVE = (0.4, 0.6, 0.8)  # of the prunable FLOPs


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What `jaxprune demo` shows."""

    comparison: Comparison  # scores of every method at every budget
    timings: tuple[Bench, ...]  # dense against pruned, one a shape: see `bench`

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for every method and budget: asked, obtained, score, seconds, …"""
        return [asdict(result) for result in self.comparison.results]

    def as_json(self) -> dict[str, Any]:
        return {**self.comparison.as_json(), "bench": [row.as_json() for row in self.timings]}


@checked
def demo(
    *,
    remove: Sequence[float] = REMOVE,
    methods: Sequence[str] = COMPARED,
    count: int = 512,
    limit: int | None = None,
    repeats: int = 10,
    on_step: OnStep | None = None,
) -> Demo:
    """Prune the embedded classifier (4 layers, 77 intents) with every method at every budget; a minute or two on a CPU.

    `count` calibration texts are measured on, the first `limit` validation texts scored (None: all). The first method's
    model at the middle budget is timed against the dense one, in `repeats` turns. Nothing is written. Raises
    `SettingsError` where there is nothing to prune by.
    """
    if not remove or not methods:
        raise SettingsError("there is nothing to show; name at least one method and one share to remove.")
    model = load(str(demo_model_path()))
    task = tasks.load("text-classification", str(demo_data_path()))
    first: list[Model] = []  # by budget

    def keep(result: Result, pruned: Model) -> None:
        if result.method == methods[0]:
            first.append(pruned)

    comparison = compare(
        model,
        task,
        [Budget(share) for share in remove],
        methods,
        calibration=count,
        limit=limit,
        on_step=on_step,
        on_model=keep,
    )
    longest, middle = model.architecture.max_positions, first[len(remove) // 2]
    timings = [bench(model, middle, rows=rows, length=min(length, longest), repeats=repeats) for rows, length in SHAPES]
    return Demo(comparison=comparison, timings=tuple(timings))
