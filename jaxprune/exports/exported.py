"""What exports of every format share: what they start from, what of config.json they keep, what they tell."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..checkpoint.families import Family
from ..checkpoint.head_names import HEAD_NAMES, WITH_TEACHER
from ..checkpoint.labels import PROBLEMS, default_problem
from ..checkpoint.manifest import check_shapes, named_parameters
from ..checkpoint.notes import to_save
from ..checkpoint.output_folder import check_output
from ..errors import CheckpointError, OutputError
from ..model.architecture import Architecture
from ..model.attention_kinds import Window, shortest_window
from ..model.model import REGAIN, Model


class Exported(NamedTuple):
    """What was written."""

    folder: Path
    config: dict[str, Any]  # the contents of config.json; of GGUF, the architecture's keys
    bytes: int  # of all tensors; of ONNX and StableHLO, of the files that are run
    warnings: tuple[str, ...]
    dtype: str  # of the numbers
    errors: Mapping[str, float] = {}  # by file: its largest difference from the model's own outputs, where it was run


def ready_to_export(model: Model, folder: Path, overwrite: bool, tokenizer: Any) -> Model:
    """The model as it is written, with `tokenizer` in place of its own where one is handed in.

    Raises `OutputError` for a folder that `save` would refuse, or that the model was read from; `CheckpointError` for
    parameters that do not fit the architecture, and where `to_save` does.
    """
    check_output(folder, overwrite)
    model = to_save(model, tokenizer)
    origin = model.provenance.source
    if origin is not None and folder.exists() and folder.resolve() == Path(origin).resolve():
        raise OutputError(f"{folder} is where the model was read from; choose another folder.")
    arrays, _ = named_parameters(model.params)
    check_shapes({name: tuple(np.shape(leaf)) for name, leaf in arrays.items()}, model.architecture, "the model")
    return model


def source_config(model: Model) -> dict[str, Any]:
    source = model.provenance.record.get("source_config")
    if not isinstance(source, dict):
        raise CheckpointError(
            "the model's record has no source_config, so that no config.json can be written; "
            + (f"{REGAIN}." if model.provenance.dropped else "load a Hugging Face checkpoint and prune that.")
        )
    if source.get("model_type") != model.architecture.family:
        raise CheckpointError(
            f"the model is of the family {model.architecture.family}, but its source_config is of "
            f"{str(source.get('model_type'))[:60]!r}; load and prune the checkpoint anew."
        )
    return source


def with_head(source: Mapping[str, Any], family: Family, a: Architecture) -> dict[str, Any]:
    """`source` for the class that has the model's head, with the model's labels."""
    names = HEAD_NAMES[a.head]
    taught = WITH_TEACHER if a.pool_tokens > 1 else ""
    config = dict(source, architectures=[names.class_name(family) + taught])
    config.pop("auto_map", None)  # the files that it names are not here
    if names.sized:
        problem = config.pop("problem_type", None)
        for key in ("id2label", "label2id", "num_labels"):
            config.pop(key, None)
        if a.labels:
            config["id2label"] = {str(number): label for number, label in enumerate(a.labels)}
            config["label2id"] = {label: number for number, label in enumerate(a.labels)}
        if names.problems and (problem is not None or a.problem != default_problem(a.labels)):
            config["problem_type"] = next(name for name, ours in PROBLEMS.items() if ours == a.problem)
    return config


def with_windows(a: Architecture, dense: Architecture) -> Architecture:
    """`a` as it is read now, where it was saved by a release that read no texts beyond a window."""
    size = a.attention.size if isinstance(a.attention, Window) else None
    if size is None or a.max_positions != size or shortest_window(dense.attention) != size:
        return a
    return replace(a, attention=dense.attention, max_positions=dense.max_positions)


def probe(architecture: Architecture, rows: int, length: int) -> tuple[np.ndarray, ...]:
    """Random token ids, a mask with rows of several lengths, token types; of a model of images, pixels alone."""
    a, random = architecture, np.random.RandomState(0)
    if a.patches is not None:
        shape = (rows, a.patches.channels, a.patches.height, a.patches.width)
        return (random.normal(0, 1, shape).astype(np.float32),)
    if a.positions != "none":
        length = min(length, a.max_positions)
    lengths = np.maximum(length - 2 * np.arange(rows), 1)
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    others = [number for number in range(min(a.vocab, 2**15)) if number != a.pad_id] or [0]
    ids = np.where(mask > 0, random.choice(others, (rows, length)), a.pad_id)
    types = random.randint(0, max(a.token_types, 1), (rows, length))
    return ids, mask, types


def pooled_prompt(architecture: Architecture) -> tuple[str, ...]:
    """A warning where a model leaves its prompt out of a text's vector, which a program of token ids cannot know."""
    embedding = architecture.embedding
    if embedding is None or embedding.include_prompt or not any(text for _, text in embedding.prompts):
        return ()
    return (
        "the program pools all tokens of a text, also those of a prompt, which the model leaves out (include_prompt); "
        "its vectors are the model's where texts are read without prompts.",
    )
