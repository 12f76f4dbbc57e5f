"""Progress of a run on stderr: a bar on a terminal, nothing elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..runtime.events import OnStep


@contextmanager
def progress(title: str, quiet: bool = False) -> Iterator[OnStep]:
    """A callback for `on_step` that draws one bar per phase; a phase that starts over (a second budget) reuses it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    columns += (TextColumn("{task.fields[numbers]}"),)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as bars:
        shown: dict[str, Any] = {}

        def on_step(event: dict[str, Any]) -> None:
            phase = str(event.get("phase", "step"))
            if phase not in shown:
                shown[phase] = bars.add_task(f"{title}: {phase}", total=None, numbers="")
            numbers = "  ".join(f"{name} {event[name]:.4f}" for name in ("loss", "score") if name in event)
            bars.update(shown[phase], completed=event.get("done", 0), total=event.get("of"), numbers=numbers)

        yield on_step
