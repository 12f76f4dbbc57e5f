"""lm-evaluation-harness itself on a model whose probabilities are known by hand; skipped where it is not installed."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import DataError, SettingsError
from jaxprune.evaluation.benchmarks import Benchmarks, score_rows
from tests.helpers.bigrams import bigram_model

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the package are not ours to fix

# Four endings each. By hand, from tests/helpers/bigrams.py: the probability of each, and its logarithm by character.
DOCUMENTS = [
    # 1/2·1/2 = 0.25 (-0.231 a character), 1/4·1/2 (-0.297), 1/40·1/12, 1/40: the first by both
    {"query": "the cat", "choices": ["sat on", "ran far", "up cat", "up"], "label": 0},
    # 1/4 (-0.462), 1/2·1/2·1/4·1/12 (-0.351), 1/40, 1/40: the first; by character the second
    {"query": "the dog", "choices": ["sat", "ran far home up", "up", "on"], "label": 1},
    # 1/40·1/40 (-1.05), 1/2 (-0.347), 1/40, 1/40: the second by both
    {"query": "cat sat", "choices": ["far cat", "on", "ran", "dog"], "label": 3},
]
ACC, ACC_NORM = 1 / 3, 2 / 3


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """A folder of tasks: `endings` (four to choose from), `whole` (perplexity), `answers` (generated)."""
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    folder = tmp_path_factory.mktemp("tasks")
    rows = {
        "endings": DOCUMENTS,
        "whole": [{"text": "the cat sat on up"}, {"text": "dog ran far"}],
        "answers": [{"text": "the cat", "answer": "sat"}, {"text": "the dog", "answer": "ran far"}],
    }
    for name, documents in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, documents)))
    own = {
        "endings": {
            "output_type": "multiple_choice",
            "doc_to_text": "{{query}}",
            "doc_to_target": "{{label}}",
            "doc_to_choice": "choices",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
        "whole": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "word_perplexity"}],
        },
        "answers": {
            "output_type": "generate_until",
            "doc_to_text": "{{text}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": [" on"], "max_gen_toks": 5, "do_sample": False},
            "metric_list": [{"metric": "exact_match", "ignore_case": True}],
            "filter_list": [
                {"name": "bare", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
            ],
        },
    }
    for name, entries in own.items():
        data = {"data_files": {"validation": str(folder / f"{name}.jsonl")}, "cache_dir": str(folder / "cache")}
        task = {"task": name, "dataset_path": "json", "dataset_kwargs": data, "validation_split": "validation"}
        (folder / f"{name}.yaml").write_text(
            json.dumps({**task, **entries, "metadata": {"version": 1}})
        )  # JSON is YAML
    return folder


def harness(folder: Path) -> tuple[Any, Any]:
    """Its function, and a manager that knows the tasks of a folder alone: those of the package take seconds to list."""
    package = pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    tasks = importlib.import_module("lm_eval.tasks")
    return package.simple_evaluate, tasks.TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return bigram_model(tmp_path_factory.mktemp("bigrams") / "model")


def test_the_harness_takes_a_model_and_scores_it_as_by_hand(tasks, model):
    simple_evaluate, manager = harness(tasks)
    results = simple_evaluate(model=jp.lm_eval(model), tasks=["endings", "whole", "answers"], task_manager=manager)
    assert results is not None
    scores = results["results"]
    assert scores["endings"]["acc,none"] == pytest.approx(ACC)
    assert scores["endings"]["acc_norm,none"] == pytest.approx(ACC_NORM)
    # Of "the cat sat on up" 1/2 five times; of "dog ran far" 1/4, 1/2 and 1/2: nine halves over eight words.
    assert scores["whole"]["word_perplexity,none"] == pytest.approx(2 ** (9 / 8), abs=1e-4)
    assert scores["answers"]["exact_match,bare"] == 1.0
    assert results["config"]["model"] == "Jaxprune" and results["config"]["model_num_parameters"] > 0
    (first,) = [entry for entry in results["samples"]["endings"] if entry["doc_id"] == 0]
    expected = np.log([1 / 2 * 1 / 2, 1 / 4 * 1 / 2, 1 / 40 / 12, 1 / 40])
    np.testing.assert_allclose([log for ((log, _),) in first["resps"]], expected, atol=1e-4)
    assert [greedy for ((_, greedy),) in first["resps"]] == [True, False, False, False]


def test_answers_are_kept_for_the_next_run(tasks, model, tmp_path, monkeypatch):
    simple_evaluate, manager = harness(tasks)
    ours = jp.lm_eval(model)
    given = {"model": ours, "tasks": ["endings"], "task_manager": manager, "use_cache": str(tmp_path / "kept")}
    first = simple_evaluate(**given)
    monkeypatch.setattr(ours, "loglikelihood", lambda requests: pytest.fail("asked again"))
    assert simple_evaluate(**given)["results"] == first["results"]


def test_benchmarks_are_rows(tasks, model):
    benchmarks = Benchmarks.load(["endings"], limit=2, include_path=str(tasks))
    rows = score_rows(benchmarks.run(jp.lm_eval(model)))
    assert [(row["metric"], row["value"], row["examples"]) for row in rows] == [("acc", 0.5, 2), ("acc_norm", 1.0, 2)]
    assert all(row["task"] == "endings" and row["shots"] == 0 and row["stderr"] >= 0 for row in rows)


def test_tasks_that_cannot_be_run_are_named(tasks, tmp_path):
    with pytest.raises(DataError, match=r"lm-eval has no task 'endigs'; near it are endings"):
        Benchmarks.load(["endigs"], include_path=str(tasks))
    (tasks / "endings.jsonl").rename(tmp_path / "gone")
    try:
        with pytest.raises(DataError, match="lm-eval cannot load endings: "):
            Benchmarks.load(["endings"], include_path=str(tasks))
    finally:
        (tmp_path / "gone").rename(tasks / "endings.jsonl")
    with pytest.raises(DataError, match="nowhere is no folder"):
        Benchmarks.load(["endings"], include_path="nowhere")
    with pytest.raises(SettingsError, match="limit must be a whole number of at least 1, got 0"):
        Benchmarks.load(["endings"], limit=0)


def test_the_missing_package_is_named(model, monkeypatch):
    from jaxprune.evaluation import lm_eval

    lm_eval._with_harness.cache_clear()
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    for call in (lambda: jp.lm_eval(model), lambda: Benchmarks.load(["hellaswag"])):
        with pytest.raises(SettingsError, match=r"pip install 'jaxprune\[lm-eval\]'"):
            call()
    lm_eval._with_harness.cache_clear()
