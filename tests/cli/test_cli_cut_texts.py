"""`--seq-len` on every command that reads texts, and what is said of texts that are longer."""

import json

import pytest

WORK = ("--remove", 0.3, "--calibration-samples", 16)
VERBS = {
    "evaluate": (),
    "prune": (*WORK, "--method", "magnitude", "--out", "{out}"),
    "compare": (*WORK, "--methods", "magnitude", "--out", "{out}"),
    "plan": WORK,
    "finetune": ("--out", "{out}", "--epochs", 1),
}
SAID = {"evaluate": ("evaluation",), "plan": ("calibration",), "finetune": ("training", "evaluation")}


@pytest.mark.parametrize("verb", VERBS)
def test_cut_texts_are_named(verb, cli, inputs, tmp_path):
    options = [str(option).format(out=tmp_path / "out") for option in VERBS[verb]]
    asked = ("--model", inputs.model, "--task", "text-classification", "--data", inputs.data)
    found = cli.json(verb, *asked, *options, "--seq-len", 6)
    assert found.code == 0, found.data
    for what in SAID.get(verb, ("evaluation", "calibration")):
        (warning,) = [entry for entry in found.data["warnings"] if f"{what} texts were cut to 6 tokens" in entry]
        assert f"jaxprune: warning: {warning}" in found.err
        if verb in ("prune", "finetune"):
            assert warning in json.loads((tmp_path / "out" / "jaxprune.json").read_text())["warnings"]
    refused = cli.json(verb, *asked, *options, "--seq-len", 33, *(("--overwrite",) if "--out" in options else ()))
    assert refused.code == 2 and "texts of 33 tokens do not fit the model's 32 positions" in refused.data["error"]


def test_a_plan_without_texts_takes_their_length(cli, inputs, tmp_path):
    found = cli.json("plan", "--model", inputs.model, *WORK, "--seq-len", 20)
    assert found.data["calibration"] == {"texts": 16, "tokens": 320}
    refused = cli.json("plan", "--model", inputs.model, *WORK, "--windows", 3)
    assert refused.code == 2 and "--windows is for a task, and none is named" in refused.data["error"]
    (tmp_path / "texts.txt").write_text("the film\n" * 20)
    words = ("--calibration-texts", tmp_path / "texts.txt", "--seq-len", 0)
    refused = cli.json("plan", "--model", inputs.model, *WORK, *words)
    assert refused.code == 2 and "texts of 0 tokens were asked for" in refused.data["error"]
