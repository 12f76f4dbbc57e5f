"""Extractive question answering: from the outputs of overlapping windows to one answer a question."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ..tokens.encoded import Windows

OVERLAP = 128  # tokens that neighbouring windows share: `doc_stride` of transformers' run_qa
MAX_ANSWER = 30  # tokens


class Span(NamedTuple):
    """A stretch of a context, and how likely a model finds it."""

    text: str
    first: int  # characters of the context
    past: int  # its last, and one more
    score: float  # of its first token as a start and its last as an end: the sum of logits
    probability: float  # of that start and that end among those of their window that can be answers, or none
    nothing: float  # the score of there being no answer, the lowest of all windows: comparable with `score`
    nothing_probability: float  # in that window


def best_answers(
    logits: Sequence[np.ndarray], windows: Windows, contexts: Sequence[str], null: bool, longest: int = MAX_ANSWER
) -> list[str]:
    """The answer to every question: the text of `best_spans`.

    With `null`, a question is not answerable ("") where the score of the first token, the lowest over its windows,
    beats every span.
    """
    spans = best_spans(logits, windows, contexts, longest)
    return ["" if null and span.nothing > span.score else span.text for span in spans]


def best_spans(
    logits: Sequence[np.ndarray], windows: Windows, contexts: Sequence[str], longest: int = MAX_ANSWER
) -> list[Span]:
    """For every question the span with the highest start + end score over all its windows.

    `logits` is one array a window, [tokens, 2]. All spans up to `longest` tokens compete, where run_qa looks at the 20
    best starts and ends only.
    """
    best = [Span("", 0, 0, -np.inf, 0.0, np.inf, 0.0)] * len(contexts)
    for values, span, question in zip(logits, windows.spans, windows.question.tolist(), strict=True):
        so_far, nothing = best[question], float(values[0].sum())
        if nothing < so_far.nothing:
            so_far = so_far._replace(nothing=nothing, nothing_probability=_probability(values, span, 0, 0))
        score, first, last = best_span(values, span, longest)
        if score > so_far.score:
            start, past = int(span[first, 0]), int(span[last, 1])
            so_far = so_far._replace(
                text=contexts[question][start:past],
                first=start,
                past=past,
                score=score,
                probability=_probability(values, span, first, last),
            )
        best[question] = so_far
    return best


def _probability(logits: np.ndarray, span: np.ndarray, first: int, last: int) -> float:
    """Of a start times that of an end: softmaxes over the context and the first token, which says there is none."""
    possible = (span[:, 0] >= 0) | (np.arange(len(span)) == 0)
    scores = np.where(possible[:, None], logits.astype(np.float64), -np.inf)
    scores = np.exp(scores - scores.max(axis=0))
    start, end = (scores / scores.sum(axis=0)).T
    return float(start[first] * end[last])


def best_span(
    logits: Float[np.ndarray, "tokens 2"], span: Int[np.ndarray, "tokens 2"], longest: int
) -> tuple[float, int, int]:
    """Score, first and last token of the best span of at most `longest` tokens that lies inside the context."""
    inside = span[:, 0] >= 0
    start, end = np.where(inside[:, None], logits.astype(np.float64), -np.inf).T
    best = (-np.inf, 0, 0)
    for more in range(min(longest, len(start))):
        scores = start[: len(start) - more] + end[more:]
        first = int(scores.argmax())
        best = max(best, (float(scores[first]), first, first + more), key=lambda span_score: span_score[0])
    return best
