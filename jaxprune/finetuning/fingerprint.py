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
from ..pruning.measured import digest
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

    shapes = {path_of(path): list(np.shape(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    return {
        **{f"setting {name}": value for name, value in asdict(settings).items() if name not in NO_MATTER},
        "architecture": digest([repr(model.architecture)]),
        "weights": digest(jax.tree.leaves((model.params, teacher and teacher.params))),
        "scaling of adapters": digest(jax.tree.leaves(scaling)),
        "trainable leaves": digest([repr(sorted(shapes.items()))]),
        "texts": digest(_texts_of(first)),
        "labels": digest([targets]),
    }


def _texts_of(batches: Sequence[Batch]) -> list[str]:
    """Digests of the token ids of every text in batches, or of an image's patches, in the order of their numbers:
    whatever rows they lie in. The texts themselves may be more than the memory holds.
    """
    by_text: dict[int, str] = {}
    for batch in batches:
        read = batch.ids if batch.patches is None else batch.patches
        ids, segments, index = (np.asarray(part) for part in (read, batch.segments, batch.index))
        for row, place in np.argwhere(index >= 0):
            text = ids[row, segments[row] == place + 1]
            by_text[int(index[row, place])] = hashlib.blake2b(text.tobytes(), digest_size=8).hexdigest()
    return [by_text[number] for number in sorted(by_text)]


def digest_of(value: Any) -> str:
    """A short digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(plain(value)).encode()).hexdigest()[:16]
