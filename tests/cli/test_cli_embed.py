"""`jaxprune embed` and the tasks of embedding models on the command line."""

import io
import json
import sys

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.cli import flags
from jaxprune.cli.main import main, parser
from jaxprune.errors import DataError
from tests.helpers.sentences import write_folder

TEXTS = ["the film is good", "a dull book", "plot"]


def test_texts_become_vectors_in_a_file(tmp_path, capsys, monkeypatch):
    folder = write_folder(tmp_path / "m", prompts={"query": "film "})
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    given = ["embed", "--model", str(folder), "--out", str(tmp_path / "v.npy"), "--json"]
    assert main([*given, "--input", str(tmp_path / "texts.txt"), "--prompt-name", "query", "--dimensions", "5"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["texts"], said["dimensions"]) == (3, 5)
    expected = jp.embed(jp.load(folder), TEXTS, prompt_name="query", dimensions=5)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, rtol=0, atol=1e-6)
    assert main([*given, "--input", "-"]) == 2 and "v.npy exists" in capsys.readouterr().out
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    given[4] = str(tmp_path / "v.jsonl")
    assert main([*given, "--input", "-", "--no-normalize"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    expected = jp.embed(jp.load(folder), TEXTS, normalize=False)
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, rtol=0, atol=1e-6)
    capsys.readouterr()
    given[4] = str(tmp_path / "v.csv")
    assert main([*given, "--input", "-"]) == 2 and "neither .npy nor .jsonl" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["npy", "jsonl"])
def test_what_is_not_read_is_told(tmp_path, capsys, suffix):
    """Blank lines where a text is known by its row alone, if others stand behind them; titles always."""
    given = ["embed", "--model", str(write_folder(tmp_path / "m")), "--out", str(tmp_path / f"v.{suffix}"), "--json"]
    given += ["--overwrite", "--input"]
    titled = [{"_id": "1", "title": "Book", "text": "the film"}, {"_id": "2", "title": " ", "text": "a plot"}]
    rows = "\n".join(map(json.dumps, titled))
    for name, content, told in (
        ("texts.txt", "the film\n\na plot\n \n\ngood\n", "has blank lines before others (3, the first is line 2)"),
        ("texts.txt", "the film\na plot\n\n \n", ""),
        ("texts.jsonl", rows, 'texts.jsonl has a "title" beside 1 of its texts, which is not read; the task retrieval'),
    ):
        (tmp_path / name).write_text(content)
        assert main([*given, str(tmp_path / name)]) == 0
        warnings = json.loads(capsys.readouterr().out)["warnings"]
        if told and (suffix == "npy" or "title" in told):
            assert len(warnings) == 1 and told in warnings[0]
        else:
            assert warnings == []


def test_a_task_of_pairs_by_name(tmp_path, capsys):
    folder = write_folder(tmp_path / "m")
    rows = [{"sentence1": text, "sentence2": "a film", "score": number} for number, text in enumerate(TEXTS)]
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["evaluate", "--model", str(folder), "--task", "sts", "--data", str(tmp_path / "pairs"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["metric"] == "spearman" and said["examples"] == 3


def test_pairs_to_train_on_by_name(tmp_path, capsys):
    """Which are trained on and which scored; and a run."""
    folder = write_folder(tmp_path / "m")
    rows = [{"anchor": f"{text} {number}", "positive": "a film"} for number, text in enumerate(TEXTS * 4)]
    scored = [{"sentence1": text, "sentence2": "a film", "score": number} for number, text in enumerate(TEXTS)]
    for name, entries in (("p.jsonl", rows), ("s.jsonl", scored)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, entries)))
    p, s = str(tmp_path / "p.jsonl"), str(tmp_path / "s.jsonl")
    given = ["finetune", "--model", str(folder), "--out", str(tmp_path / "o"), "--task"]
    of = lambda *words: flags.task(parser().parse_args([*given, *words]))  # noqa: E731
    count = lambda task: (len(task.train), len(task.validation), task.metric)  # noqa: E731
    assert count(of("pairs", "--data", p, "--set-aside", "0.25")) == (9, 3, "accuracy")
    assert count(of("pairs", "--data", p, "--train-data", s, "--min-score", "1")) == (2, 12, "accuracy")
    assert count(of("pairs", "--data", s, "--train-data", p)) == (12, 3, "spearman")
    with pytest.raises(DataError, match="--min-score belongs to --task pairs, not to sts"):
        of("sts", "--data", s, "--min-score", "1")
    assert main([*given, "pairs", "--data", s, "--train-data", s, "--json"]) == 2
    said = json.loads(capsys.readouterr().out)["error"]
    assert "s.jsonl is named to train on and to score" in said
    trained = ["--data", s, "--train-data", p, "--epochs", "1", "--batch-size", "4", "--json"]
    assert main([*given, "pairs", *trained]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["metric"] == "spearman" and jp.load(tmp_path / "o").architecture.head == "embedding"
