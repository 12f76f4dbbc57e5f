"""Models of images as ONNX files and programs of jax.export: pixels in, the same logits out."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX files need the package onnx")
pytest.importorskip("onnxruntime", reason="ONNX files are run by onnxruntime")

import jaxprune as jp
from jaxprune.checkpoint.image_settings import PREPROCESSOR
from jaxprune.errors import CheckpointError
from jaxprune.exports.onnx_file import as_onnx
from jaxprune.exports.onnx_graph import graph_of
from jaxprune.model.patches import Patches
from jaxprune.pruning.cut import cut
from jaxprune.runtime.onnx import PIXELS, open_onnx
from tests.helpers import images

GOLDEN = Path(__file__).parent.parent / "golden" / "images"
UNEVEN = ([0, 2], [1, 7, 8], [], [0, 3])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A ViT of which a layer has no heads left."""
    model = jp.load(images.write_model(tmp_path_factory.mktemp("images") / "dense"))
    counts = [count for size in model.architecture.layers for count in (size.groups, size.neurons)]
    return cut(model, [np.isin(np.arange(n), units) for n, units in zip(counts, UNEVEN, strict=True)])


def test_pixels_come_back_from_their_patches():
    patches = Patches(height=4, width=9, patch_height=2, patch_width=3, channels=2)
    pixels = np.random.RandomState(0).normal(size=(3, 2, 4, 9))
    np.testing.assert_array_equal(patches.joined(patches.cut(pixels)), pixels)


@pytest.mark.parametrize("name", ["vit", "deit-with-teacher"])
def test_a_graph_gives_what_transformers_did(name):
    """Of the second, the head reads two tokens. float32, two layers."""
    stored, model = np.load(GOLDEN / name / "expected.npz"), jp.load(GOLDEN / name)
    program = open_onnx(as_onnx(graph_of(model.architecture, model.params)).SerializeToString(), threads=1)
    assert program.inputs == (PIXELS,)
    np.testing.assert_allclose(program(stored["pixel_values"]), stored["logits"], rtol=0, atol=2e-5)
    one = program(stored["pixel_values"][:1])
    np.testing.assert_allclose(one, stored["logits"][:1], rtol=0, atol=2e-5)


def test_the_file_is_scored_and_predicts_as_the_model_does(tmp_path, small):
    written = jp.export(small, tmp_path / "out", format="onnx", int8=True)
    assert written.errors["onnx/model.onnx"] < 1e-5 and written.errors["onnx/model_quantized.onnx"] > 0
    assert (tmp_path / "out" / PREPROCESSOR).is_file()
    shipped = jp.load_onnx(tmp_path / "out")
    task = jp.tasks.images(images.write_npz(tmp_path / "a.npz", 20), validation=0.5)
    assert jp.evaluate(shipped, task).metrics == jp.evaluate(small, task).metrics
    pixels = list(images.pixels(5)[0])
    ours, theirs = jp.predict(small, pixels), jp.predict(shipped, pixels)
    assert [entry.label for entry in theirs] == [entry.label for entry in ours]
    assert [entry.probability for entry in theirs] == pytest.approx([entry.probability for entry in ours], abs=1e-6)


def test_a_program_of_jax_takes_pixels(tmp_path, small):
    """The export compares it with the model, on three images."""
    from jax import export

    written = jp.export(small, tmp_path / "out", format="stablehlo")
    assert written.errors["model.stablehlo"] < 1e-5
    program = export.deserialize(bytearray((tmp_path / "out" / "model.stablehlo").read_bytes()))
    pixels = np.random.RandomState(0).normal(size=(3, 3, images.SIZE, images.SIZE)).astype(np.float32)
    np.testing.assert_allclose(program.call(pixels), jp.logits(small, pixels), rtol=0, atol=1e-5)


def test_no_gguf_file_holds_them(tmp_path, small):
    with pytest.raises(CheckpointError, match="holds a language model, and this model has a classification head"):
        jp.export(small, tmp_path / "out", format="gguf")
