"""Semantic textual similarity: pairs of sentences and how alike they are, scored by the cosine of their vectors."""

from pathlib import Path

from ..checks import checked
from .example import Example, length_fields
from .folder import split_files, without_fillers
from .jsonl import Row, read_rows
from .kinds import KINDS
from .task import CALIBRATION, Task

# What the two sentences and their score are called: as in GLUE and sentence-transformers' data, or as in ours.
_PAIRS = (("sentence1", "sentence2"), ("text", "text_pair"))
SCORES = ("score", "label", "similarity_score")


@checked
def sts(path: str | Path, *, max_length: int | None = None) -> Task:
    """Pairs of sentences with a score, higher where they are more alike; measured by Spearman's correlation.

    `path` is a file of JSON lines (or an array, .json, .gz), which is scored, or a folder with validation.jsonl (else
    test.jsonl) and, to calibrate on, train.jsonl. A line has `sentence1` and `sentence2`, or `text` and `text_pair`,
    and a number as `score` or `label`; without one (null) its sentences calibrate. An embedding model is scored by the
    cosines of its vectors, a model of pairs with one output (a reranker) by that. Calibration draws single sentences.
    `max_length` is the most tokens of a sentence (None: 128); longer ones are cut, with a warning.
    """
    path = Path(path)
    splits = {split: tuple(map(sts_example, _rows(file))) for split, file in split_files(path).items()}
    train = splits.get("train", ())
    others = {split: pairs for split, pairs in splits.items() if split not in ("train", "validation")}
    sentences = dict.fromkeys(text for pair in train for text in (pair.text, pair.pair) if text is not None)
    scores = KINDS["sts"].scores
    return Task(
        name="sts",
        kind="sts",
        labels=(),
        metric=scores[0],
        beside=scores[1:],
        train=train,
        validation=splits.get("validation", others.get("test", ())),
        source=str(path),
        others={**others, **({CALIBRATION: tuple(Example(text, None, None) for text in sentences)} if train else {})},
        **length_fields(max_length),
    )


def _rows(file: Path) -> list[Row]:
    return without_fillers(read_rows(file), *SCORES)  # GLUE's test scores


def sts_example(row: Row) -> Example:
    """Raises DataError for a row whose sentences or score are missing, or there twice."""
    pairs = [names for names in _PAIRS if any(name in row.values for name in names)]
    if len(pairs) != 1:
        raise row.fail("there are no two sentences, or four; write sentence1 and sentence2, or text and text_pair.")
    first, second = (row.text(name) for name in pairs[0])
    return Example(first, second, score_of(row))


def score_of(row: Row) -> float | None:
    """How alike a row says its two texts are; None where it does not. Raises DataError where it does so twice."""
    scores = [name for name in SCORES if row.values.get(name) is not None]
    if len(scores) > 1:
        raise row.fail(f"{' and '.join(scores)} both say how alike the sentences are; keep one.")
    return row.number(scores[0]) if scores else None
