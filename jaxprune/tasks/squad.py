"""SQuAD 1.1 and 2.0, from local files or from the hub."""

import json
from pathlib import Path
from typing import Any

from ..checks import checked
from ..errors import DataError
from .example import Answers, Example, length_fields
from .file_text import check_no_table, decode
from .glue import from_hub
from .jsonl import Row, is_json, rows_of, shown, split_file
from .task import Task

HUB_NAMES = {1: "rajpurkar/squad", 2: "rajpurkar/squad_v2"}
# Other names of a split's file than ours: the official ones, and excerpts.
NAMES_OF_FILES = {
    "train": ("train-v{official}.json*", "squad_v{version}_train*.json*"),
    "validation": ("dev-v{official}.json*", "squad_v{version}_validation*.json*"),
}
WINDOW = 384  # tokens of a window


@checked
def squad(path: str | Path | None = None, version: int = 1, *, max_length: int | None = None) -> Task:
    """Extractive question answering; version 2 has questions without an answer.

    `path` is a folder with train.jsonl and validation.jsonl (one question a line: id, question, context, answers) or
    with the official nested files (train-v1.1.json, dev-v1.1.json, …), one for each, or one such file, which is then
    scored. None: from the hub. Scores are fractions, not percentages. `max_length` is the tokens of a window, question
    and special tokens included (None: 384).
    """
    if version not in HUB_NAMES:
        raise DataError(f"SQuAD has versions 1 and 2, got {version}.")
    if path is None:
        source, splits = HUB_NAMES[version], from_hub(HUB_NAMES[version])
    else:
        source = str(path)
        splits = {split: _rows(file) for split, file in _files(Path(path), version).items()}
    if not splits:
        raise DataError(f"{source} has no validation.jsonl (nor dev-v{_official(version)}.json) to score on; add it.")
    examples = {split: tuple(_example(row, version) for row in rows) for split, rows in splits.items()}
    return Task(
        name="squad" if version == 1 else "squad2",
        kind="question_answering",
        nullable=version == 2,
        labels=(),
        metric="f1",
        train=examples.get("train", ()),
        validation=examples.get("validation", ()),
        source=source,
        **length_fields(max_length, WINDOW),
    )


def _official(version: int) -> str:
    return "1.1" if version == 1 else "2.0"


def _files(path: Path, version: int) -> dict[str, Path]:
    if path.is_file():
        return {"validation": path}
    files: dict[str, Path] = {}
    for split, patterns in NAMES_OF_FILES.items():
        others = (path.glob(pattern.format(version=version, official=_official(version))) for pattern in patterns)
        ours = split_file(path, split)
        there = [] if ours is None else [ours]
        there += [file for names in others for file in sorted(names) if is_json(file) and file.is_file()]
        if len(there) > 1:
            raise DataError(f"{path} has {' and '.join(file.name for file in there)}; keep the one that is meant.")
        if there:
            files[split] = there[0]
    return files


def _rows(file: Path) -> list[Row]:
    """One row a question, from JSON lines, an array, or the official nesting of articles, paragraphs and questions."""
    check_no_table(file, "write one question a line as JSON.")
    text = decode(file)
    nested = _nested(text)
    if nested is None:
        return rows_of(file, text)
    try:
        rows = [
            Row(f"{file} question {entry.get('id')}", {**entry, "context": paragraph["context"]})
            for article in nested["data"]
            for paragraph in article["paragraphs"]
            for entry in paragraph["qas"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} is not nested as SQuAD is (data, paragraphs, qas): {error}; write one question a line instead."
        ) from error
    if not rows:
        raise DataError(f"{file} has no questions; copy the file anew.")
    return rows


def _nested(text: str) -> dict[str, Any] | None:
    """The one object that a file is, None where it is not one, or is a single question."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return whole if isinstance(whole, dict) and "question" not in whole else None


def _example(row: Row, version: int) -> Example:
    # SQuAD itself has a few questions of blanks only.
    question, context = row.text("question", blank=True), row.text("context")
    if row.values.get("answers") is None:  # good enough to calibrate on
        return Example(question, context, None)
    texts, starts = _answers(row)
    if texts and row.values.get("is_impossible") is True:
        raise row.fail("is_impossible is true, and there are answers; drop one of the two.")
    if version == 1 and not texts:
        raise row.fail("question without an answer; SQuAD 1.1 has none: use squad2.")
    for text, start in zip(texts, starts, strict=True):
        if context[start : start + len(text)] != text:
            raise row.fail(f"answer {shown(text)} is not in the context at character {start}; correct answer_start.")
    name = row.values.get("id")
    return Example(question, context, Answers("" if name is None else str(name), texts, starts))


def _answers(row: Row) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Both layouts in use: {"text": [...], "answer_start": [...]} and [{"text": …, "answer_start": …}, …]."""
    given = row.get("answers")
    try:
        if isinstance(given, dict):
            pairs = list(zip(given["text"], given["answer_start"], strict=True))
        else:
            pairs = [(entry["text"], entry["answer_start"]) for entry in given]
        if not all(isinstance(text, str) and isinstance(start, int) and start >= 0 for text, start in pairs):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise row.fail(f'answers must have "text" and "answer_start", as many of each; got {shown(given)}.') from error
    return tuple(text for text, _ in pairs), tuple(start for _, start in pairs)
