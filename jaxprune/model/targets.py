"""What targets of a kind of head are: their shape beyond [examples], and which values they can have.

Each function raises `DataError` for targets that cannot be of a head with so many labels. NumPy only.
"""

import numpy as np

from ..errors import DataError

IGNORED = -100  # the class of a token that has none, as in torch and transformers


def _check_shape(targets: np.ndarray, *beyond: int) -> None:
    expected = (len(targets), *beyond)
    if targets.shape != expected:
        raise DataError(f"targets have shape {targets.shape}, the model's head needs {expected}.")


def class_targets(targets: np.ndarray, labels: int) -> None:
    """[examples] classes."""
    _check_shape(targets)
    bad = np.flatnonzero((targets < 0) | (targets >= labels))
    if bad.size:
        raise DataError(f"label {targets[bad[0]]} of example {bad[0]} is not one of the model's {labels} classes.")


def several_targets(targets: np.ndarray, labels: int) -> None:
    """[examples, labels] of 0 and 1."""
    _check_shape(targets, labels)


def number_targets(targets: np.ndarray, labels: int) -> None:
    """[examples] numbers."""
    _check_shape(targets)


def tag_targets(targets: np.ndarray, labels: int) -> None:
    """[examples, tokens] classes; `IGNORED` (or less) at tokens that have none."""
    _check_shape(targets, *targets.shape[1:2])
    if targets.ndim != 2 or targets.max(initial=0) >= labels:
        raise DataError(f"targets must be [examples, tokens], below the model's {labels} classes; got {targets.max()}.")


def span_targets(targets: np.ndarray, labels: int) -> None:
    """[examples, 2]: the answer's first and last token, counted from 0 within the text."""
    _check_shape(targets, 2)


def learnt_targets(targets: np.ndarray, labels: int) -> None:
    """[examples, tokens] of 0 and 1: which tokens of a text are learnt; or [examples, 0]: all."""
    _check_shape(targets, *targets.shape[1:2])
    if targets.ndim != 2 or not np.isin(targets, (0, 1)).all():
        raise DataError("targets must be [examples, tokens] of 0 and 1, which tokens are learnt, or [examples, 0].")


def masked_targets(targets: np.ndarray, labels: int) -> None:
    """[examples, tokens]: which token stood at each place that is learnt, below 0 elsewhere; or [examples, 0]: all."""
    if targets.ndim != 2 or not np.issubdtype(targets.dtype, np.integer):
        raise DataError(f"targets have shape {targets.shape}, expected [examples, tokens] of token ids.")


def pair_targets(targets: np.ndarray, labels: int) -> None:
    """[texts, 3] whole numbers: pair, role and text (`in_batch`); or [texts, 0]: texts that are in no pair."""
    if targets.ndim != 2 or targets.shape[1] not in (0, 3) or not np.issubdtype(targets.dtype, np.integer):
        raise DataError(
            f"targets have shape {targets.shape} and type {targets.dtype}; give [texts, 3] whole numbers, each text's "
            "pair, role and number."
        )
