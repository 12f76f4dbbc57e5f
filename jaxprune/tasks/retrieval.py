"""Retrieval: which documents of a corpus answer a query. BEIR's files: corpus, queries, and judgements of relevance."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..checks import checked
from ..errors import DataError
from .example import Example, Relevant, length_fields
from .file_text import decode, lines_of
from .jsonl import Row, iter_rows
from .kinds import KINDS
from .task import CALIBRATION, Task

CORPUS, QUERIES, QRELS = "corpus", "queries", "qrels"
_SUFFIXES = (".jsonl", ".jsonl.gz")
_HEADER = ["query-id", "corpus-id", "score"]


@checked
def retrieval(
    corpus: str | Path | Sequence[str | Path],
    queries: str | Path | None = None,
    qrels: str | Path | None = None,
    *,
    max_length: int | None = None,
) -> Task:
    """Queries that are to find the documents judged relevant; measured by nDCG@10 and recall, over all documents.

    The files are BEIR's: `corpus`, JSON lines with `_id`, `text` and optionally `title`, which is put before the text;
    `queries`, with `_id` and `text`; `qrels`, lines of query-id, corpus-id and score with tabs between and a header. Or
    `corpus` is a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv (else its only file). Queries without a
    judgement above 0 are left out, and a document is not searched for by a query of the same id, as BEIR has it (with a
    warning where it is judged relevant). An embedding model searches by its vectors; a model of pairs with one output
    (a reranker) reads every query with every document, of a small corpus. Calibration draws documents. `max_length` is
    the most tokens of a text (None: 128); longer ones are cut, with a warning. Raises `DataError`, also for judgements
    of queries or documents that are not there.
    """
    files = _files(corpus, queries, qrels)
    documents = _texts(files[CORPUS], titled=True)
    asked = _texts(files[QUERIES], titled=False)
    judged = _judgements(files[QRELS], asked, documents)
    places = {name: place for place, name in enumerate(documents)}
    examples = tuple(
        Example(
            asked[query],
            None,
            Relevant(tuple(places[name] for name in grades), tuple(grades.values()), places.get(query)),
        )
        for query, grades in judged.items()
    )
    texts = tuple(Example(text, None, None) for text in documents.values())
    scores = KINDS["retrieval"].scores
    return Task(
        name="retrieval",
        kind="retrieval",
        labels=(),
        metric=scores[0],
        beside=scores[1:],
        train=(),
        validation=examples,
        source=str(files[CORPUS].parent),
        others={CORPUS: texts, CALIBRATION: texts},
        **length_fields(max_length),
    )


def _files(
    corpus: str | Path | Sequence[str | Path], queries: str | Path | None, qrels: str | Path | None
) -> dict[str, Path]:
    """The three files by name. Raises `DataError` where they are not three, or not there."""
    given = [corpus] if isinstance(corpus, (str, Path)) else list(corpus)
    given += [file for file in (queries, qrels) if file is not None]
    if len(given) == 1 and Path(given[0]).is_dir():
        return _in_folder(Path(given[0]))
    if len(given) != 3:
        raise DataError(
            f"retrieval is read from three files, corpus, queries and qrels, or from the folder they lie in; got "
            f"{', '.join(map(str, given))}."
        )
    files: dict[str, Path] = dict(zip((CORPUS, QUERIES, QRELS), map(Path, given), strict=True))
    for name, file in files.items():
        if not file.is_file():
            raise DataError(f"{file} is no file; name that of the {name}.")
    return files


def _in_folder(folder: Path) -> dict[str, Path]:
    files = {}
    for name in (CORPUS, QUERIES):
        there = [file for suffix in _SUFFIXES if (file := folder / f"{name}{suffix}").is_file()]
        if not there:
            raise DataError(f"{folder} has no {name}.jsonl; retrieval needs corpus.jsonl, queries.jsonl and qrels.")
        files[name] = there[0]
    tables = sorted((folder / QRELS).glob("*.tsv"))
    test = [file for file in tables if file.name == "test.tsv"] or tables
    if len(test) != 1:
        said = ", ".join(file.name for file in tables) or "none"
        raise DataError(
            f"{folder / QRELS} has no test.tsv and not one other (there are: {said}); name the three files."
        )
    return {**files, QRELS: test[0]}


def _texts(file: Path, titled: bool) -> dict[str, str]:
    """Texts by id. A document without a title and a text, as BEIR has some, is an empty one."""
    texts: dict[str, str] = {}
    for row in iter_rows(file):
        name = _id(row)
        if name in texts:
            raise row.fail(f"the id {name} is there twice; keep one of the two.")
        title = row.text("title", blank=True).strip() if titled and row.values.get("title") is not None else ""
        body = row.text("text", blank=titled)
        texts[name] = f"{title} {body}".strip() if title else body
    if not texts:
        raise DataError(f"{file} is empty; it needs one JSON object a line, with _id and text.")
    return texts


def _id(row: Row) -> str:
    value = row.get("_id")
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise row.fail(f'field "_id" must be a text or a whole number, got {value!r:.40}.')
    return str(value)


def _judgements(file: Path, queries: Mapping[str, str], corpus: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Of every query with a relevant document its judgements, in the order of the file."""
    judged: dict[str, dict[str, float]] = {}
    lines = lines_of([decode(file)])
    if next(lines, "").removesuffix("\r").split("\t") != _HEADER:
        raise DataError(f"{file} line 1: expected {', '.join(_HEADER)} with tabs between; write that header.")
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        parts, where = line.removesuffix("\r").split("\t"), f"{file} line {number}"
        if len(parts) != 3:
            raise DataError(f"{where} has {len(parts)} columns, expected {', '.join(_HEADER)} with tabs between.")
        query, document, grade = parts
        for name, known, what in ((query, queries, "query"), (document, corpus, "document")):
            if name not in known:
                raise DataError(f"{where} judges the {what} {name}, which is not there; correct the ids.")
        try:
            value = float(grade)
        except ValueError:
            value = float("nan")
        if not abs(value) < 1e30:
            raise DataError(f"{where}: the score is {grade!r:.40}, expected a number.")
        if document in judged.setdefault(query, {}):
            raise DataError(f"{where} judges the document {document} twice for the query {query}; keep one.")
        judged[query][document] = value
    relevant = {query: grades for query, grades in judged.items() if any(grade > 0 for grade in grades.values())}
    if not relevant:
        raise DataError(f"{file} calls no document relevant; it needs scores above 0.")
    return relevant
