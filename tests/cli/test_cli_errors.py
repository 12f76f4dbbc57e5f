import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxprune.errors import CheckpointError

PRUNE = ("prune", "--model", "nowhere", "--task", "text-classification", "--data", "nowhere", "--out", "unwritten")


@pytest.mark.parametrize(
    "argv, says",
    [
        ((), "COMMAND"),
        (("paint",), "invalid choice: 'paint'"),
        (("evaluate", "--model", "m"), "--task"),
        ((*PRUNE, "--remove", "much"), "invalid float value: 'much'"),
        ((*PRUNE, "--remove", "40"), "remove must lie in (0, 1), got 40.0. To remove 40 % pass 0.4."),
        ((*PRUNE, "--remove", "0.5", "--cost", "seconds"), "invalid choice: 'seconds'"),
        ((*PRUNE, "--remove", "0.5", "--preset", "best"), "KPrune has no preset 'best'; use one of default"),
        ((*PRUNE, "--remove", "0.5", "--unheard-of"), "--unheard-of"),
        ((*PRUNE, "--remove", "0.5", "--seed", "-1"), "seed is -1, expected an integer from 0 to 4294967295"),
        (("compare", *PRUNE[1:], "--remove", "0.5", "--seeds", "0", "-1"), "seed is -1"),
        (("bench", "--model", "m", "--shapes", "32by128"), "expected ROWSxLENGTH"),
        (("bench", "--model", "m", "--shapes", "1x32", "--generate", "1"), "--shapes has no effect with --generate"),
        (("compare", *PRUNE[1:], "--remove", "0.5", "--seeds", "0", "00"), "--seeds names 0 twice; name each once."),
        (
            ("compare", *PRUNE[1:], "--remove", "0.5", "--methods", "random", "kprune", "random"),
            "--methods names random twice; name each once.",
        ),
        (
            ("compare", *PRUNE[1:], "--remove", "0.5", "--methods", "kprune", "random", "kprune:default"),
            "--methods names kprune and kprune:default, which are the same; leave one of them out.",
        ),
        (
            ("compare", *PRUNE[1:], "--remove", "0.5", "--methods", "guess"),
            "method 'guess' is unknown; use one of kprune",
        ),
    ],
)
def test_every_error_is_one_line(cli, argv, says):
    run = cli(*argv)
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith("jaxprune: error: ") and run.err.count("\n") == 1
    assert says in run.err
    as_json = cli.json(*argv)
    assert as_json.code == 2 and as_json.err == ""
    assert f"jaxprune: error: {as_json.data['error']}\n" == run.err


def test_a_setting_of_another_method_is_refused(cli):
    run = cli(*PRUNE, "--remove", "0.5", "--method", "random", "--temperature", "3")
    assert run.code == 2
    assert "temperature is not a setting of random; it has:" in run.err


@pytest.mark.parametrize(
    "change, says",
    [
        (("--data", "nowhere"), "nowhere"),
        (("--model", "nowhere"), "nowhere"),
        (("--task", "poetry"), "poetry"),
        (("--remove", "0.9999"), "less than one unit"),
        (("--calibration-samples", "1000"), "64"),
        (("--mesh", "data=4096"), "--mesh data=4096 needs 4096 devices, there are"),
        (("--mesh", "4"), "--mesh 4 is not understood; write data=4"),
    ],
)
def test_bad_inputs_stop_before_the_first_forward_pass(cli, inputs, tmp_path, monkeypatch, change, says):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("jaxprune.cli.prune.evaluate", lambda *_, **__: pytest.fail("a forward pass began"))
    words = {"--model": inputs.model, "--task": "text-classification", "--data": inputs.data, "--remove": "0.5"}
    words |= {"--out": str(tmp_path / "small"), "--calibration-samples": "16", change[0]: change[1]}
    run = cli("prune", *(word for pair in words.items() for word in pair))
    assert run.code == 2 and says in run.err, run.err
    assert "jaxprune: error: " in run.err.splitlines()[-1]
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    "error, code, says",
    [
        (KeyboardInterrupt(), 130, "interrupted."),
        (CheckpointError("layer 3 is\n  missing."), 2, "layer 3 is missing."),
        (OSError(28, "No space left on device", "model.safetensors"), 2, "model.safetensors: No space left on device."),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating"), 2, "the device is out of memory"),
        (KeyError("bug"), 1, "internal error, please report it: KeyError: 'bug'"),
    ],
)
def test_what_goes_wrong_inside_is_told_in_json(cli, monkeypatch, error, code, says):
    def load(*_, **__):
        print("noise")
        raise error

    monkeypatch.setattr("jaxprune.cli.flags.read", load)
    run = cli.json("inspect", "--model", "m")
    assert run.code == code and says in run.data["error"]
    assert "noise" in run.err  # libraries that print do not reach stdout
    run = cli("inspect", "--model", "m")
    assert run.code == code and f"jaxprune: error: {says}" in run.err.splitlines()[-1]


def test_help_is_not_an_error(cli):
    run = cli("prune", "--help")
    assert run.code == 0 and "--calibration-samples" in run.out


def test_an_error_in_a_process_of_its_own():
    command = [sys.executable, "-m", "jaxprune.cli.main", "inspect", "--model", "nowhere/at/all", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 2
    assert list(json.loads(done.stdout)) == ["error"]
