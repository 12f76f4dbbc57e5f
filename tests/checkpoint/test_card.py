"""The card of a folder, and what of it goes to the hub: to a stand-in, here."""

import json
from types import SimpleNamespace

import pytest

import jaxprune as jp
from jaxprune.checkpoint.card import card_text
from jaxprune.errors import OutputError, SettingsError
from tests.helpers import tiny
from tests.helpers.words import build

RECORD = {
    "method": "kprune",
    "settings": {"seed": 0},
    "removed": {"flops": 0.6, "params": 0.61},
    "kept": [],
    "budget": {"remove": 0.6, "cost": "flops"},
    "calibration": {"source": "/home/someone/sst2 (train)", "count": 512, "tokens": 9000, "seed": 0},
    "scores": {"task": "sst2", "metric": "accuracy", "examples": 872, "dense": 0.91, "pruned": 0.89},
    "source": "org/name",
    "hub": {"revision": None, "commit": "0" * 40},
    "warnings": ["few texts"],
}


def parts(folder):
    """The front matter by its keys, which is JSON as YAML reads it, and what comes below."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    _, front, below = text.split("---\n", 2)
    entries = (line.partition(": ") for line in front.splitlines())
    return {name: json.loads(value) for name, _, value in entries}, below


def test_a_saved_folder_says_what_the_model_is(tmp_path):
    folder = jp.save(build().with_record(**RECORD), tmp_path / "out")
    front, below = parts(folder)
    assert front["library_name"] == "jaxprune" and front["base_model"] == "org/name"
    assert front["pipeline_tag"] == "text-classification" and {"jaxprune", "kprune"} <= set(front["tags"])
    (index,) = front["model-index"]
    assert index["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.89}]
    assert index["results"][0]["dataset"] == {"name": "sst2", "type": "sst2"}
    for said in ("# org/name, pruned", "60.0% of the FLOPs", "| 1 | 2 | 12 |", "| dense | 0.9100 |", "- few texts",
                 "512 texts of sst2 (train) (9000 tokens, seed 0)", 'jp.load(FOLDER)', '"remove": 0.6'):  # fmt: skip
        assert said in below, said
    assert "/home/someone" not in below


def test_a_model_that_nothing_was_done_to_claims_nothing(tmp_path):
    model = build(problem="regression", labels=("score",)).with_record(source="/home/someone/model")
    front, below = parts(jp.save(model, tmp_path / "out"))
    assert front == {"library_name": "jaxprune", "pipeline_tag": "text-classification", "tags": ["jaxprune"]}
    assert "# model\n" in below and "/home" not in below and "removed" not in below and "## Scores" not in below


def test_exports_say_how_each_is_loaded(tmp_path):
    settings = tiny.config("bert", "question_answering")
    model = jp.load(tiny.write(tmp_path / "dense", settings, tiny.tensors(settings)))
    front, below = parts(jp.export(model, tmp_path / "out").folder)
    assert front["library_name"] == "transformers" and front["pipeline_tag"] == "question-answering"
    assert "BertForQuestionAnswering.from_pretrained(FOLDER)" in below
    told = json.loads((tmp_path / "out" / "jaxprune_export.json").read_text())
    for kind, says in (("onnx", "jp.load_onnx(FOLDER)"), ("stablehlo", "export.deserialize(")):
        assert says in card_text({**told, "export": {"format": kind}})


def test_a_card_that_was_edited_is_not_overwritten(tmp_path):
    folder = jp.save(build(), tmp_path / "out")
    jp.save(build(seed=1), folder, overwrite=True)
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nand a word of mine\n")
    with pytest.raises(OutputError, match="README.md, which was changed since jaxprune wrote it; move it, then"):
        jp.save(build(), folder, overwrite=True)
    card.unlink()
    assert jp.load(jp.save(build(), folder, overwrite=True)).provenance.record["card"]


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub's client: what it was asked, and an error that it raises."""
    asked = SimpleNamespace(calls=[], error=None)

    class Api:
        def __init__(self, token=None):
            asked.token = token

        def create_repo(self, repo_id, **given):
            asked.calls.append(("create", repo_id, given))
            if asked.error is not None:
                raise asked.error

        def upload_folder(self, **given):
            asked.calls.append(("upload", given))
            return SimpleNamespace(commit_url="https://hub/org/small/commit/1")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return asked


def test_what_jaxprune_wrote_goes_to_the_hub_and_nothing_else(tmp_path, hub, caplog):
    folder = jp.save(build(), tmp_path / "out")
    (folder / "notes.txt").write_text("mine")
    (folder / "README.md").write_text("edited")
    url = jp.push(folder, "org/small", private=True, token="t", revision="dev", message="Smaller")
    assert url == "https://hub/org/small/commit/1" and hub.token == "t"
    (created, uploaded) = hub.calls
    assert created == ("create", "org/small", {"private": True, "exist_ok": True})
    given = uploaded[1]
    assert given["folder_path"] == folder and given["revision"] == "dev" and given["commit_message"] == "Smaller"
    assert given["allow_patterns"] == ["README.md", "jaxprune.json", "model.safetensors"]
    assert "also holds notes.txt, which jaxprune did not write: not uploaded" in caplog.text


def test_what_the_hub_refuses_is_one_of_our_errors(tmp_path, hub):
    from huggingface_hub.errors import HFValidationError

    folder = jp.save(build(), tmp_path / "out")
    with pytest.raises(OutputError, match="is no folder that jaxprune wrote; save or export"):
        jp.push(tmp_path, "org/small")
    hub.error = HFValidationError("Repo id must be in the form 'repo_name'")
    with pytest.raises(SettingsError, match="'a b' is no name of a repository .*; write org/name"):
        jp.push(folder, "a b")
    hub.error = ConnectionError("no route to host")
    with pytest.raises(OutputError, match="org/small cannot be written .no route to host.; check the name"):
        jp.push(folder, "org/small")
    assert all(call[0] == "create" for call in hub.calls)
