import hashlib
import json

import numpy as np
import pytest

from jaxprune.checkpoint import load
from jaxprune.checkpoint.read import read_tensors, source_hash, weight_files
from jaxprune.errors import CheckpointError
from tests.helpers import tiny

BERT = tiny.config("bert")
FILES = {"safetensors": "model.safetensors", "msgpack": "flax_model.msgpack", "bin": "pytorch_model.bin"}
forms = pytest.mark.parametrize("form", FILES)


@pytest.fixture
def folder(tmp_path):
    """folder(form) -> a BERT checkpoint in that format."""
    return lambda form: tiny.write(tmp_path / "model", BERT, tiny.tensors(BERT), form)


@pytest.mark.parametrize("form", tiny.FORMS)
def test_all_formats_have_the_names_and_layouts_of_torch(folder, form):
    expected, found = tiny.tensors(BERT), read_tensors(folder(form))
    assert found.keys() == expected.keys()
    for name, stored in found.items():
        assert (stored.shape, stored.dtype) == (expected[name].shape, "float32")
        np.testing.assert_array_equal(stored.read(), expected[name])


@forms
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files_are_refused_in_one_line(folder, form, share):
    path = folder(form) / FILES[form]
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=f"{path.name} is damaged") as caught:
        load(path.parent)
    assert "\n" not in str(caught.value)


@forms
def test_garbage_is_refused(folder, form):
    path = folder(form) / FILES[form]
    for seed in range(20):
        path.write_bytes(np.random.RandomState(seed).bytes(500))
        with pytest.raises(CheckpointError):
            load(path.parent)


@forms
def test_trailing_bytes_are_refused_or_harmless(folder, form):
    path = folder(form) / FILES[form]
    path.write_bytes(path.read_bytes() + b"\x00" * 7)
    if form == "bin":  # a zip may be followed by a few bytes
        return
    with pytest.raises(CheckpointError, match="is damaged"):
        load(path.parent)


@forms
def test_a_git_lfs_pointer_is_recognised(folder, form):
    path = folder(form) / FILES[form]
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer.*git lfs pull"):
        load(path.parent)


def test_flax_trees_may_lie_under_params(tmp_path):
    from flax.serialization import msgpack_serialize

    (tmp_path / "flax_model.msgpack").write_bytes(msgpack_serialize({"params": tiny.flax_tree(tiny.tensors(BERT))}))
    assert read_tensors(tmp_path).keys() == tiny.tensors(BERT).keys()


@pytest.mark.parametrize("tree", [[1, 2], {"a": {"kernel": "text"}}, {"a": [np.zeros(2)]}])
def test_msgpack_of_anything_else_is_refused(tmp_path, tree):
    from flax.serialization import msgpack_serialize

    (tmp_path / "flax_model.msgpack").write_bytes(msgpack_serialize(tree))
    with pytest.raises(CheckpointError, match="expected a tree of tensors|expected a tensor"):
        read_tensors(tmp_path)


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(BERT))
    with pytest.raises(CheckpointError, match="has no weights: none of model.safetensors, flax_model.msgpack, pytor"):
        load(tmp_path)


# --- shards


@pytest.mark.parametrize("form, index", [("sharded", "model.safetensors"), ("sharded bin", "pytorch_model.bin")])
@pytest.mark.parametrize("name", ["../outside{}", "/etc/passwd", "deep/file{}", "..", "", "a\\b{}", "notes.txt"])
def test_an_index_cannot_name_files_elsewhere(folder, form, index, name):
    path = folder(form) / f"{index}.index.json"
    entry = json.loads(path.read_text())
    suffix = ".bin" if form.endswith("bin") else ".safetensors"
    entry["weight_map"]["bert.pooler.dense.bias"] = name.format(suffix)
    path.write_text(json.dumps(entry))
    with pytest.raises(CheckpointError, match=f"no {suffix[1:]} file of this folder"):
        load(path.parent)


def test_a_missing_shard_is_named(folder):
    home = folder("sharded")
    (home / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors cannot be read \(No such file"):
        load(home)


def test_a_tensor_in_two_shards(folder):
    home = folder("sharded")
    (home / "model-00002-of-00002.safetensors").write_bytes((home / "model-00001-of-00002.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="holds tensor .* twice"):
        load(home)


@pytest.mark.parametrize("form, index", [("sharded", "model.safetensors"), ("sharded bin", "pytorch_model.bin")])
def test_shards_without_an_index_are_read_where_all_are_there(folder, form, index):
    home = folder(form)
    before = source_hash(home)
    (home / f"{index}.index.json").unlink()
    expected, found = tiny.tensors(BERT), read_tensors(home)
    assert found.keys() == expected.keys() and source_hash(home) == before
    np.testing.assert_array_equal(found["classifier.weight"].read(), expected["classifier.weight"])
    shard = next(home.glob("*-00001-of-00002.*"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"has \S+-00002-of-00002\.\w+, not all of one checkpoint's 2 files"):
        load(home)


def test_shards_of_two_checkpoints_without_an_index_are_refused(folder):
    home = folder("sharded")
    (home / "model.safetensors.index.json").unlink()
    (home / "model-00001-of-00003.safetensors").write_bytes((home / "model-00001-of-00002.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="not all of one checkpoint's"):
        load(home)


# --- links


def test_links_out_of_the_folder_are_refused(folder, tmp_path):
    home = folder("safetensors")
    (home / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (home / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match="link to a place outside its folder"):
        load(home)


@pytest.mark.parametrize("name", ["vocab.txt", "config.json"])
def test_tokenizer_and_config_links_out_of_the_folder_are_refused(folder, tmp_path, name):
    """`save` copies tokenizer files: a link must not make it copy a file of the user's."""
    home = folder("safetensors")
    (tmp_path / "private").write_text("{}")
    (home / name).unlink(missing_ok=True)
    (home / name).symlink_to(tmp_path / "private")
    with pytest.raises(CheckpointError, match=f"{name} is a link to a place outside"):
        load(home)


def test_links_inside_the_folder_and_to_the_folder_are_followed(folder, tmp_path):
    home = folder("safetensors")
    (home / "model.safetensors").rename(home / "weights.data")
    (home / "model.safetensors").symlink_to("weights.data")
    (tmp_path / "alias").symlink_to(home)
    assert load(tmp_path / "alias").architecture.hidden == 12


def test_links_into_a_hub_cache_are_followed_from_any_folder(folder, tmp_path):
    home, blobs = folder("safetensors"), tmp_path / "cache" / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    for name, blob in (("model.safetensors", "a" * 64), ("config.json", "b" * 40)):
        (home / name).rename(blobs / blob)
        (home / name).symlink_to(blobs / blob)
    assert load(home).architecture.hidden == 12
    (blobs / ("a" * 64)).rename(blobs / "private")
    (home / "model.safetensors").unlink()
    (home / "model.safetensors").symlink_to(blobs / "private")  # not named as the cache names its files
    with pytest.raises(CheckpointError, match="link to a place outside its folder"):
        load(home)


# --- the hash


def test_the_hash_is_that_of_the_weights(folder):
    home = folder("safetensors")
    digest = hashlib.sha256((home / "model.safetensors").read_bytes()).hexdigest()
    assert source_hash(home) == digest
    (home / "vocab.txt").write_text("words")
    assert source_hash(home) == digest


def test_the_hash_of_shards_depends_on_every_one(folder):
    home = folder("sharded")
    before = source_hash(home)
    last = weight_files(home)[-1]
    last.write_bytes(last.read_bytes() + b"x")
    assert len(before) == 64 and source_hash(home) != before
