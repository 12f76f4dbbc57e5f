"""Files of pairs: names, tables, negatives, scores; and what would be misread."""

import json

import pytest

import jaxprune as jp
from jaxprune.errors import DataError
from jaxprune.tasks import Negatives


@pytest.fixture
def write(tmp_path):
    def of(name, rows):
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return of


def triples(examples):
    return [(example.text, example.pair, example.label.texts) for example in examples]


NAMES = [
    [{"anchor": "a", "positive": "b"}],
    [{"query": "a", "answer": "b", "id": 7}],
    [{"question": "a", "passage": "b"}],
    [{"sentence1": "a", "sentence2": "b"}],
    [{"premise": "a", "hypothesis": "b", "label": None}],
    [{"text": "a", "text_pair": "b"}],
]


@pytest.mark.parametrize("rows", NAMES)
def test_names_of_data_sets_for_sentence_transformers_are_read(write, rows):
    assert triples(jp.tasks.pairs(write("p.jsonl", rows)).validation) == [("a", "b", ())]


def test_negatives_one_or_several(write):
    one = jp.tasks.pairs(write("p.jsonl", [{"anchor": "a", "positive": "b", "negative": "c"}]))
    assert triples(one.validation) == [("a", "b", ("c",))]
    two = jp.tasks.pairs(write("q.jsonl", [{"query": "a", "positive": "b", "negative_1": "c", "negative_2": "d"}]))
    assert triples(two.validation) == [("a", "b", ("c", "d"))]
    numbered = {"query": "a", "positive": "b", "negative_id": "doc12", "negative_doc_ids": [3]}
    assert triples(jp.tasks.pairs(write("r.jsonl", [numbered])).validation) == [("a", "b", ())]


def test_tables_with_and_without_names(write):
    assert triples(jp.tasks.pairs(write("a.tsv", "a x\tb y\r\n\nc\td\n")).validation) == [
        ("a x", "b y", ()),
        ("c", "d", ()),
    ]
    assert triples(jp.tasks.pairs(write("b.tsv", "a\tb\tc\n")).validation) == [("a", "b", ("c",))]
    named = jp.tasks.pairs(write("c.tsv", "id\tAnswer\tQuestion\n1\tb\ta\n"))
    assert triples(named.validation) == [("a", "b", ())]
    scored = write("d.tsv", "sentence1\tsentence2\tscore\na\tb\t4.5\nc\td\t1\n")
    assert triples(jp.tasks.pairs(scored, validation=write("e.tsv", "a\tb\n"), min_score=4).train) == [("a", "b", ())]


def test_what_is_trained_on_scored_and_calibrated_on(write, tmp_path):
    rows = [{"anchor": f"a{n}", "positive": f"b{n}"} for n in range(40)]
    file = write("p.jsonl", rows)
    task = jp.tasks.pairs(file, validation=0.25, seed=1)
    assert (len(task.train), len(task.validation), task.metric, task.beside) == (30, 10, "accuracy", ("mrr",))
    texts = task.calibration(60).examples
    assert {text.pair for text in texts} == {None} and {text.text for text in texts} == {
        text for example in task.train for text in (example.text, example.pair)
    }
    assert not task.paired
    alone = jp.tasks.load("pairs", file)
    assert not alone.train and len(alone.validation) == 40
    with pytest.raises(DataError, match='no examples in split "train".*pass validation=0.05'):
        alone.split("train")
    folder = tmp_path / "folder"
    folder.mkdir()
    graded = [{"sentence1": "a", "sentence2": "b", "score": score} for score in (1, 4.5, 5)]
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in graded))
    task = jp.tasks.pairs(folder, min_score=4.0)
    assert len(task.train) == 2 and task.train[0].label == Negatives()
    assert [example.label for example in task.validation] == [1, 4.5, 5] and task.metric == "spearman"


REFUSED = [
    ([{"anchor": "a"}], "there is no positive \\(found: anchor\\)"),
    ([{"a": "b", "c": "d"}], "there is no anchor \\(found: a, c\\)"),
    ([{"query": "a", "question": "b", "answer": "c"}], "query and question could both be the anchor"),
    ([{"anchor": "a", "positive": " "}], '"positive" is blank'),
    ([{"anchor": "a", "positive": "b", "negative": "b"}], "negative 'b' is the anchor or the positive itself"),
    ([{"query": "a", "pos": ["b"], "neg": ["c"]}], "there is no positive"),
    ([{"query": "a", "positive": "b", "negatives": ["c"]}], '"negatives" is not read'),
    ([{"query": "a", "positive": "b", "negative1": "c"}], '"negative1" is not read'),
    ([{"query": "a", "positive": "b", "negative_passage": "c"}], '"negative_passage" is not read'),
    ([{"query": "a", "positive": "b", "hard_negative_2": "c"}], '"hard_negative_2" is not read'),
    ([{"anchor": "a", "positive": "b", "relatedness": 0.1}], '"relatedness" is not read; if it says which pairs'),
    ([{"sentence1": "a", "sentence2": "b", "gold_label": "neutral"}], '"gold_label" is not read'),
    ([{"question": "a", "positive": "b", "same": False, "idx": 3}], '"same" is not read'),
    ([{"text": "a", "answer": "b", "negative": "c"}, {"text": "d", "answer": "e"}], "pair 0 has 1 negatives, pair 1 0"),
]  # fmt: skip


def test_a_first_line_of_other_names_is_no_pair(write):
    with pytest.raises(DataError, match="its first line could name the columns; call them anchor, positive"):
        jp.tasks.pairs(write("p.tsv", "frage\tantwort\nwho is it\tit is me\n"))
    assert len(jp.tasks.pairs(write("q.tsv", "cat\tdog\ndog\tcat\n")).validation) == 2


@pytest.mark.parametrize("rows, says", REFUSED)
def test_lines_that_do_not_do_are_named(write, rows, says):
    with pytest.raises(DataError, match=says) as error:
        jp.tasks.pairs(write("p.jsonl", rows))
    assert "\n" not in str(error.value)


def test_scores_are_never_ignored(write):
    graded = write("p.jsonl", [{"sentence1": "a", "sentence2": "b", "score": 0.5}] * 2)
    plain = write("q.jsonl", [{"anchor": "a", "positive": "b"}])
    with pytest.raises(DataError, match='line 1: "score" says how alike the two are.*pass min_score'):
        jp.tasks.pairs(graded, validation=plain)
    with pytest.raises(DataError, match="has no pair with a score of 4 or more"):
        jp.tasks.pairs(graded, validation=plain, min_score=4.0)
    with pytest.raises(DataError, match="line 2: there is no score, and others have one, of which 4 is the least"):
        jp.tasks.pairs(
            write("o.jsonl", [{"text": "a", "text_pair": "b", "score": 5}, {"text": "c", "text_pair": "d"}]),
            validation=plain,
            min_score=4.0,
        )
    with pytest.raises(DataError, match="min_score has no effect"):
        jp.tasks.pairs(plain, validation=graded, min_score=4.0)
    some = write("r.jsonl", [{"anchor": "a", "positive": "b", "label": 1}, {"anchor": "a", "positive": "b"}])
    with pytest.raises(DataError, match="line 2: there is no score, and 1 of 2 pairs have one"):
        jp.tasks.pairs(plain, validation=some)
    with pytest.raises(DataError, match="third column is a number"):
        jp.tasks.pairs(write("s.tsv", "a\tb\t4.5\n"))
    with pytest.raises(DataError, match="v.tsv line 2 has quotes that are written twice, as in CSV"):
        jp.tasks.pairs(write("v.tsv", 'a "plain" one\t"quoted"\n"He said ""hi"" to me"\tb\n'))
    with pytest.raises(DataError, match="line 2 has 3 columns, expected 2"):
        jp.tasks.pairs(write("t.tsv", "a\tb\na\tb\tc\n"))
    with pytest.raises(DataError, match="is a table"):
        jp.tasks.pairs(write("u.csv", "a,b\n"))
