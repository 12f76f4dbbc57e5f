"""How likely a language model finds given continuations, many at a time: texts of about one length run together."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import NumericalError
from ..model import Batch, Model
from ..model.slices import SLICE
from ..runtime.programs import Programs
from ..runtime.token_scores import Asked, on_device, scores_of
from ..tokens.packing import Encoded, pack
from ..tokens.requests import Continuation

SHORT = 64  # tokens below which texts are of one length; from there on lengths of up to a factor of two run together


class Likelihood(NamedTuple):
    """What a model thinks of continuation `number`."""

    number: int
    log_probability: float  # of all its tokens together, in nats
    greedy: bool  # every token of it is the likeliest one at its place


def likelihoods(
    model: Model,
    continuations: Sequence[Continuation],
    programs: Programs,
    *,
    rows: int | None = None,
    dtype: Any = np.float32,
) -> Iterator[Likelihood]:
    """One for every continuation, in no particular order: long texts come first, equal ones are read once.

    `rows` of a batch are as many as suit the device, unless given. Raises `NumericalError` where a logit is not finite.
    """
    params, readers = on_device(model, programs), sharing(continuations)
    for texts in by_length([len(continuations[of[0]].read) for of in readers]):
        ids = [continuations[readers[text][0]].read for text in texts]
        batches = pack(Encoded(ids, [np.zeros_like(entry) for entry in ids]), model.architecture, rows=rows)
        wanted = [_wanted(batch, [readers[text] for text in texts], continuations) for batch in batches]
        room = -(-max(len(owners) for _, _, owners in wanted) // SLICE) * SLICE  # one shape, so that one program serves
        asked = [
            Asked(batch, _padded(slots, room), _padded(tokens, room))
            for batch, (slots, tokens, _) in zip(batches, wanted, strict=True)
        ]
        scores = scores_of(params, asked, model.architecture, programs, dtype)
        for (_, tokens, owners), result in zip(wanted, scores, strict=True):
            logs = np.asarray(result.log_probabilities, np.float64)[: len(owners)]
            hits = np.asarray(result.likeliest)[: len(owners)] == tokens
            for number in np.unique(owners).tolist():
                mine = owners == number
                if not np.isfinite(logs[mine]).all():
                    raise NumericalError(
                        f"NaN or Inf in the logits of request {number}; check the checkpoint's weights."
                    )
                yield Likelihood(number, float(logs[mine].sum()), bool(hits[mine].all()))


def sharing(continuations: Sequence[Continuation]) -> list[list[int]]:
    """The numbers of the continuations for which the same tokens are read: the answers of one letter to a question."""
    by_text: dict[bytes, list[int]] = {}
    for number, continuation in enumerate(continuations):
        by_text.setdefault(np.asarray(continuation.read, np.int32).tobytes(), []).append(number)
    return list(by_text.values())


def by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Texts in groups of similar length, the longest first: each group is computed in one shape."""
    groups: dict[int, list[int]] = {}
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        groups.setdefault(max(SHORT, 1 << (lengths[text] - 1).bit_length()), []).append(text)
    return list(groups.values())


def _wanted(
    batch: Batch, readers: Sequence[Sequence[int]], continuations: Sequence[Continuation]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slots and tokens to ask for in a batch of texts, and whose they are; `readers` are of a text, by its index."""
    slots, tokens, owners = [], [], []
    segments, index = np.asarray(batch.segments), np.asarray(batch.index)
    for row, place in zip(*np.nonzero(index >= 0), strict=True):
        own = row * segments.shape[1] + np.flatnonzero(segments[row] == place + 1)
        for number in readers[int(index[row, place])]:
            said = continuations[number].said
            slots.append(own[len(own) - len(said) :])
            tokens.append(said)
            owners.append(np.full(len(said), number))
    return np.concatenate(slots), np.concatenate(tokens), np.concatenate(owners)


def _padded(values: np.ndarray, room: int) -> np.ndarray:
    return np.pad(values, (0, room - len(values))).astype(np.int32)
