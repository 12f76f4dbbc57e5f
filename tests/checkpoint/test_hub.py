"""Hub ids, from a cache that was filled by hand: no test reaches the network."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxprune.checkpoint import load
from jaxprune.checkpoint.hub import locate
from jaxprune.errors import CheckpointError
from tests.helpers import tiny
from tests.helpers.sentences import write_folder

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"

# huggingface_hub reads its environment when it is imported, so each case is a process of its own.
SCRIPT = """
import json, sys
import numpy as np
import jaxprune as jp
for asked in sys.argv[1:]:
    name, _, revision = asked.partition("@")
    try:
        model = jp.load(name, revision=revision or None)
        kernel = np.asarray(model.params["head"]["kernel"]).tolist()
        saved = jp.load(jp.save(model, "saved-" + asked.replace("/", "-"))).provenance.record
        origin = {"source": saved["source"], "hub": saved["hub"]}
        assert origin.items() <= model.provenance.record.items() and saved["source_hash"]
        print(json.dumps({"folder": model.provenance.source, "origin": origin, "kernel": kernel}))
    except jp.errors.CheckpointError as error:
        print(json.dumps({"error": str(error)}))
"""


def fill_cache(cache: Path, name: str, form: str) -> Path:
    """A repository in the hub's cache, as the client lays it out: a snapshot of links to blobs."""
    repository = cache / f"models--{name.replace('/', '--')}"
    config = tiny.config("bert")
    source = tiny.write(cache / "scratch", config, tiny.tensors(config), form)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "blobs").mkdir()
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(source.iterdir())):
        blob = repository / "blobs" / f"{number:064}"
        file.rename(blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    source.rmdir()
    return snapshot


def run(cache: Path, *asked: str) -> list[dict]:
    """What a process without network finds for each "name" or "name@revision"."""
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *asked], env=environment, capture_output=True, text=True, cwd=cache
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_hub_id_is_read_from_a_prefilled_cache(tmp_path):
    expected = tiny.random_model(tiny.config("bert")).params["head"]["kernel"]
    snapshots = {}
    for number, form in enumerate(("safetensors", "sharded bin", "msgpack")):
        snapshots[f"someone/tiny-{number}"] = fill_cache(tmp_path, f"someone/tiny-{number}", form)
    *whole, pinned, no_branch, no_model = run(
        tmp_path, *snapshots, f"someone/tiny-0@{COMMIT}", "someone/tiny-0@no-such-branch", "nowhere/at-all"
    )
    for found, (name, snapshot) in zip(whole, snapshots.items(), strict=True):
        assert Path(found["folder"]) == snapshot
        assert found["origin"] == {"source": name, "hub": {"revision": None, "commit": COMMIT}}
        np.testing.assert_array_equal(np.float32(found["kernel"]), expected)
    assert pinned.pop("origin") == {"source": "someone/tiny-0", "hub": {"revision": COMMIT, "commit": COMMIT}}
    assert pinned == {name: whole[0][name] for name in ("folder", "kernel")}
    for found, name in ((no_branch, "someone/tiny-0"), (no_model, "nowhere/at-all")):
        assert found["error"].startswith(f"there is no folder {name}, and the hub does not give")
        assert "\n" not in found["error"]


def test_snapshots_do_not_reach_beyond_their_repository(tmp_path):
    snapshot = fill_cache(tmp_path, "someone/tiny-bert", "safetensors")
    (tmp_path / "private").write_text("secret")
    (snapshot / "vocab.txt").symlink_to(tmp_path / "private")
    with pytest.raises(CheckpointError, match="vocab.txt is a link to a place outside its folder"):
        load(snapshot)


@pytest.mark.parametrize("name", ["nowhere/at/all", "./nowhere", "/nowhere", "~/nowhere", "a b", "../x", "x/"])
def test_paths_are_never_taken_for_hub_ids(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match="there is no folder"):
        locate(name)
    with pytest.raises(CheckpointError, match="there is no folder"):
        locate(Path("nowhere/really"))


def test_what_names_no_checkpoint_at_all(tmp_path):
    # A process of its own: here, the type checker would answer before we do.
    script = "import jaxprune as jp\nfor source in (3, None, '', b'bert'):\n  try: jp.load(source)\n"
    script += "  except (jp.errors.CheckpointError, jp.errors.SettingsError) as error: print(error)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    number, nothing, blank, raw = done.stdout.splitlines()
    assert [number, nothing, raw] == [f"source is {what}; pass a path." for what in ("3", "None", "a bytes")]
    assert blank.startswith("the checkpoint to load is '', expected a text or path; give a checkpoint's")


def test_a_file_and_a_revision_of_a_folder(tmp_path):
    (tmp_path / "model.safetensors").write_text("x")
    with pytest.raises(CheckpointError, match="is a file, expected a checkpoint's folder"):
        locate(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is a folder, which has no revision 'main'"):
        locate(tmp_path, "main")


def test_formats_are_fetched_only_as_far_as_needed(tmp_path, monkeypatch):
    asked = []

    def download(name, revision, allow_patterns):
        asked.append(allow_patterns)
        if "pytorch_model*.bin" in allow_patterns:
            (tmp_path / "pytorch_model.bin").write_text("x")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert locate("some/name") == (tmp_path, {"source": "some/name", "hub": {"revision": None, "commit": None}})
    assert len(asked) == 3 and not any("*.bin" in pattern for pattern in asked[0])
    asked.clear()
    (tmp_path / "model.safetensors").write_text("x")
    locate("some/name")
    assert len(asked) == 1


@pytest.fixture
def served(tmp_path, monkeypatch):
    """served(folder) stands in for the hub: of what the folder holds, it gives the files that are asked for."""
    from huggingface_hub.utils import filter_repo_objects

    def serve(folder: Path) -> Path:
        files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
        cache = tmp_path / "cache"

        def snapshot_download(name, *, revision, allow_patterns):
            for file in filter_repo_objects(files, allow_patterns=allow_patterns):
                (cache / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / file, cache / file)
            return str(cache)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        return cache

    return serve


@pytest.mark.parametrize("inner", ["", "0_Transformer"])
@pytest.mark.parametrize("safe", [True, False])
def test_a_model_of_sentences_comes_with_its_modules(tmp_path, served, inner, safe):
    """Without them, its vectors would be means of the encoder's, without prompts, dense layers and a length."""
    tanh = ((7, "torch.nn.modules.activation.Tanh"),)
    folder = write_folder(tmp_path / "m", ("pooling_mode_cls_token",), tanh, inner=inner, prompts={"query": "film: "})
    if not safe:
        tiny.write_bin(folder / "2_Dense" / "pytorch_model.bin", load_file(folder / "2_Dense" / "model.safetensors"))
        (folder / "2_Dense" / "model.safetensors").unlink()
    (folder / "2_Dense" / "huge.onnx").write_text("x")
    cache, local = served(folder), load(folder)
    model = load("org/name")
    assert model.architecture == local.architecture and model.architecture.head == "embedding"
    assert model.provenance.warnings == ()
    for ours, theirs in zip(model.params["head"], local.params["head"], strict=True):
        np.testing.assert_array_equal(ours["kernel"], theirs["kernel"])
    assert (cache / inner / "tokenizer.json").is_file() and not (cache / "2_Dense" / "huge.onnx").exists()


@pytest.mark.parametrize(
    "file", ["generation_config.json", "additional_chat_templates/tool_use.jinja", "bpe.codes", "spiece.model"]
)
def test_small_files_come_along(tmp_path, served, file):
    settings = tiny.config("bert")
    folder = tiny.write(tmp_path / "m", settings, tiny.tensors(settings))
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text("x")
    cache = served(folder)
    assert locate("org/name").folder == cache and (cache / file).is_file()


def test_an_adapter_alone_is_named(tmp_path, served):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    served(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"holds a PEFT adapter and no model; load its base model \(org/base\)"):
        load("org/adapter")
