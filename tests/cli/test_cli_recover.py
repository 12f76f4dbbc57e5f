"""`prune --recover`: the smaller model learns from the model, on the texts that the flags name."""

import json

import pytest

from tests.helpers.decoders import language_model

FEW = ("--recover-batch-size", 8, "--recover-learning-rate", 1e-3)
CUT = ("--remove", 0.5, "--method", "magnitude", "--no-refit")


def words(inputs, out, *more):
    task = ("--model", inputs.model, "--task", "text-classification", "--data", inputs.data)
    return ("prune", *task, "--calibration-samples", 32, *CUT, "--out", out, *more)


def test_recovered_by_all_training_texts_without_more_words(cli, inputs, tmp_path):
    run = cli.json(*words(inputs, tmp_path / "small", "--recover", 10, *FEW))
    assert run.code == 0, run.err
    notes = run.data["recovery"]
    assert notes["texts"] + notes["held_back"] == 64  # the training split
    assert notes["gap"]["after"] < notes["gap"]["before"]
    assert (notes["settings"]["steps"], notes["settings"]["batch_size"], notes["learning_rate"]) == (10, 8, 1e-3)
    # Saved and scored as it is after the recovery.
    assert json.loads((tmp_path / "small" / "jaxprune.json").read_text())["recovery"]["steps"] == notes["steps"]
    scored = cli.json("evaluate", "--model", tmp_path / "small", *words(inputs, "")[3:7])
    assert scored.data["score"] == run.data["score"]


def test_texts_of_a_file(cli, inputs, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"the film was {word} {n}\n" for n in range(15) for word in ("good", "bad")))
    named = words(inputs, tmp_path / "small", "--recover", 5, "--recover-texts", file, "--recover-samples", 20, *FEW)
    run = cli.json(*named)
    assert run.code == 0, run.err
    notes = run.data["recovery"]
    assert notes["source"] == str(file) and notes["texts"] + notes["held_back"] == 20
    assert run.data["calibration"]["source"] != str(file)


@pytest.mark.parametrize("task", [True, False])
def test_running_text_of_fewer_windows_is_taken_whole(cli, tmp_path, task):
    language_model(tmp_path / "model", "llama")
    file = tmp_path / "train.txt"
    file.write_text("the film was good and the plot was dull " * 30)  # 270 tokens
    words = ("prune", "--model", tmp_path / "model", "--calibration-texts", file, "--seq-len", 16, *CUT)
    words += ("--calibration-samples", 4, "--recover", 2, "--recover-learning-rate", 1e-3)
    if task:
        (tmp_path / "valid.txt").write_text("the film was bad " * 10)
        words += ("--task", "text", "--data", tmp_path / "valid.txt", "--no-evaluate")
    run = cli.json(*words, "--out", tmp_path / "small")
    assert run.code == 0, run.err
    notes = run.data["recovery"]
    assert notes["texts"] + notes["held_back"] == 16
    told = "has 16 windows of 16 tokens, fewer than 256: the model recovers on all of them."
    assert any(warning.endswith(told) for warning in run.data["warnings"])
    refused = cli(*words, "--recover-samples", 17, "--out", tmp_path / "other")
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert "--recover-samples 17, but" in refused.err and "has 16 windows of 16 tokens; ask for fewer" in refused.err


@pytest.mark.parametrize(
    "more, said",
    [
        (("--recover-samples", 8), "--recover-samples has no effect without --recover; add it."),
        (("--recover-dtype", "bfloat16"), "--recover-dtype has no effect without --recover; add it."),
        (("--recover", 0), "--recover must be at least 1, got 0."),
        (
            ("--recover", 5, "--recover-teacher-in", "host", "--recover-hidden", 1),
            "set --recover-hidden to 0, or --recover-teacher-in to",
        ),
        (("--recover", "--recover-samples", 65), "--recover-samples 65, but text-classification has 64"),
        (("--recover", "--recover-samples", 0), "--recover-samples must be at least 1, got 0"),
        (("--recover", "--recover-texts", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_what_cannot_be_meant(cli, inputs, tmp_path, more, said):
    run = cli(*words(inputs, tmp_path / "small", *more))
    assert run.code == 2 and said in run.err and run.err.count("\n") == 1
    assert not (tmp_path / "small").exists()


def test_no_task_and_no_texts(cli, inputs, tmp_path):
    run = cli("prune", "--model", inputs.model, *CUT, "--recover",
              "--out", tmp_path / "small")  # fmt: skip
    assert run.code == 2 and "no texts to recover on" in run.err
