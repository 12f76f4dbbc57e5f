"""Doubts are told: on stderr where nobody has set up logging, by a logger that can be silenced; never twice."""

import logging
import subprocess
import sys

import pytest

import jaxprune as jp
from jaxprune import doubts
from tests.helpers.words import tiny as tiny, tokenizer_folder as tokenizer_folder


@pytest.fixture
def told(caplog, monkeypatch):
    """What has been told so far, in a process that was told nothing before."""
    monkeypatch.setattr(doubts, "_told", set())
    return lambda: [record.getMessage() for record in caplog.records if record.name == "jaxprune"]


def test_it_needs_no_set_up():
    code = "from jaxprune.doubts import tell; tell(['look twice', 'look twice']); tell(['look twice'])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "jaxprune: look twice\n")
    quiet = "import logging; logging.getLogger('jaxprune').setLevel('ERROR'); " + code
    assert subprocess.run([sys.executable, "-c", quiet], capture_output=True, text=True, check=True).stderr == ""


def test_results_keep_what_was_told_once(tiny, told, tmp_path):
    examples = tuple(jp.Example(text, None, number % 2) for number, text in enumerate(["good film", "bad plot"] * 8))
    task = jp.Task("made", "single_label", ("bad", "good"), "accuracy", examples, examples, "here")
    first = jp.evaluate(tiny(), task)
    named = [entry for entry in first.warnings if "calls its classes negative, positive" in entry]
    assert len(named) == 1 and told() == [f"jaxprune: {entry}" for entry in first.warnings]
    assert jp.evaluate(tiny(), task).warnings == first.warnings and len(told()) == len(first.warnings)
    pruned = jp.magnitude(tiny(), task.calibration(8), jp.Budget(0.5))
    assert any("only 8 calibration texts" in entry for entry in told())
    assert "only 8 calibration texts" in " ".join(pruned.provenance.warnings)
    jp.save(pruned, tmp_path / "small")
    before = len(told())
    assert len(jp.load(tmp_path / "small").provenance.warnings) > 0 and len(told()) == before
    doubts._told.clear()  # another process is told what the folder says of its model
    jp.load(tmp_path / "small")
    assert any("only 8 calibration texts" in entry for entry in told()[before:])


def test_a_new_head_is_told(tiny, told, tmp_path):
    jp.save(tiny(), tmp_path / "model")
    assert told() == []
    jp.load(tmp_path / "model", labels=("a", "b", "c"))
    assert len(told()) == 1 and "new, random ones" in told()[0]


def test_the_command_line_prints_its_own(told, tmp_path, tiny, capsys):
    from jaxprune.cli.main import main

    jp.save(tiny(), tmp_path / "model")
    words = ["prune", "--model", str(tmp_path / "model"), "--method", "magnitude", "--remove", "0.5", "--quiet"]
    assert main([*words, "--out", str(tmp_path / "small")]) == 0
    assert told() == [] and "jaxprune: warning: no task is named" in capsys.readouterr().err
    assert not logging.getLogger("jaxprune").disabled


def test_notices_of_others_are_kept_away_and_set_up_no_logging(caplog, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    with doubts.without_others():
        logging.warning("please consider")
    assert logging.root.handlers == [] and not caplog.records
    assert doubts.LOGGER.isEnabledFor(logging.WARNING)
