import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxprune.checkpoint import read_manifest, save
from jaxprune.checkpoint.manifest import FORMAT_VERSION, architecture_of, load_own, manifest_of, manifest_text
from jaxprune.errors import CheckpointError, NumericalError
from jaxprune.model import Architecture, LayerSizes, Model, Provenance, logits, parameter_shapes
from jaxprune.model.attention_kinds import Full, LayerKind, Window, by_layer

RAGGED = Architecture(
    family="bert",
    vocab=20,
    hidden=8,
    head_width=4,
    layers=(LayerSizes(groups=2, neurons=6), LayerSizes(groups=0, neurons=1), LayerSizes(groups=1, neurons=0)),
    max_positions=16,
    token_types=2,
    attention_scale=0.5,
    pooler="tanh",
    head="classification",
    labels=("no", "ja – ✓"),
)


def random_model(architecture: Architecture = RAGGED, seed: int = 0) -> Model:
    random = np.random.RandomState(seed)
    params = jax.tree.map(
        lambda shape: random.normal(0, 0.4, shape).astype(np.float32),
        parameter_shapes(architecture),
        is_leaf=lambda node: isinstance(node, tuple),
    )
    return Model(architecture, params)


@pytest.fixture
def saved(tmp_path) -> Path:
    return save(random_model(), tmp_path / "out")


def edit(folder: Path, **changes) -> None:
    """Change top-level entries of jaxprune.json; None deletes."""
    manifest = {**json.loads((folder / "jaxprune.json").read_text()), **changes}
    text = json.dumps({name: entry for name, entry in manifest.items() if entry is not None})
    (folder / "jaxprune.json").write_text(text)


def edit_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


# --- what comes back


def test_logits_of_a_reloaded_model_are_the_same_bits(saved):
    ids = np.array([[2, 3, 4, 5], [6, 7, 0, 0]], np.int32)
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], np.int32)
    model, back = random_model(), load_own(saved)
    assert back.architecture == model.architecture
    jax.tree.map(np.testing.assert_array_equal, back.params, model.params)
    np.testing.assert_array_equal(logits(back, ids, mask), logits(model, ids, mask))


def test_parameters_are_float32_arrays_of_their_own(saved):
    first, second = load_own(saved), load_own(saved)
    for leaf, other in zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True):
        assert isinstance(leaf, jax.Array) and leaf.dtype == np.float32
        assert leaf.size == 0 or leaf.unsafe_buffer_pointer() != other.unsafe_buffer_pointer()
    jax.jit(lambda params: jax.tree.map(lambda leaf: leaf + 1, params), donate_argnums=0)(first.params)
    jax.tree.map(np.testing.assert_array_equal, second.params, random_model().params)


def test_record_source_and_warnings_come_back(tmp_path):
    record = {"method": "kprune", "kept": [{"heads": [0, 1], "neurons": [2]}], "removed": {"flops": 0.5}}
    dense = str(tmp_path / "dense")
    Path(dense).mkdir()
    model = random_model().replace(provenance=Provenance(dense, record, ("careful",))).with_record(warnings=["rank"])
    folder = save(model, tmp_path / "out")
    back = load_own(folder)
    assert back.provenance.source == str(folder)
    assert back.provenance.warnings == ("careful", "rank")
    assert {name: back.provenance.record[name] for name in record} == record
    assert back.provenance.record["source"] == dense
    again = load_own(save(back, tmp_path / "again"))
    assert again.provenance.record == back.provenance.record  # the dense model stays named, nothing is said twice
    assert again.provenance.warnings == back.provenance.warnings


def test_the_manifest_says_every_size_and_version(saved):
    manifest = read_manifest(saved)
    assert manifest["format_version"] == FORMAT_VERSION
    assert [layer["neurons"] for layer in manifest["architecture"]["layers"]] == [6, 1, 0]
    assert set(manifest["versions"]) == {"jaxprune", "jax", "numpy"} and all(manifest["versions"].values())
    assert architecture_of(manifest["architecture"]) == RAGGED


def test_the_manifest_is_strict_json():
    record = {
        "float32": np.float32(0.5),
        "int64": np.int64(3),
        "array": np.arange(3),
        "jax": jax.numpy.float32(2),
        "bad": [float("nan"), np.float32("inf"), 1.0],
        "path": Path("a"),
        3: (1, 2),
    }
    text = manifest_text(
        manifest_of(random_model().with_record(**{str(name): entry for name, entry in record.items()}))
    )

    def refuse(word):
        raise AssertionError(word)

    back = json.loads(text, parse_constant=refuse)
    assert (back["float32"], back["int64"], back["array"], back["jax"]) == (0.5, 3, [0, 1, 2], 2.0)
    assert back["bad"] == [None, None, 1.0]
    assert (back["path"], back["3"]) == ("a", [1, 2])
    assert len(text.splitlines()) == len(back) + 2


# --- a damaged manifest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ('{"format_version": 1', "is not valid JSON"),
        ("[1]", "holds a list, expected an object"),
        ('{"format_version": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("{}", "has format_version None"),
        ('{"format_version": true}', "has format_version True"),
        ('{"format_version": 1}', "has no architecture"),
        ('{"format_version": 2, "architecture": {}}', "has format_version 2.*install a newer jaxprune"),
        ('{"format_version": 1, "architecture": {}, "warnings": "x"}', "expected a list of texts"),
        ('{"format_version": 1, "architecture": {}}', "architecture.layers is 'None', expected a list"),
    ],
)
def test_malformed_manifests_are_refused_in_one_line(saved, text, message):
    (saved / "jaxprune.json").write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_own(saved)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(saved):
    (saved / "jaxprune.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        load_own(saved)


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="jaxprune.json is missing"):
        load_own(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": "8"}, "architecture.hidden is '8', expected int"),
        ({"hidden": -8}, "architecture.hidden is '-8', expected int"),
        ({"hidden": None}, "architecture.hidden is 'None', expected int"),
        ({"causal": 1}, "architecture.causal is '1', expected bool"),
        ({"norm": "group"}, "architecture.norm is 'group', expected 'layer' or 'rms'"),
        ({"norm_eps": True}, "architecture.norm_eps is 'True', expected float"),
        ({"labels": [1, 2]}, "architecture.labels is"),
        ({"labels": []}, "a classification head needs at least one label"),
        ({"depth": 3}, "architecture has unknown depth"),
        ({"layers": [3]}, r"architecture.layers\[0\] is '3', expected an object"),
        ({"layers": [{"groups": 1}]}, r"architecture.layers\[0\] lacks neurons"),
        ({"layers": [{"groups": -1, "neurons": 2}]}, r"architecture.layers\[0\].groups is '-1'"),
        ({"attention_scale": "x"}, "architecture.attention_scale is 'x', expected float | None"),
        ({"attention": 8}, "architecture.attention is '8', expected an object whose kind is one of full, window"),
        ({"attention": {"kind": "sparse"}}, "attention is .*sparse.*, expected an object whose kind is one of full"),
        ({"attention": {"kind": "window", "size": "8"}}, "architecture.attention.size is '8', expected int"),
    ],
)
def test_an_architecture_that_makes_no_sense_is_named(saved, changes, message):
    edit(saved, architecture={**read_manifest(saved)["architecture"], **changes})
    with pytest.raises(CheckpointError, match=message):
        load_own(saved)


def test_layers_of_several_kinds_are_read_as_they_were(saved):
    kinds = LayerKind(), LayerKind(attention=Window(size=3), rotary=(1.0, 0.5)), LayerKind(rotary=())
    mixed = replace(RAGGED, attention=by_layer(kinds))
    entry = json.loads(json.dumps(manifest_of(random_model(mixed))["architecture"]))
    assert architecture_of(entry) == mixed
    entry["attention"]["kinds"][1]["attention"] = {"kind": "sparse"}
    with pytest.raises(
        CheckpointError, match=r"kinds.attention is .*sparse.*, expected an object whose kind is one of"
    ):
        architecture_of(entry)
    entry["attention"] |= {"kinds": entry["attention"]["kinds"][:1], "layers": [0, 1, 0]}
    with pytest.raises(CheckpointError, match=r"mixed attention has 1 kinds and layers of kind \[0, 1, 0\], expected"):
        architecture_of(entry)


@pytest.mark.parametrize(("window", "attention"), [(None, Full()), (8, Window(size=8))])
def test_folders_of_earlier_releases_say_their_attention_as_a_window(saved, window, attention):
    entry = read_manifest(saved)["architecture"]
    assert entry.pop("attention") == {"kind": "full"}
    assert architecture_of({**entry, "window": window}) == replace(RAGGED, attention=attention)
    now = manifest_of(random_model(replace(RAGGED, attention=attention)))["architecture"]
    assert architecture_of(json.loads(json.dumps(now))) == replace(RAGGED, attention=attention)


def test_an_architecture_without_a_size_is_named(saved):
    architecture = read_manifest(saved)["architecture"]
    del architecture["vocab"]
    edit(saved, architecture=architecture)
    with pytest.raises(CheckpointError, match="architecture lacks vocab"):
        load_own(saved)


# --- damaged tensors


def test_missing_extra_and_misshapen_tensors_are_named_with_both_shapes(saved):
    def change(tensors):
        del tensors["head.bias"]
        tensors["head.weight"] = np.zeros((2, 2), np.float32)
        tensors["layers.1.feed_forward.up.bias"] = np.zeros(3, np.float32)

    edit_tensors(saved, change)
    with pytest.raises(CheckpointError) as caught:
        load_own(saved)
    message = str(caught.value)
    assert "missing: head.bias [2]" in message
    assert "extra: head.weight [2, 2]" in message
    assert "misshapen: layers.1.feed_forward.up.bias is [3], expected [1]" in message
    assert "\n" not in message


def test_many_complaints_are_counted(saved):
    edit_tensors(saved, lambda tensors: [tensors.pop(name) for name in list(tensors) if ".attention." in name])
    with pytest.raises(CheckpointError, match=r"missing: (layers\.0\.attention\S* \[[\d, ]+\],? ){5}and \d+ more"):
        load_own(saved)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_named(saved, bad):
    def change(tensors):
        tensors["layers.0.attention.q.kernel"][0, 0, 0, 0] = bad

    edit_tensors(saved, change)
    with pytest.raises(NumericalError, match=r"layers\.0\.attention\.q\.kernel of .* NaN or Inf"):
        load_own(saved)


@pytest.mark.parametrize("size", [0, 4, 40, -1, 1])
def test_truncated_and_over_long_files_are_refused(saved, size):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" if size == 1 else whole[:size])
    with pytest.raises(CheckpointError, match="model.safetensors is missing or damaged"):
        load_own(saved)


def test_missing_weights_are_refused(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model.safetensors is missing or damaged"):
        load_own(saved)


def test_other_number_types_are_refused(saved):
    def change(tensors):
        tensors["head.bias"] = tensors["head.bias"].astype(np.float64)

    edit_tensors(saved, change)
    with pytest.raises(
        CheckpointError, match=r"head\.bias of .* is float64, expected one of float32, bfloat16, float16"
    ):
        load_own(saved)


# --- shards


@pytest.fixture
def sharded(tmp_path) -> Path:
    return save(random_model(), tmp_path / "shards", shard_bytes=600)


def test_shards_hold_the_same_model(sharded):
    jax.tree.map(np.testing.assert_array_equal, load_own(sharded).params, random_model().params)


def test_a_missing_shard_is_named(sharded):
    lost = sorted(sharded.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"{lost.name} is missing or damaged"):
        load_own(sharded)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a\\b.safetensors", "weights.bin"])
def test_an_index_cannot_name_files_elsewhere(sharded, name):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    index["weight_map"]["head.bias"] = name
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="no safetensors file of this folder"):
        load_own(sharded)


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"head.bias": 3}}])
def test_an_index_without_a_map_is_refused(sharded, index):
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="has no weight_map"):
        load_own(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded):
    files = sorted(sharded.glob("model-*.safetensors"))
    first, second = load_file(files[0]), load_file(files[1])
    save_file({**second, **first}, files[1])
    with pytest.raises(CheckpointError, match="in two files"):
        load_own(sharded)
