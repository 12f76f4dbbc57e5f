"""Extractive question answering: from the outputs of overlapping windows to one answer a question."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from ..tokens.tokenizer import Windows

OVERLAP = 128  # tokens that neighbouring windows share: `doc_stride` of transformers' run_qa
MAX_ANSWER = 30  # tokens


def best_answers(
    logits: Sequence[np.ndarray], windows: Windows, contexts: Sequence[str], null: bool, longest: int = MAX_ANSWER
) -> list[str]:
    """The answer to every question: the span with the highest start + end score over all its windows.

    `logits` is one array a window, [tokens, 2]. With `null`, a question is not answerable ("") where the score of the
    first token, the lowest over its windows, beats every span. All spans up to `longest` tokens compete, where
    run_qa looks at the 20 best starts and ends only.
    """
    best = np.full(len(contexts), -np.inf)
    nothing = np.full(len(contexts), np.inf)
    answers = [""] * len(contexts)
    for values, span, question in zip(logits, windows.spans, windows.question.tolist(), strict=True):
        nothing[question] = min(nothing[question], float(values[0].sum()))
        score, first, last = best_span(values, span, longest)
        if score > best[question]:
            best[question] = score
            answers[question] = contexts[question][span[first, 0] : span[last, 1]]
    return ["" if null and empty > score else text for text, empty, score in zip(answers, nothing, best, strict=True)]


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
