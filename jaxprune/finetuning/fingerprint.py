"""What a run was made of, in short: by it a run that goes on knows its own state."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import jax
import numpy as np

from ..jsonio import plain
from ..model import Batch, Model
from .settings import Train
from .step import path_of

NO_MATTER = ("save_minutes", "shard")  # settings that a run which goes on may change


def training_fingerprint(
    model: Model,
    settings: Train,
    variables: Any,
    first: Sequence[Batch],
    targets: np.ndarray,
    teacher: Model | None,
    scaling: Any = (),
) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped."""

    def digest(*arrays: Any) -> str:
        sha = hashlib.sha256()
        for array in arrays:
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()[:16]

    shapes = {path_of(path): list(np.shape(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    return {
        **{f"setting {name}": value for name, value in asdict(settings).items() if name not in NO_MATTER},
        "architecture": digest(np.frombuffer(repr(model.architecture).encode(), np.uint8)),
        "weights": digest(*jax.tree.leaves((model.params, teacher and teacher.params))),
        "scaling of adapters": digest(*jax.tree.leaves(scaling)),
        "trainable leaves": digest(np.frombuffer(repr(sorted(shapes.items())).encode(), np.uint8)),
        "texts": digest(*_texts_of(first)),
        "labels": digest(targets),
    }


def _texts_of(batches: Sequence[Batch]) -> list[np.ndarray]:
    """The token ids of every text in batches, or an image's patches, by its number: whatever rows they lie in."""
    by_text: dict[int, np.ndarray] = {}
    for batch in batches:
        read = batch.ids if batch.patches is None else batch.patches
        ids, segments, index = (np.asarray(part) for part in (read, batch.segments, batch.index))
        for row, place in np.argwhere(index >= 0):
            by_text[int(index[row, place])] = ids[row, segments[row] == place + 1]
    return [np.append(by_text[number], -1) for number in sorted(by_text)]  # -1: where a text ends


def digest_of(value: Any) -> str:
    """A short digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(plain(value)).encode()).hexdigest()[:16]
