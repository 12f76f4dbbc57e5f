"""What a command hands back."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoint.dtypes import as_saved, saved_types
from ..checkpoint.manifest import read_manifest
from ..checkpoint.read import weight_bytes
from ..errors import CheckpointError
from ..evaluation.evaluate import evaluate
from ..finetuning.finetune import set_aside
from ..report.tables import si


class Outcome(NamedTuple):
    data: dict[str, Any]  # the JSON object; "warnings" in it also go to stderr
    show: tuple[Any, ...] = ()  # what a person sees instead: lines of text and rich tables


def on_disk(folder: Path, source: str | None) -> dict[str, int | str | None]:
    """Type and bytes of the weights in a saved folder, and bytes in the checkpoint's: None where that is gone."""
    saved, before = weight_bytes(folder), None
    if source is not None and folder.resolve() != Path(source).resolve():
        with suppress(CheckpointError, OSError):
            before = weight_bytes(source)
    return {"saved_dtype": read_manifest(folder)["dtype"], "disk_bytes": saved, "source_disk_bytes": before}


def scored_as_saved(model: Any, task: Any, training: Any, dtype: str | None) -> Any:
    """A trained model as its folder will hold it; where that rounds it, with its score so in the record of training.

    The epochs' scores are of the weights that trained, in float32.
    """
    rounded, record = as_saved(model, dtype), model.provenance.record["training"]
    if rounded is model:
        return model
    scored = evaluate(rounded, set_aside(task, training), split=record["scored_on"])
    types = ", ".join(sorted(set(saved_types(model, dtype).of.values())))
    scores = {"dtype": types, "score": scored.score, "metric": scored.metric, "metrics": scored.metrics}
    return rounded.with_record(training={**record, "as_saved": scores})


def told_on_disk(data: Mapping[str, Any]) -> str:
    """The same in words."""
    before = data["source_disk_bytes"]
    return f"{si(data['disk_bytes'], 'B')} in {data['saved_dtype']}" + (
        "" if before is None else f" (the checkpoint: {si(before, 'B')})"
    )
