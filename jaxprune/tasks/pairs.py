"""Pairs of texts that belong together, to train embedding models on: a question and its answer, two that say the same.

Every other text of a step is taken for one that does not belong (in-batch negatives); a line may name further ones.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..checks import check_seed, checked
from ..errors import DataError
from .example import Example, Negatives, length_fields
from .file_text import check_no_table, decoded, lines_of
from .hub import Hub, Source, Sources
from .jsonl import Row, is_json, iter_rows
from .kinds import KINDS
from .plain_text import QUOTED, quoted
from .set_aside import divided, told_sources
from .sts import SCORES, score_of, sts_example
from .task import CALIBRATION, Task

# What the two texts are called in data sets made for sentence-transformers; the first of each are our own names.
ANCHORS = ("anchor", "query", "question", "sentence1", "premise", "text")
POSITIVES = ("positive", "answer", "passage", "sentence2", "hypothesis", "text_pair")
NEGATIVE = "negative"  # and "negative_1", "negative_2", …
_TABLES = (".tsv", ".tsv.gz", ".txt", ".txt.gz")


@checked
def pairs(
    data: Sources,
    *,
    validation: Sources | float | int | None = None,
    min_score: float | int | None = None,
    max_length: int | None = None,
    seed: int = 0,
) -> Task:
    """Pairs of texts that belong together, to fine-tune an embedding model on.

    Lines of JSON have `anchor` and `positive`, and may have `negative` (or `negative_1`, `negative_2`, …): texts that
    are like the anchor and do not belong to it. Names that data sets for sentence-transformers use will do: `query` or
    `question` and `answer` or `passage`, `sentence1` and `sentence2`, and others. Or lines are columns with tabs
    between (.tsv), in this order or under these names. Pairs with a `score` or `label` are trained on where that is at
    least `min_score`; without it they are refused, since they say of some that these do not belong together.

    `data` is a folder with train.jsonl and validation.jsonl (else test.jsonl); or a file, or several, or `Hub` rows. Of
    files `validation` says what is scored: other files, a share (0.05) or a number (200) of pairs that are set aside,
    drawn with `seed`. Without it files are scored, all of them. Pairs are scored by how often an anchor's own text is
    the nearest of all that are scored (accuracy, and mean reciprocal rank); files whose pairs all have a score, as by
    `tasks.sts`, by Spearman's correlation.

    Calibration draws single texts of those to train on. `max_length` is the most tokens of a text (None: 128); longer
    ones are cut, with a warning. Raises `DataError`, naming the line.
    """
    check_seed(seed)
    read = lambda sources: _pairs_of(sources, min_score)  # noqa: E731
    splits = divided(data, validation, seed, read, "pairs", lambda sources: _scored(sources, min_score))
    for split, examples in splits.items():
        _check_alike(examples, f"{told_sources(data, validation)}, {split}")
    train = splits.get("train", ())
    texts = dict.fromkeys(text for example in train for text in texts_of(example))
    others = {split: entries for split, entries in splits.items() if split not in ("train", "validation")}
    validated = splits.get("validation", others.get("test", ()))
    graded = bool(validated) and not isinstance(validated[0].label, Negatives)
    scores = KINDS["sts" if graded else "pairs"].scores
    return Task(
        name="pairs",
        kind="pairs",
        labels=(),
        metric=scores[0],
        beside=scores[1:],
        train=train,
        validation=validated,
        source=told_sources(data, validation),
        others={**others, **({CALIBRATION: tuple(Example(text, None, None) for text in texts)} if train else {})},
        **length_fields(max_length),
    )


def texts_of(example: Example) -> tuple[str, ...]:
    """Anchor, its own text, and those that do not belong to it. Raises `DataError` for what is no such pair."""
    if example.pair is None or not isinstance(example.label, Negatives):
        raise DataError(f"{example.text!r:.40} is no pair of texts that belong together; give it a second one.")
    return (example.text, example.pair, *example.label.texts)


# --- rows


def _pairs_of(sources: Sequence[Source], least: float | int | None) -> tuple[Example, ...]:
    """The pairs of files that belong together. Raises `DataError` where there are none."""
    examples, rows = [], 0
    scored, bare = False, None  # whether a pair has a score, and the first that has none
    for row in (row for source in sources for row in _rows(source)):
        rows += 1
        score = score_of(row)
        scored, bare = scored or score is not None, row if score is None and bare is None else bare
        if score is not None and least is None:
            name = next(name for name in SCORES if row.values.get(name) is not None)
            raise row.fail(
                f'"{name}" says how alike the two are, and every pair is taken for one that belongs together; pass '
                "min_score, from which on pairs do, or drop the field."
            )
        if least is None or (score is not None and score >= least):
            examples.append(_example(row))
    told = ", ".join(map(str, sources))
    if not rows:
        raise DataError(f"{told} holds no pairs; write one a line, with anchor and positive.")
    if least is not None and not scored:
        raise DataError(f"min_score has no effect on {told}, whose pairs have no score; leave it out.")
    if least is not None and bare is not None:
        raise bare.fail(f"there is no score, and others have one, of which {least:g} is the least; give it one.")
    if not examples:
        raise DataError(f"{told} has no pair with a score of {least:g} or more; lower min_score.")
    return tuple(examples)


def _scored(sources: Sequence[Source], least: float | int | None) -> tuple[Example, ...]:
    """Pairs to score a model by: with numbers, where all of them have one."""
    rows = [row for source in sources for row in _rows(source)]
    graded = [row for row in rows if score_of(row) is not None]
    if graded and len(graded) < len(rows):
        bare = next(row for row in rows if score_of(row) is None)
        raise bare.fail(f"there is no score, and {len(graded)} of {len(rows)} pairs have one; give all of them one.")
    if not graded:
        return tuple(map(_example, rows)) if rows else _pairs_of(sources, least)
    return tuple(map(sts_example, rows))


def _rows(source: Source) -> Iterator[Row]:
    if isinstance(source, Hub):
        return source.rows()
    path = Path(source)
    if not path.name.lower().endswith(_TABLES):
        check_no_table(path, "write JSON lines, or columns with tabs between (.tsv).")
    return iter_rows(path) if is_json(path) else _columns(path)


def _columns(path: Path) -> Iterator[Row]:
    """The lines of a table as rows; by the names of its first line, or where that has none in our order."""
    names: list[str] | None = None
    head = False  # whether the line before, the first, could name the columns
    for number, line in enumerate(lines_of(decoded(path)), start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        cells, where = line.split("\t"), f"{path} line {number}"
        if quoted(cells):
            raise DataError(f"{where} has quotes that are written twice, as in CSV; {QUOTED}.")
        if names is None:
            first = [cell.strip().casefold() for cell in cells]
            named = bool({*ANCHORS, *POSITIVES, NEGATIVE}.intersection(first)) and len(set(first)) == len(first)
            names = first if named else ["anchor", "positive", NEGATIVE][: max(len(cells), 2)]
            head = not named and not any(" " in cell.strip() for cell in cells)  # frage, antwort
            if not named and len(cells) == 3 and _is_number(cells[2]):
                raise DataError(f"{where}: its third column is a number; name the columns in a first line.")
            if named:
                continue
        else:
            if head and any(" " in cell.strip() for cell in cells):
                raise DataError(f"{path}: its first line could name the columns; call them {', '.join(names)}.")
            head = False
        if len(cells) != len(names):
            raise DataError(
                f"{where} has {len(cells)} columns, expected {len(names)}: {', '.join(names)}; a first line that names "
                f"its columns has one of {', '.join(ANCHORS)} and one of {', '.join(POSITIVES)}."
            )
        values = dict(zip(names, cells, strict=True))
        yield Row(where, {key: float(v) if key in SCORES and _is_number(v) else v for key, v in values.items()})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _example(row: Row) -> Example:
    anchor, positive = (row.text(_named(row, names)) for names in (ANCHORS, POSITIVES))
    further = [name for name in row.values if re.fullmatch(rf"{NEGATIVE}(_\d+)?", name)]
    read = {*ANCHORS, *POSITIVES, *SCORES, *further}
    near = next((name for name in row.values if name not in read and _near(name)), None)
    if near is not None:
        raise row.fail(f'field "{near}" is not read; write one text as "{NEGATIVE}", or several as "{NEGATIVE}_1", ….')
    grade = next((name for name, value in row.values.items() if name not in read and _grades(name, value)), None)
    if grade is not None:
        raise row.fail(
            f'field "{grade}" is not read; if it says which pairs belong together, call it score and pass min_score, '
            "else drop it."
        )
    negatives = tuple(row.text(name) for name in further if row.values[name] is not None)
    same = next((text for text in negatives if text in (anchor, positive)), None)
    if same is not None:
        raise row.fail(f"the negative {same!r:.40} is the anchor or the positive itself; drop it.")
    return Example(anchor, positive, Negatives(negatives))


def _named(row: Row, names: Sequence[str]) -> str:
    """The one of these names that a row has. Raises `DataError` for none, and for two."""
    there = [name for name in names if name in row.values]
    if len(there) == 1:
        return there[0]
    if there:
        raise row.fail(f"{' and '.join(there)} could both be the {names[0]}; drop one of them.")
    fields = ", ".join(row.values) or "nothing"
    raise row.fail(
        f"there is no {names[0]} (found: {fields}); write anchor and positive, and negative if there is one."
    )


def _near(name: str) -> bool:
    """Whether a field may be meant for negatives, or for several positives; not for the number of one."""
    name = name.casefold()
    if re.match(r"(hard_?)?neg(ative)?s?_", name):
        return not name.endswith(("id", "ids", "idx"))
    return re.fullmatch(r"(hard_?)?(neg|negative|pos|positive)s?[_\d]*", name) is not None


def _grades(name: str, value: Any) -> bool:
    """Whether a field may say how much the two texts of a pair belong together: a number, but for those of rows."""
    name = name.casefold()
    if any(part in name for part in ("score", "label", "simil", "duplicate", "relat")):
        return value is not None
    counts = name in ("line", "row", "number", "index") or name.endswith(("id", "idx"))
    return isinstance(value, (bool, int, float)) and not counts


def _check_alike(examples: Sequence[Example], where: str) -> None:
    """Raise `DataError` unless all pairs have as many negatives: a batch is one array."""
    counts: dict[int, int] = {}  # so many negatives -> the first pair that has them
    for number, example in enumerate(examples):
        if isinstance(example.label, Negatives):
            counts.setdefault(len(example.label.texts), number)
    if len(counts) > 1:
        (one, first), (other, second), *_ = counts.items()
        raise DataError(
            f"{where}: pair {first} has {one} negatives, pair {second} {other}; give all pairs as many, or none."
        )
