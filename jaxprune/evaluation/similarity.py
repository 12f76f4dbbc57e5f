"""Vectors scored by what they are for: how alike two sentences are, and which documents answer a query."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from ..model import Model
from ..runtime.programs import Programs
from ..tasks.example import Example, Negatives, Relevant
from ..tasks.kinds import KINDS
from ..tasks.pairs import texts_of
from ..tasks.retrieval import CORPUS
from ..tasks.task import Task
from ..tokens.given_ids import GivenIds
from ..tokens.packing import unpack_logits
from ..tokens.text_doubts import equal_pairs, text_doubts
from ..tokens.tokenizer import Tokenizer
from .chance import chance_level
from .embed import Embedded, embedded, embedding_of, unit_rows
from .label_map import LabelMap
from .metrics import check_metrics, check_none_own, metric_of
from .onnx_model import OnnxModel, described, runner_of
from .outputs import Scored, TextsRun

# What prompts for the two sides of a search are called; the first that a model has is written before its texts.
OF_QUERIES, OF_DOCUMENTS = ("query",), ("document", "passage", "corpus")
BLOCK = 2**24  # similarities that are held at a time
DEPTH = 100  # documents that are looked at of every query
MOST_PAIRS = 250_000  # of a query and a document, that a model of pairs reads
FEW = 20  # texts among which one that belongs is easily the nearest


def similar(
    model: Model | OnnxModel,
    task: Task,
    examples: Sequence[Example],
    reader: Tokenizer | GivenIds,
    label_map: LabelMap,
    programs: Programs,
) -> Scored:
    """How alike the sentences of every pair are: the cosine of their vectors, or what a model says of the pair."""
    check_metrics(task, "sts", 1)
    true = np.array([_score(number, example) for number, example in enumerate(examples)])
    if described(model).architecture.embedding is None:
        encoded = reader.encode(examples, task.max_length, task.strict_length)
        cut, tokens = text_doubts(encoded, "evaluation texts"), encoded.tokens
        run = runner_of(model, programs)(encoded)
        predicted = unpack_logits(run.values, run.batches)[:, 0]
    else:
        # A sentence may be in many pairs, and is embedded once.
        both = [text for example in examples for text in (example.text, example.pair or "")]
        order = {text: place for place, text in enumerate(dict.fromkeys(both))}
        made = _embedded(model, list(order), task, programs, None)
        vectors, tokens, run = unit_rows(made.vectors), made.tokens, _run_of(made)
        cut = (*made.warnings, *_compared(model))
        first, second = (
            vectors[[order[text] for text in side]]
            for side in ([example.text for example in examples], [example.pair or "" for example in examples])
        )
        predicted = np.sum(first * second, axis=1)
    scores = {name: metric_of(task, name)(predicted, true) for name in (task.metric, *task.beside)}
    doubts = chance_level(
        task.metric,
        scores[task.metric],
        None if task.metric in task.own_metrics else 0.0,
        len(examples),
        one_answer=len(np.unique(predicted)) == 1,
        one_label=len(np.unique(true)) == 1,
    )
    return scores, (*cut, *equal_pairs(examples, "pairs that are scored"), *doubts), tokens, run


def retrieved(
    model: Model | OnnxModel,
    task: Task,
    examples: Sequence[Example],
    reader: Tokenizer | GivenIds,
    label_map: LabelMap,
    programs: Programs,
) -> Scored:
    """Which documents come first for every query, by the cosine of their vectors, or by what a model says of query and
    document as a pair: an exact search over all.
    """
    judged = [_relevant(number, example) for number, example in enumerate(examples)]
    corpus = [example.text for example in task.others.get(CORPUS, ())]
    if not corpus:
        raise DataError(
            f'{task.name} from {task.source} has no documents to search; give them as the split "{CORPUS}".'
        )
    itself = [entry.itself for entry in judged]
    if described(model).architecture.embedding is None:
        best, doubts, tokens, run = _reranked(model, task, examples, corpus, itself, reader, programs)
    else:
        asked = _embedded(model, [example.text for example in examples], task, programs, OF_QUERIES)
        documents = _embedded(model, corpus, task, programs, OF_DOCUMENTS)
        best = nearest(unit_rows(asked.vectors), unit_rows(documents.vectors), itself)
        tokens, run = asked.tokens + documents.tokens, _run_of(asked, documents)
        doubts = tuple(dict.fromkeys(doubt for made in (asked, documents) for doubt in made.warnings))
        doubts += _compared(model)
    scores = ranking_scores(best, judged)
    wanted = {name: scores[name] for name in (task.metric, *task.beside) if name in scores}
    return wanted, (*doubts, *_answered_by_themselves(judged)), tokens, run


def _answered_by_themselves(judged: Sequence[Relevant]) -> tuple[str, ...]:
    """A doubt where queries have what they are not searched for among what answers them: ids numbered alike do that."""
    relevant = [
        {document for document, grade in zip(entry.documents, entry.grades, strict=True) if grade > 0}
        for entry in judged
    ]
    own = [there for entry, there in zip(judged, relevant, strict=True) if entry.itself in there]
    if not own:
        return ()
    alone = sum(len(there) == 1 for there in own)
    return (
        f"{len(own)} of {len(judged)} queries have the document of their own id judged relevant, which is neither "
        f"searched for nor counted, as BEIR has it ({alone} have no other, and score 0); where query and document are "
        "not the same text, give the queries other ids.",
    )


def _reranked(
    model: Model | OnnxModel,
    task: Task,
    examples: Sequence[Example],
    corpus: Sequence[str],
    itself: Sequence[int | None],
    reader: Tokenizer | GivenIds,
    programs: Programs,
) -> tuple[np.ndarray, tuple[str, ...], int, TextsRun]:
    """What `nearest` gives, by a model that reads every query with every document. Raises `DataError` for too many."""
    count = len(examples) * len(corpus)
    if count > MOST_PAIRS:
        raise DataError(
            f"a model of pairs reads every query with every document, {count:,} pairs, and {MOST_PAIRS:,} are the "
            "most; score fewer queries (limit), or a smaller corpus."
        )
    pairs = [Example(example.text, text, None) for example in examples for text in corpus]
    encoded = reader.encode(pairs, task.max_length, task.strict_length)
    said = text_doubts(encoded, "pairs of a query and a document")
    run = runner_of(model, programs)(encoded)
    scores = unpack_logits(run.values, run.batches)[:, 0].reshape(len(examples), len(corpus))
    best = _first(scores, itself, min(DEPTH, len(corpus)))
    return best, said, encoded.tokens, run


def matched(
    model: Model | OnnxModel,
    task: Task,
    examples: Sequence[Example],
    reader: Tokenizer | GivenIds,
    label_map: LabelMap,
    programs: Programs,
) -> Scored:
    """How often an anchor's own text is the nearest of all texts that are no anchors, and the mean of 1 over its place.

    Texts that are equal to it, or belong to an equal anchor, are as right; the anchor itself is not searched for.
    Pairs that have numbers are scored as `similar` does it.
    """
    if not any(isinstance(example.label, Negatives) for example in examples):
        return similar(model, task, examples, reader, label_map, programs)
    check_none_own(task)
    of_scores = next((name for name in (task.metric, *task.beside) if name not in KINDS[task.kind].scores), None)
    if of_scores is not None:
        raise DataError(
            f"{task.name} is scored by {of_scores} of its validation pairs, and these have no scores; set no "
            "training pairs aside (holdout 0), or give other validation pairs."
        )
    groups = [texts_of(example) for example in examples]
    known: dict[str, set[str]] = {}
    for anchor, positive, *_ in groups:
        known.setdefault(anchor, set()).add(positive)
    searched = {text: place for place, text in enumerate(dict.fromkeys(text for group in groups for text in group[1:]))}
    order = {text: place for place, text in enumerate(dict.fromkeys(text for group in groups for text in group))}
    made = _embedded(model, list(order), task, programs, None)
    vectors = unit_rows(made.vectors)
    asked = list(known)
    itself = [None if text in known[text] else searched.get(text) for text in asked]
    places = dict(zip(asked, _places(vectors, asked, known, order, searched, itself), strict=True))
    ranks = np.array([places[anchor] for anchor, *_ in groups], np.float64)
    scores = {"accuracy": float(np.mean(ranks == 1)), "mrr": float(np.mean(1 / ranks))}
    doubts = (*made.warnings, *_compared(model), *equal_pairs(examples, "pairs that are scored"))
    if len(searched) < FEW:
        doubts += (f"each text is looked for among {len(searched)} only: the score says little; score more pairs.",)
    return {name: scores[name] for name in (task.metric, *task.beside)}, doubts, made.tokens, _run_of(made)


def _compared(model: Model | OnnxModel) -> tuple[str, ...]:
    """A doubt where a folder of sentence-transformers has its vectors compared otherwise than by their cosine."""
    a = described(model).architecture
    said = described(model).provenance.record.get("sentence_transformers")
    name = said.get("similarity_fn_name") if isinstance(said, dict) else None
    if name in (None, "cosine") or a.embedding is None or (a.embedding.normalize and name == "dot"):
        return ()
    return (
        f"the model compares vectors by {str(name)[:60]!r} (similarity_fn_name), and is scored by their cosines here, "
        "for which lengths do not count.",
    )


def _places(
    vectors: np.ndarray,
    asked: Sequence[str],
    known: Mapping[str, set[str]],
    order: Mapping[str, int],
    searched: Mapping[str, int],
    itself: Sequence[int | None],
) -> Iterator[int]:
    """From 1, the place of the first text that belongs to each of those `asked`; of equal similarities the worst."""
    documents = vectors[[order[text] for text in searched]]
    step = max(1, BLOCK // len(documents))
    for at in range(0, len(asked), step):
        block = vectors[[order[text] for text in asked[at : at + step]]] @ documents.T
        for row, text, own in zip(block, asked[at : at + step], itself[at : at + step], strict=True):
            right = [searched[positive] for positive in known[text]]
            best = row[right].max()
            row[right] = -np.inf
            if own is not None:
                row[own] = -np.inf
            yield 1 + int(np.sum(row >= best))


def nearest(
    queries: np.ndarray, documents: np.ndarray, without: Sequence[int | None], depth: int = DEPTH
) -> np.ndarray:
    """The rows of the `depth` documents with the greatest products, best first, for every query: [queries, depth].

    Of equal ones the first comes first. `without` names for each query one document that is not searched for. An exact
    search, over blocks of queries.
    """
    depth, rows = min(depth, len(documents)), []
    for at in range(0, len(queries), max(1, BLOCK // len(documents))):
        block = queries[at : at + max(1, BLOCK // len(documents))] @ documents.T
        rows.append(_first(block, without[at : at + len(block)], depth))
    return np.concatenate(rows)


def _first(scores: np.ndarray, without: Sequence[int | None], depth: int) -> np.ndarray:
    """The columns with the `depth` greatest scores of every row but the one it is `without`, best first."""
    scores = np.array(scores)
    for row, itself in enumerate(without):
        if itself is not None:
            scores[row, itself] = -np.inf
    # The best of all, then in their order: sorting everything would take longer than the products.
    some = np.sort(np.argpartition(-scores, depth - 1, axis=1)[:, :depth], axis=1)
    return np.take_along_axis(some, np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable"), 1)


def ranking_scores(best: np.ndarray, judged: Sequence[Relevant]) -> dict[str, float]:
    """nDCG at 10 and recall at 10 and 100 of documents in their order, the means over queries.

    As trec_eval and BEIR have them: a document's gain is its grade, divided by log2 of its place + 1; recall counts the
    documents with a grade above 0.
    """
    gains, ideals, hits = [], [], {10: [], 100: []}
    discounts = 1 / np.log2(np.arange(2, 12))
    for row, entry in zip(best.tolist(), judged, strict=True):
        grades = dict(zip(entry.documents, entry.grades, strict=True))
        grades.pop(-1 if entry.itself is None else entry.itself, None)
        relevant = {document for document, grade in grades.items() if grade > 0}
        top = np.array([max(grades.get(document, 0.0), 0.0) for document in row[:10]])
        ideal = np.sort(np.maximum(list(grades.values()), 0.0))[::-1][:10]
        gains.append(float(top @ discounts[: len(top)]))
        ideals.append(float(ideal @ discounts[: len(ideal)]))
        for depth, shares in hits.items():
            shares.append(len(relevant.intersection(row[:depth])) / max(len(relevant), 1))
    ndcg = np.array(gains) / np.maximum(ideals, 1e-12)
    return {"ndcg@10": float(ndcg.mean()), **{f"recall@{depth}": float(np.mean(of)) for depth, of in hits.items()}}


# --- small steps


def _embedded(
    model: Model | OnnxModel, texts: list[str], task: Task, programs: Programs, prompts: tuple[str, ...] | None
) -> Embedded:
    """Vectors of texts, with the first of these prompts that the model has, else with its default one."""
    known = dict(embedding_of(described(model)).prompts)
    name = next((name for name in prompts or () if name in known), None)
    longest: dict[str, Any] = {"max_length": task.max_length} if task.strict_length else {"most": task.max_length}
    return embedded(model, texts, prompt_name=name, programs=programs, **longest)


def _run_of(*made: Embedded) -> TextsRun:
    seconds, compile_seconds = (sum(getattr(one, name) for one in made) for name in ("seconds", "compile_seconds"))
    return TextsRun([], [], seconds, compile_seconds)


def _score(number: int, example: Example) -> float:
    """Raises DataError for a pair that is none, or has no number: tasks made in Python come unchecked."""
    label: Any = example.label
    if example.pair is None:
        raise DataError(f"text {number} has no second one; similarity is that of two.")
    if isinstance(label, bool) or not isinstance(label, int | float) or not abs(label) < np.inf:
        raise DataError(f"pair {number} has the label {label!r:.40}, expected a finite number.")
    return float(label)


def _relevant(number: int, example: Example) -> Relevant:
    if not isinstance(example.label, Relevant):
        raise DataError(f"query {number} has the label {example.label!r:.40}, expected the documents that answer it.")
    return example.label
