"""Folders keep the types of the checkpoint, and `as_saved` is what will be read back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_dtypes import bfloat16
from safetensors.numpy import load_file

import jaxprune as jp
from jaxprune.checkpoint import load, save
from jaxprune.checkpoint.dtypes import as_saved, saved_types
from jaxprune.checkpoint.read import weight_bytes
from jaxprune.errors import NumericalError
from jaxprune.model import Model
from jaxprune.pruning.cut import with_output_biases
from tests.helpers import tiny

KINDS = {"float16": np.float16, "bfloat16": bfloat16, "float32": np.float32, "float64": np.float64}


def checkpoint(path, kind, family="llama", exceptions=None):
    """A tiny checkpoint in one type; tensors whose names contain a key of `exceptions` have another."""
    settings = tiny.config(family, torch_dtype=kind)
    named = {}
    for name, tensor in tiny.tensors(settings).items():
        other = next((other for part, other in (exceptions or {}).items() if part in name), kind)
        named[name] = tensor.astype(KINDS[other])
    return tiny.write(path / f"checkpoint-{kind}", settings, named)


def moved(model: Model, by: float = 1e-5) -> Model:
    """The model after something was computed: its numbers are no longer those of a half type."""
    return model.replace(params=jax.tree.map(lambda leaf: leaf + np.float32(by), model.params))


def types_in(folder) -> set[str]:
    return {array.dtype.name for array in load_file(folder / "model.safetensors").values()}


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
def test_a_folder_is_no_larger_than_its_checkpoint_and_says_its_type(tmp_path, kind):
    source = checkpoint(tmp_path, kind)
    model = moved(load(source))
    before = jax.tree.map(np.array, model.params)
    expected = as_saved(model)
    folder = save(model, tmp_path / "out")
    written = "float32" if kind == "float64" else kind
    assert types_in(folder) == {written} == {json.loads((folder / "jaxprune.json").read_text())["dtype"]}
    tensors = {name: array for name, array in load_file(folder / "model.safetensors").items()}
    assert sum(array.nbytes for array in tensors.values()) <= weight_bytes(source)
    jax.tree.map(np.testing.assert_array_equal, load(folder).params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, model.params, before)  # what is in memory stays exact
    assert (expected is model) == (written == "float32")
    # From folder to folder the type stays; asked for, it is another.
    assert types_in(save(load(folder), tmp_path / "again")) == {written}
    assert types_in(save(load(folder), tmp_path / "full", dtype="float32")) == {"float32"}
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "again").params, expected.params)
    assert types_in(jp.export(load(folder), tmp_path / "hf").folder) == {written}
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["torch_dtype"] == written


def test_weights_that_were_never_changed_are_not_rounded(tmp_path):
    model = load(checkpoint(tmp_path, "float16"))
    assert as_saved(model) is model and as_saved(model, "float32") is model
    assert as_saved(model, "bfloat16") is not model
    host = load(checkpoint(tmp_path / "2", "float16"), host=True)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(as_saved(moved(host)).params))


def test_types_are_kept_tensor_by_tensor_and_new_ones_are_like_most(tmp_path):
    model = load(checkpoint(tmp_path, "bfloat16", exceptions={"norm": "float32", "lm_head": "float64"}))
    types = saved_types(with_output_biases(model))
    assert types.most == "bfloat16" and types.warnings == ()
    of = {name: kind for name, kind in types.of.items() if name.startswith(("layers.0.att", "head"))}
    expected = dict.fromkeys((f"layers.0.attention.{name}.kernel" for name in "qkvo"), "bfloat16")
    expected |= {"layers.0.attention.o.bias": "bfloat16", "layers.0.attention.norm.scale": "float32"}
    assert of == expected | {"head.kernel": "float32"}
    folder = save(model, tmp_path / "out")
    assert json.loads((folder / "jaxprune.json").read_text())["dtype"] == "bfloat16, float32"
    assert types_in(jp.export(model, tmp_path / "hf").folder) == {"bfloat16", "float32"}
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_what_is_kept_in_half_precision_in_memory_is_saved_so(tmp_path):
    source = checkpoint(tmp_path, "float32")
    half = load(source, dtype="bfloat16")
    assert as_saved(half) is half and types_in(save(half, tmp_path / "out")) == {"bfloat16"}
    bare = Model(half.architecture, half.params)  # made in memory: nothing says what a checkpoint had
    assert set(saved_types(bare).of.values()) == {"bfloat16"}
    assert set(saved_types(Model(half.architecture, load(source).params)).of.values()) == {"float32"}


def test_numbers_too_large_for_the_checkpoint_are_kept_and_said(tmp_path):
    model = load(checkpoint(tmp_path, "float16"))
    kernel = model.params["layers"][1]["feed_forward"]["down"]["kernel"].at[0, 0].set(1e5)
    layers = [model.params["layers"][0], {**model.params["layers"][1]}]
    layers[1]["feed_forward"] = {**layers[1]["feed_forward"], "down": {"kernel": kernel}}
    large = model.replace(params={**model.params, "layers": layers})
    folder = save(large, tmp_path / "out")
    back = load(folder)
    assert back.params["layers"][1]["feed_forward"]["down"]["kernel"][0, 0] == np.float32(1e5)
    assert types_in(folder) == {"float16", "float32"}
    (warning,) = back.provenance.warnings
    assert warning == (
        "layers.1.feed_forward.down.kernel: numbers too large for float16, the type of the checkpoint; saved in "
        "float32."
    )
    assert as_saved(large).provenance.warnings == (warning,)
    jax.tree.map(np.testing.assert_array_equal, as_saved(large).params, back.params)
    for act in (lambda: as_saved(large, "float16"), lambda: save(large, tmp_path / "no", dtype="float16")):
        with pytest.raises(NumericalError, match=r"layers\.1\.feed_forward\.down\.kernel .* too large for float16"):
            act()
    # transformers casts all to the type that config.json names: a number that it could not hold would be infinite.
    written = jp.export(large, tmp_path / "hf")
    assert types_in(written.folder) == {"float32"} and written.config["torch_dtype"] == "float32" == written.dtype
    assert "down.kernel: numbers too large for float16" in written.warnings[0]
    with pytest.raises(NumericalError, match="holds NaN or Inf"):
        save(large.replace(params=jax.tree.map(lambda leaf: leaf * jnp.inf, large.params)), tmp_path / "no")


def test_a_fused_tensor_has_one_type_that_holds_its_parts(tmp_path):
    model = load(checkpoint(tmp_path, "float16", family="gpt2"))
    layer = model.params["layers"][0]
    q = {**layer["attention"]["q"], "kernel": layer["attention"]["q"]["kernel"].astype(bfloat16)}
    layers = [{**layer, "attention": {**layer["attention"], "q": q}}, *model.params["layers"][1:]]
    written = jp.export(model.replace(params={**model.params, "layers": layers}), tmp_path / "hf").folder
    kinds = {name: array.dtype.name for name, array in load_file(written / "model.safetensors").items()}
    assert kinds["transformer.h.0.attn.c_attn.weight"] == "float32"
    assert kinds["transformer.h.1.attn.c_attn.weight"] == "float16"
