"""`jaxprune evaluate --lm-eval`."""

import sys

import pytest

from tests.evaluation.test_lm_eval import ACC, ACC_NORM, tasks as tasks
from tests.helpers.bigrams import bigram_model

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the package are not ours to fix


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("bigrams") / "model"
    bigram_model(path)
    return str(path)


def test_tasks_of_the_harness_are_scored(cli, folder, tasks):
    words = ("evaluate", "--model", folder, "--lm-eval", "endings,answers", "--include-path", tasks)
    run = cli.json(*words, "--seq-len", 12)
    assert run.code == 0
    values = {(row["task"], row["metric"]): row["value"] for row in run.data["scores"]}
    assert values == pytest.approx(
        {("endings", "acc"): ACC, ("endings", "acc_norm"): ACC_NORM, ("answers", "exact_match"): 1.0}
    )
    assert run.data["results"]["endings"]["acc,none"] == values["endings", "acc"]
    run = cli(*words, "--stream", "--limit", 2, "--num-fewshot", 0)
    assert run.code == 0 and "acc_norm" in run.out and "0.5000" in run.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--lm-eval", "endings", "--task", "text"), "--task has no effect with --lm-eval"),
        (("--lm-eval", "endings", "--split", "test"), "--split has no effect with --lm-eval"),
        (("--lm-eval", "endings", "--train-data", "x"), "--train-data has no effect with --lm-eval"),
        (("--lm-eval", "endings", "--set-aside", 0), "--set-aside has no effect with --lm-eval"),
        (("--lm-eval", "endings", "--min-score", 0), "--min-score has no effect with --lm-eval"),
        (("--lm-eval", "endings", "--documents"), "--documents has no effect with --lm-eval"),
        (("--lm-eval", "endings", "--hub-rows", 3), "--hub-rows has no effect with --lm-eval"),
        (("--lm-eval", ","), "--lm-eval names no task"),
        (("--task", "text", "--data", "x", "--num-fewshot", 0), "--num-fewshot is for --lm-eval"),
        (("--task", "text", "--data", "x", "--apply-chat-template"), "--apply-chat-template is for --lm-eval"),
        ((), "name a task with --task, or one of the harness with --lm-eval"),
        (("--lm-eval", "endings", "--limit", 0), "limit must be a whole number of at least 1, got 0"),
    ],
)
def test_flags_that_do_not_go_together(cli, words, message):
    run = cli("evaluate", "--model", "nowhere", *words)
    assert (run.code, run.out) == (2, "") and message in run.err and run.err.count("\n") == 1


def test_a_missing_package_is_named_before_the_model_is_read(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    run = cli("evaluate", "--model", "nowhere", "--lm-eval", "hellaswag")
    assert run.code == 2 and "pip install 'jaxprune[lm-eval]'" in run.err and run.err.count("\n") == 1


def test_a_model_that_is_no_language_model_is_named(cli, inputs, tasks):
    run = cli("evaluate", "--model", inputs.model, "--lm-eval", "endings", "--include-path", tasks)
    assert run.code == 2 and 'needs a causal_lm head, the model has "classification"' in run.err
