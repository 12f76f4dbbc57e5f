"""Tasks of embedding models: pairs of sentences, and a search over documents; files, scores, what is refused."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError
from jaxprune.evaluation.metrics import spearman
from jaxprune.evaluation.similarity import nearest, ranking_scores
from jaxprune.tasks.example import Negatives, Relevant
from tests.helpers.sentences import write_folder

PAIRS = [("the film is good", "a good film", 4.5), ("the plot", "a cold book", 1), ("a book", "the cast was long", 0.5),
         ("fine", "very fine", 3.8), ("dull and cold", "warm", 2.25)]  # fmt: skip
QRELS = "query-id\tcorpus-id\tscore\n"


def lines(rows):
    return "\n".join(map(json.dumps, rows)) + "\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return jp.load(write_folder(tmp_path_factory.mktemp("similar") / "m", prompts={"query": "film ", "passage": "a "}))


@pytest.fixture
def pairs(tmp_path):
    rows = [{"sentence1": first, "sentence2": second, "score": score} for first, second, score in PAIRS]
    (tmp_path / "validation.jsonl").write_text(lines(rows))
    unscored = [{"text": first, "text_pair": second, "label": None} for first, second, _ in PAIRS] * 8
    (tmp_path / "train.jsonl").write_text(lines(unscored))
    return tmp_path


@pytest.fixture
def beir(tmp_path):
    documents = [{"_id": f"d{n}", "title": "film" if n else "", "text": text} for n, (text, _, _) in enumerate(PAIRS)]
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(lines(documents).encode()))
    queries = [{"_id": "q1", "text": "a film"}, {"_id": "d3", "text": "fine"}, {"_id": "q9", "text": "unjudged"}]
    (tmp_path / "queries.jsonl").write_text(lines(queries))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(QRELS + "q1\td0\t2\nq1\td2\t1\nd3\td3\t1\nd3\td1\t1\nq9\td0\t0\n")
    return tmp_path


def test_pairs_are_scored_by_the_cosines_of_their_vectors(model, pairs):
    task = jp.tasks.sts(pairs)
    scored = jp.evaluate(model, task)
    first, second = (jp.embed(model, [pair[side] for pair in PAIRS]) for side in (0, 1))
    expected = spearman(np.sum(first * second, axis=1), np.array([score for _, _, score in PAIRS]))
    assert scored.metric == "spearman" and scored.score == pytest.approx(expected, abs=1e-9)
    assert scored.examples == 5 and scored.metrics.keys() == {"spearman", "pearson"}
    assert jp.evaluate(model, jp.tasks.load("sts", pairs), limit=3).examples == 3


@pytest.mark.parametrize("name, normalize, told", [("dot", False, 1), ("dot", True, 0), ("cosine", False, 0)])
def test_another_comparison_than_by_cosines_is_told(tmp_path, pairs, name, normalize, told):
    model = jp.load(write_folder(tmp_path / "m", normalize=normalize, similarity_fn_name=name))
    said = [warning for warning in jp.evaluate(model, jp.tasks.sts(pairs)).warnings if "similarity_fn_name" in warning]
    assert len(said) == told and all("the model compares vectors by 'dot'" in warning for warning in said)


def test_minus_one_for_every_score_is_for_none(tmp_path):
    """As GLUE hides what its test pairs score."""
    rows = [{"sentence1": "a", "sentence2": "b", "score": score} for score in (-1, -1)]
    for name, content in (("train", rows), ("test", rows), ("validation", [*rows, rows[0] | {"score": 3}])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    task = jp.tasks.sts(tmp_path)
    assert [pair.label for pair in task.others["test"]] == [None, None]
    assert [pair.label for pair in task.validation] == [-1, -1, 3]


def test_single_sentences_calibrate(model, pairs):
    texts = jp.tasks.sts(pairs).calibration(9, seed=1)
    assert {example.pair for example in texts.examples} == {None} and len({e.text for e in texts.examples}) == 9
    small = jp.prune(model, texts, jp.Budget(0.4), jp.Magnitude())
    assert jp.embed(small, "a film").shape == (12,)


def test_pairs_do_not_calibrate_what_reads_texts_by_themselves(model, tmp_path):
    """They would be read as one text, with a token between the two that no text of such a model has."""
    (tmp_path / "pairs.txt").write_text("a film\tthe film\na book\tthe book\n")
    for texts in (jp.Calibration.of_file(tmp_path / "pairs.txt"), jp.Calibration.of_texts(["a film"], ["the film"])):
        with pytest.raises(DataError, match="are pairs, and an embedding model reads every text by itself; give both"):
            jp.prune(model, texts, jp.Budget(0.4), jp.Magnitude())


def test_a_model_of_pairs_with_one_output_is_scored_on_them_too(pairs, tiny, tokenizer_folder):
    reranker = tiny(problem="regression", labels=("score",))
    said = [entry.value for entry in jp.predict(reranker, *map(list, list(zip(*PAIRS, strict=True))[:2]))]
    scored = jp.evaluate(reranker, jp.tasks.sts(pairs))
    assert scored.score == pytest.approx(spearman(np.array(said), np.array([pair[2] for pair in PAIRS])), abs=1e-6)
    with pytest.raises(DataError, match="sts needs an embedding head, the model has classification"):
        jp.evaluate(tiny(), jp.tasks.sts(pairs))
    with pytest.raises(DataError, match="single sentences, .* a pair"):
        jp.prune(reranker, jp.tasks.sts(pairs).calibration(9), jp.Budget(0.5), jp.Magnitude())


def test_documents_are_found_with_the_prompts_of_both_sides(model, beir):
    task = jp.tasks.retrieval(beir)
    assert [example.text for example in task.validation] == ["a film", "fine"]  # q9 has nothing to find
    scored = jp.evaluate(model, task)
    asked = jp.embed(model, ["a film", "fine"], prompt_name="query")
    documents = ["the film is good", "film the plot", "film a book", "film fine", "film dull and cold"]
    cosines = asked @ jp.embed(model, documents, prompt_name="passage").T
    cosines[1, 3] = -np.inf  # a document of the query's own id is not searched for
    orders = np.argsort(-cosines, axis=1).tolist()
    gains = [{0: 2, 2: 1}, {1: 1}]
    ndcg = []
    for order, grades in zip(orders, gains, strict=True):
        places = 1 / np.log2(np.arange(2, 7))
        ideal = sorted(grades.values(), reverse=True)
        ndcg.append(
            sum(grades.get(d, 0) * p for d, p in zip(order, places, strict=True)) / (ideal @ places[: len(ideal)])
        )
    assert scored.metric == "ndcg@10" and scored.score == pytest.approx(np.mean(ndcg), abs=1e-9)
    assert scored.metrics["recall@10"] == 1.0
    three = jp.tasks.load("retrieval", [beir / "corpus.jsonl.gz", beir / "queries.jsonl", beir / "qrels" / "test.tsv"])
    assert three.validation == task.validation and jp.evaluate(model, three, limit=1).examples == 1
    assert task.calibration(4, seed=0).count == 4


def test_a_model_of_pairs_reads_every_query_with_every_document(beir, tiny, monkeypatch):
    reranker, task = tiny(problem="regression", labels=("score",)), jp.tasks.retrieval(beir)
    queries, documents = [row.text for row in task.validation], [row.text for row in task.others["corpus"]]
    said = [[entry.value for entry in jp.predict(reranker, [query] * 5, documents)] for query in queries]
    said[1][3] = -np.inf  # a document of the query's own id
    best = np.argsort(-np.array(said), axis=1, kind="stable")
    scored = jp.evaluate(reranker, task)
    judged = [row.label for row in task.validation]
    assert scored.score == pytest.approx(ranking_scores(best, judged)["ndcg@10"], abs=1e-9)
    monkeypatch.setattr("jaxprune.evaluation.similarity.MOST_PAIRS", 9)
    with pytest.raises(DataError, match="every document, 10 pairs, and 9 are the most; score fewer queries"):
        jp.evaluate(reranker, task)
    assert jp.evaluate(reranker, task, limit=1).examples == 1


@pytest.mark.parametrize("read_by", ["vectors", "pairs"])
def test_documents_that_answer_a_query_of_their_own_id_are_told(model, beir, tiny, read_by):
    """They are not searched for: with queries and documents numbered alike every score is 0."""
    chosen, says = model if read_by == "vectors" else tiny(problem="regression", labels=("score",)), "of their own id"
    scored = jp.evaluate(chosen, jp.tasks.retrieval(beir))
    assert [told.split(",")[0] for told in scored.warnings if says in told] == [
        "1 of 2 queries have the document of their own id judged relevant"
    ]
    alike = QRELS + "q1\td0\t1\nd3\td3\t1\n"
    (beir / "qrels" / "test.tsv").write_text(alike)
    assert any(
        "(1 have no other, and score 0)" in told for told in jp.evaluate(chosen, jp.tasks.retrieval(beir)).warnings
    )
    (beir / "qrels" / "test.tsv").write_text(alike.replace("d3\td3\t1", "d3\td3\t0"))
    assert not any(says in told for told in jp.evaluate(chosen, jp.tasks.retrieval(beir)).warnings)


def test_the_search_is_exact_and_ties_keep_their_order(monkeypatch):
    monkeypatch.setattr("jaxprune.evaluation.similarity.BLOCK", 50)  # several blocks of queries
    random = np.random.RandomState(0)
    queries, documents = random.randint(-2, 3, (9, 3)), random.randint(-2, 3, (40, 3))
    best = nearest(queries.astype(np.float32), documents.astype(np.float32), [None] * 8 + [5], 40)
    products = (queries @ documents.T).astype(float)
    products[8, 5] = -np.inf
    np.testing.assert_array_equal(best, np.argsort(-products, axis=1, kind="stable"))


def test_scores_of_a_ranking_by_hand():
    judged = [Relevant((3, 7, 9), (2.0, 1.0, -1.0)), Relevant((1,), (1.0,))]
    best = np.array([[7, 3, *range(20, 118)], [*range(30, 45), 1, *range(200, 284)]])
    scores = ranking_scores(best, judged)
    first = (1 + 2 / np.log2(3)) / (2 + 1 / np.log2(3))
    assert scores == pytest.approx({"ndcg@10": first / 2, "recall@10": 0.5, "recall@100": 1.0})


REFUSED = [
    ("qrels/test.tsv", QRELS + "q1\td7\t1\n", "line 2 judges the document d7, which is not there"),
    ("qrels/test.tsv", QRELS + "q7\td1\t1\n", "line 2 judges the query q7, which is not there"),
    ("qrels/test.tsv", QRELS + "q1\td1\t0\n", "calls no document relevant"),
    ("qrels/test.tsv", QRELS + "q1\td1\tx\n", "line 2: the score is 'x'"),
    ("qrels/test.tsv", QRELS + "q1\td1\t1\nq1\td1\t2\n", "line 3 judges the document d1 twice"),
    ("qrels/test.tsv", "q1 0 d1 1\n", "line 1: expected query-id, corpus-id, score with tabs"),
    ("qrels/test.tsv", QRELS + "q1\t0\td1\t1\n", "line 2 has 4 columns"),
    ("queries.jsonl", lines([{"_id": "q1", "text": "a"}, {"_id": "q1", "text": "b"}]), "the id q1 is there twice"),
    ("queries.jsonl", lines([{"text": "a"}]), 'field "_id" is missing'),
]


@pytest.mark.parametrize("file, content, says", REFUSED)
def test_files_of_a_search_that_do_not_do_are_named(beir, file, content, says):
    (beir / file).write_text(content)
    with pytest.raises(DataError, match=says) as error:
        jp.tasks.retrieval(beir)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "row, says",
    [
        ({"sentence1": "a", "score": 1}, '"sentence2" is missing'),
        ({"text": "a", "label": 1}, '"text_pair" is missing'),
        ({"a": "b", "score": 1}, "no two sentences, or four"),
        ({"sentence1": "a", "sentence2": "b", "label": 1, "score": 2}, "score and label both say"),
        ({"sentence1": "a", "sentence2": "b", "score": "high"}, "must be a finite number"),
    ],
)
def test_pairs_that_are_none_are_named(tmp_path, row, says):
    (tmp_path / "validation.jsonl").write_text(lines([row]))
    with pytest.raises(DataError, match=says):
        jp.tasks.sts(tmp_path)


def test_what_is_missing_is_said(model, pairs, beir):
    with pytest.raises(DataError, match="qrels has no test.tsv and not one other"):
        (beir / "qrels" / "test.tsv").rename(beir / "qrels" / "a.tsv")
        (beir / "qrels" / "b.tsv").write_text(QRELS)
        jp.tasks.retrieval(beir)
    with pytest.raises(DataError, match="read from three files"):
        jp.tasks.retrieval([beir / "corpus.jsonl.gz", beir / "queries.jsonl"])
    with pytest.raises(DataError, match="1 of 5 have none"):
        task = jp.tasks.sts(pairs)
        jp.evaluate(model, replace(task, validation=(*task.validation[:4], task.train[0])))


def test_a_metric_that_pairs_do_not_show_is_named(model, pairs):
    graded = replace(jp.tasks.sts(pairs), kind="pairs", metric="accuracy", beside=())
    with pytest.raises(DataError, match="scored by accuracy, which is none of pearson, spearman, the metrics of sts"):
        jp.evaluate(model, graded)
    plain = tuple(row._replace(label=Negatives()) for row in graded.validation)
    with pytest.raises(DataError, match="scored by pearson of its validation pairs, and these have no scores"):
        jp.evaluate(model, replace(graded, beside=("pearson",), validation=plain))
