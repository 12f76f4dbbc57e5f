"""Tasks of lm-evaluation-harness by their names, run by the package on one of our models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..checks import is_whole
from ..errors import DataError, SettingsError
from .lm_eval import check_installed


@dataclass(frozen=True)
class Benchmarks:
    """Tasks that are loaded, to be run on a model."""

    manager: Any  # the package's
    tasks: Sequence[Any]
    limit: int | None = None  # the first examples of each
    num_fewshot: int | None = None  # examples that are shown before each; None: as a task says
    apply_chat_template: bool = False

    @staticmethod
    def load(
        names: Sequence[str],
        *,
        limit: int | None = None,
        num_fewshot: int | None = None,
        apply_chat_template: bool = False,
        include_path: str | None = None,
    ) -> "Benchmarks":
        """By names, patterns ("mmlu_*") or YAML files of the package; `include_path` is a folder with more of them.

        Raises `SettingsError` where the package is missing or a number is outside its range, `DataError` for a task
        that it does not know or cannot load.
        """
        for name, value, least in (("limit", limit, 1), ("num_fewshot", num_fewshot, 0)):
            if value is not None and (not is_whole(value) or value < least):
                raise SettingsError(f"{name} must be a whole number of at least {least}, got {value!r}.")
        if include_path is not None and not Path(include_path).is_dir():
            raise DataError(f"{include_path} is no folder; give one with tasks as YAML files.")
        check_installed()
        from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

        manager = TaskManager(include_path=include_path)
        tasks = [part for name in names for part in _loaded(manager, name)]
        return Benchmarks(manager, tasks, limit, num_fewshot, apply_chat_template)

    def run(self, asked: Any) -> dict[str, Any]:
        """`lm_eval.simple_evaluate` on what `jaxprune.lm_eval` gives: its results by task, and how they were had."""
        from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]

        results: Any = simple_evaluate(
            model=asked,
            tasks=[*self.tasks],
            limit=self.limit,
            num_fewshot=self.num_fewshot,
            apply_chat_template=self.apply_chat_template,
            task_manager=self.manager,
            log_samples=False,
        )
        kept = ("results", "groups", "versions", "n-shot", "n-samples", "higher_is_better", "config", "lm_eval_version")
        return {name: results[name] for name in kept if name in results}


def score_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The numbers of `Benchmarks.run`, one a row: of a task or group its metrics, with what each was filtered by."""
    rows = []
    for task, entries in results["results"].items():
        for name, value in entries.items():
            metric, comma, filtered = name.partition(",")
            if comma and not metric.endswith("_stderr"):
                error = entries.get(f"{metric}_stderr,{filtered}")
                rows.append(
                    {
                        "task": task,
                        "shots": results.get("n-shot", {}).get(task),
                        "metric": metric,
                        "filter": None if filtered == "none" else filtered,
                        "value": value,
                        "stderr": error if isinstance(error, (int, float)) else None,
                        "examples": results.get("n-samples", {}).get(task, {}).get("effective"),
                    }
                )
    return rows


def _loaded(manager: Any, name: str) -> list[Any]:
    """The tasks, or the groups of them, that a name stands for."""
    names = manager.match_tasks([name]) or ([name] if Path(name).is_file() else [])
    if not names:
        near = ", ".join(get_close_matches(name, manager.all_tasks, 3))
        raise DataError(
            f"lm-eval has no task {name!r}; {f'near it are {near}' if near else '`lm-eval ls tasks` lists them'}."
        )
    try:
        parts = manager.load(names)
    except Exception as error:  # of many kinds: a data set that is not there, a package that a task needs
        line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"lm-eval cannot load {name}: {type(error).__name__}: {line[:300]}; check its data and packages."
        ) from error
    inner = {child for children in parts["group_map"].values() for child in children}
    groups = {name: group for name, group in parts["groups"].items() if name not in inner}
    inside = {task.task_name for group in groups.values() for task in group.get_all_tasks()}
    return [*groups.values(), *(task for own, task in parts["tasks"].items() if own not in inside)]
