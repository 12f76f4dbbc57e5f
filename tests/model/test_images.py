"""Models of images: patches, folders in and out, against numbers that transformers on torch gave."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.checkpoint import hub
from jaxprune.checkpoint.image_settings import PREPROCESSOR
from jaxprune.errors import CheckpointError, DataError, SettingsError
from jaxprune.model.patches import Patches
from jaxprune.pruning.cost import flops, whole_flops
from jaxprune.tokens.image_reader import ImageReader
from tests.helpers import tiny
from tests.helpers.images import SIZE, write_model

GOLDEN = Path(__file__).parent.parent / "golden" / "images"
# Names of modules in new versions of transformers, by those that files have.
MODULES = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "output.dense": "mlp.fc2",
    "intermediate.dense": "mlp.fc1",
    "encoder.layer": "layers",
}
PIXELS = np.random.RandomState(0).normal(size=(2, 3, SIZE, SIZE)).astype(np.float32)


@pytest.mark.parametrize("name", ["vit", "deit", "deit-with-teacher"])
def test_logits_match_transformers(name):
    """Made by experiments/make_golden.py; tests/parity compares live. float32, two layers."""
    stored = np.load(GOLDEN / name / "expected.npz")
    logits = np.asarray(jp.logits(jp.load(GOLDEN / name), stored["pixel_values"]))
    np.testing.assert_allclose(logits, stored["logits"], rtol=0, atol=2e-5)


def test_patches_are_cut_by_rows_and_channels():
    patches = Patches(height=4, width=6, patch_height=2, patch_width=3, channels=2)
    image = np.arange(48).reshape(1, 2, 4, 6)
    cut = patches.cut(image)
    assert (patches.count, patches.tokens, patches.numbers, cut.shape) == (4, 5, 12, (1, 4, 12))
    np.testing.assert_array_equal(cut[0, 1], image[0, :, :2, 3:].ravel())
    np.testing.assert_array_equal(cut[0, 2], image[0, :, 2:, :3].ravel())


def test_a_folder_comes_back_with_its_image_processor(tmp_path):
    model = jp.load(write_model(tmp_path / "model"))
    assert model.architecture.patches == Patches(height=6, width=6, patch_height=2, patch_width=2, channels=3)
    assert (model.architecture.vocab, model.architecture.max_positions) == (1, 10)
    again = jp.load(jp.save(model, tmp_path / "saved"))
    assert again.architecture == model.architecture
    assert (tmp_path / "saved" / PREPROCESSOR).read_text() == (tmp_path / "model" / PREPROCESSOR).read_text()
    expected = np.asarray(jp.logits(model, PIXELS))
    np.testing.assert_array_equal(jp.logits(again, PIXELS), expected)
    # What else is in a batch changes nothing.
    np.testing.assert_allclose(jp.logits(model, PIXELS[1:])[0], expected[1], atol=1e-6)
    jp.save(again, tmp_path / "saved", overwrite=True)  # its files are ours


@pytest.mark.parametrize("form", ["sharded", "msgpack", "bin"])
def test_other_formats_and_names(tmp_path, form):
    """Flax keeps a convolution as [height, width, in, out]."""
    settings = tiny.config("deit")
    named = tiny.tensors(settings)
    assert named["deit.embeddings.patch_embeddings.projection.weight"].shape == (12, 3, 2, 2)
    assert named["deit.embeddings.distillation_token"].shape == (1, 1, 12)
    expected = np.asarray(jp.logits(tiny.random_model(settings), PIXELS))
    if form == "sharded":  # as the modules of new versions of transformers are called
        for old, new in MODULES.items():
            named = {name.replace(old, new): tensor for name, tensor in named.items()}
        assert "deit.layers.1.mlp.fc2.weight" in named and "deit.layers.0.attention.o_proj.bias" in named
    model = jp.load(tiny.write(tmp_path / "model", settings, named, form))
    np.testing.assert_array_equal(np.asarray(jp.logits(model, PIXELS)), expected)


def test_what_is_fetched_from_the_hub_has_the_image_processor():
    assert {PREPROCESSOR, "processor_config.json"} <= {*hub._PATTERNS}


def test_flops_count_the_projection_of_patches():
    a = tiny.architecture(tiny.config("vit"))
    assert whole_flops(a, 10) - flops(a, 10) == 2 * (9 * 12 * 12 + 12 * 3)  # and the head, on one token


def test_texts_and_images_are_not_mistaken_for_each_other(tmp_path):
    model = jp.load(write_model(tmp_path / "model"))
    with pytest.raises(DataError, match=r"pixels have shape \(2, 9\), expected \[images, 3, 6, 6\]"):
        jp.logits(model, np.zeros((2, 9), int))
    with pytest.raises(DataError, match="not interpolated"):
        jp.logits(model, np.zeros((2, 3, 8, 8)))
    with pytest.raises(DataError, match="no mask"):
        jp.logits(model, PIXELS, np.ones((2, 10)))
    with pytest.raises(DataError, match="these are texts, and the model reads images"):
        jp.prune(model, jp.Calibration.of_texts(["a text"] * 64), jp.Budget(0.3))
    with pytest.raises(DataError, match="these are texts, and the model reads images"):
        jp.prune(model, jp.Calibration.of_ids(np.zeros((64, 10), int), None), jp.Budget(0.3))
    with pytest.raises(CheckpointError, match="model reads images, of which no vectors"):
        jp.load(tmp_path / "model", head="embedding")
    with pytest.raises(SettingsError, match="images are 10 tokens to the model, and length is 128"):
        jp.bench(model, model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 4}, "patches of 4 x 4 do not divide images of 6 x 6"),
        ({"image_size": [6, 5]}, "do not divide images of 6 x 5"),
        ({"image_size": "large"}, "image_size is 'large', expected pixels"),
        ({"num_channels": 0}, "num_channels is '0', expected an integer of at least 1"),
        ({"qkv_bias": "no"}, "qkv_bias is 'no', expected true or false"),
        ({"use_mask_token": True}, "the setting use_mask_token = 'True' is not known for vit"),
    ],
)
def test_configs_that_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        tiny.architecture({**tiny.config("vit"), **changes})


def test_an_architecture_whose_sizes_contradict_is_refused():
    a = tiny.architecture(tiny.config("vit"))
    with pytest.raises(SettingsError, match="an image has 1 special tokens and 10 in all, the model a vocabulary of 2"):
        replace(a, vocab=2)


def test_qkv_biases_and_tensors_of_other_shapes(tmp_path):
    settings = tiny.config("vit", qkv_bias=False)
    a = tiny.architecture(settings)
    assert (a.attention_bias, a.output_bias, a.feed_forward_bias) == (False, True, True)
    named = tiny.tensors(settings)
    named["vit.embeddings.position_embeddings"] = np.zeros((1, 17, 12), np.float32)
    with pytest.raises(CheckpointError, match=r"position_embeddings.weight is \[17, 12\], expected \[10, 12\]"):
        jp.load(tiny.write(tmp_path / "model", settings, named))
    settings = tiny.config("deit")
    named = {name: tensor for name, tensor in tiny.tensors(settings).items() if "distillation" not in name}
    with pytest.raises(CheckpointError, match="missing: embeddings.cls_token.distillation_token"):
        jp.load(tiny.write(tmp_path / "other", settings, named))


# --- preprocessor_config.json


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 8}, "makes images of 8 x 8, the model reads 6 x 6"),
        ({"size": {"longest_edge": 6}}, "size is .*longest_edge.*, expected pixels"),
        ({"size": 6, "do_pad": True}, "do_pad is true, and images are not padded"),
        ({"size": 6, "do_resize": "yes"}, "do_resize is 'yes', expected true or false"),
        ({"size": 6, "resample": 9}, "resample is '9', expected one of Pillow's filters"),
        ({"size": 6, "rescale_factor": 0}, "rescale_factor is '0', expected a positive number"),
        ({"size": 6, "image_mean": [0.5, 0.5]}, "image_mean has 2 numbers, the model reads 3 channels"),
        ({"size": 6, "image_mean": [0.5]}, "image_mean is a list of 1 number, the model reads 3 channels; give one"),
        ({"size": 6, "image_std": [0.0, 1.0, 1.0]}, "image_std has a 0"),
        ({"size": 6, "image_processor_type": "CLIPImageProcessor"}, "of a CLIPImageProcessor, which is not computed"),
        ({"size": 6, "input_data_format": "channels_last"}, "input_data_format is 'channels_last'"),
        ({"size": 9, "do_center_crop": True, "crop_size": {"shortest_edge": 6}}, "crop_size is .*shortest_edge"),
    ],
)
def test_image_processors_that_are_refused(tmp_path, settings, message):
    model = jp.load(write_model(tmp_path / "model", processor=settings))
    with pytest.raises(CheckpointError, match=message):
        ImageReader.of(model)


def test_a_folder_without_an_image_processor_and_settings_that_nobody_reads(tmp_path):
    model = jp.load(write_model(tmp_path / "model", processor={"size": 6, "crop_pct": 0.9}))
    assert "settings that its class does not read: crop_pct" in ImageReader.of(model).said[0]
    file = tmp_path / "model" / PREPROCESSOR
    nested = {"image_processor": {**json.loads(file.read_text()), "image_mean": 0.25}}
    (tmp_path / "model" / "processor_config.json").write_text(json.dumps(nested))
    assert ImageReader.of(model).settings.mean == (0.25,)
    jp.save(model, tmp_path / "saved")
    assert ImageReader.of(jp.load(tmp_path / "saved")).settings.mean == (0.25,)
    (tmp_path / "model" / "processor_config.json").unlink()
    file.unlink()
    with pytest.raises(CheckpointError, match="has no preprocessor_config.json, which says what is done to images"):
        ImageReader.of(model)
    other = ImageReader.of(model.with_tokenizer(tmp_path / "saved"))  # another folder's
    assert other.settings.mean == (0.25,)
