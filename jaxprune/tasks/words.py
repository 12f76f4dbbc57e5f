"""Words with a tag each, from files of your own: named entities, parts of speech."""

import re
from collections.abc import Iterator
from pathlib import Path

from ..checks import checked
from .example import Example, Tags
from .folder import label_names, own_task, split_files
from .jsonl import Row, is_json, iter_rows, iter_texts, read_rows, shown
from .kinds import KINDS
from .label_columns import Labels, class_number
from .task import Task

_IOB2 = re.compile(r"O|[BI]-.+")  # tags whose entities can be told


@checked
def token_classification(path: str | Path, *, max_length: int | None = None) -> Task:
    """A task from JSON lines with `tokens`, a list of words, and `ner_tags` or `tags`, a list with one tag a word.

    Tags are names, or numbers that labels.json (a JSON list) names. Files are those of `folder`. IOB2 tags (O, B-PER,
    I-PER) are scored by the F1 of entities, as seqeval has it, all others by accuracy. A text whose tags are missing or
    null calibrates. A word's tag is that of its first token; `max_length` is the most tokens of a text (None: 128), and
    words beyond it are neither trained on nor scored, with a warning.
    """
    path = Path(path)
    splits = {split: read_rows(file) for split, file in split_files(path).items()}
    used = {tag for rows in splits.values() for row in rows for tag in _tags(row) or () if isinstance(tag, str)}
    named = label_names(path)
    labels = Labels("token_classification", named or tuple(sorted(used)), "names" if named else "sorted names")
    examples = {split: tuple(_example(row, labels.names) for row in rows) for split, rows in splits.items()}
    scores = KINDS[labels.kind].scores if all(map(_IOB2.fullmatch, labels.names)) else ("accuracy",)
    return own_task("token-classification", labels, scores, examples, path, max_length)


def _tags(row: Row) -> list[str | int] | None:
    if "ner_tags" in row.values and "tags" in row.values:
        raise row.fail("both ner_tags and tags are there; keep one of them.")
    tags = row.values.get("ner_tags", row.values.get("tags"))
    if tags is not None and (not isinstance(tags, list) or len({type(tag) for tag in tags} | {int, str}) > 2):
        raise row.fail(f"tags must be a list of names or numbers, got {shown(tags)}.")
    if tags is not None and len({type(tag) for tag in tags}) > 1:
        raise row.fail(f"tags are names and numbers, {shown(tags)}; write all of them in one way.")
    spaced = [tag for tag in tags or () if isinstance(tag, str) and tag != tag.strip()]
    if spaced:
        raise row.fail(f"tag {shown(spaced[0])} has blanks around it; remove them.")
    return tags


def iter_words(path: Path) -> Iterator[tuple[list[str] | str, None]]:
    """The texts of a file that are to be tagged, one by one: lists of words, "tokens", or whole ones, as `iter_texts`.

    Raises `DataError`, naming the line.
    """
    if not is_json(path):
        yield from ((text, None) for text, _ in iter_texts(path, paired=False))
        return
    for row in iter_rows(path):
        yield (_words(row) if "tokens" in row.values else row.text("text")), None


def _words(row: Row) -> list[str]:
    words = row.get("tokens")
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise row.fail(f"tokens must be a list of words, got {shown(words)}.")
    blank = [number for number, word in enumerate(words) if not word.strip()]
    if blank:
        raise row.fail(f"word {blank[0]} is blank, so that no token could carry its tag; drop it.")
    return words


def _example(row: Row, names: tuple[str, ...]) -> Example:
    words, tags = _words(row), _tags(row)
    if tags is None:
        return Example(" ".join(words), None, None)
    if len(tags) != len(words):
        raise row.fail(f"{len(words)} words have {len(tags)} tags; give every word one.")
    if not names:
        raise row.fail("tags are numbers; write labels.json, a JSON list of their names in order.")
    index = {name: number for number, name in enumerate(names)}
    return Example(
        " ".join(words), None, Tags(tuple(words), tuple(class_number(row, tag, names, index, "tag") for tag in tags))
    )
