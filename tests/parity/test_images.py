"""Models of images against transformers on torch, and pixels against its image processors; run by `make parity`."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs torch: make parity installs it")
pytest.importorskip("PIL", reason="images are read by Pillow")

import torch
import transformers
from PIL import Image

import jaxprune as jp
from jaxprune.checkpoint.image_settings import PREPROCESSOR
from jaxprune.errors import CheckpointError, DataError
from jaxprune.tasks.picture import picture_of
from jaxprune.tokens.image_reader import ImageReader
from tests.helpers.images import write_model
from tests.parity.reference import CLOSE, IMAGE_CLASSES, image_pixels, image_reference

pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch and transformers are not ours to fix

CHANGES = [
    {},
    {"image_size": [8, 12], "patch_size": [4, 2]},  # neither is square
    {"num_channels": 1, "qkv_bias": False, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
]


def assert_same(folder, reference):
    model, pixels = jp.load(folder), image_pixels(reference.config)
    assert model.provenance.warnings == ()
    with torch.no_grad():
        out = reference(pixel_values=torch.from_numpy(pixels))
    theirs = (out.logits if "logits" in out else out.last_hidden_state).numpy()
    ours = np.asarray(jp.logits(model, pixels))
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, **CLOSE)
    return model


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("family", IMAGE_CLASSES)
def test_logits_match_transformers(tmp_path, family, changes):
    reference = image_reference(family, **changes)
    reference.save_pretrained(tmp_path)
    model = assert_same(tmp_path, reference)
    assert model.architecture.labels == tuple(f"LABEL_{number}" for number in range(5))


@pytest.mark.parametrize("family", IMAGE_CLASSES)
def test_hidden_states_match_transformers(tmp_path, family):
    """Of the encoder alone, pooler or not; and in every naming that transformers has had."""
    reference = image_reference(family, "Model", seed=1)
    reference.save_pretrained(tmp_path / "model")
    assert_same(tmp_path / "model", reference)
    state = {name: tensor.contiguous() for name, tensor in reference.state_dict().items()}
    reference.config.architectures = [f"{IMAGE_CLASSES[family]}Model"]
    reference.config.save_pretrained(tmp_path / "modules")  # names as the modules of this version have them
    torch.save(state, tmp_path / "modules" / "pytorch_model.bin")
    assert_same(tmp_path / "modules", reference)


def test_heads_that_are_averaged(tmp_path):
    """DeiT's class with a teacher: one head on the class token, one on the distillation token."""
    reference = image_reference("deit", "ForImageClassificationWithTeacher", seed=2)
    reference.save_pretrained(tmp_path / "dense")
    model = assert_same(tmp_path / "dense", reference)
    assert model.architecture.pool_tokens == 2
    jp.save(model, tmp_path / "saved")
    pixels = image_pixels(reference.config)
    np.testing.assert_array_equal(jp.logits(jp.load(tmp_path / "saved"), pixels), jp.logits(model, pixels))
    written = jp.export(model, tmp_path / "out")
    again = transformers.AutoModelForImageClassification.from_pretrained(written.folder).eval()
    assert type(again) is type(reference)
    assert_same(written.folder, again)
    with torch.no_grad():
        got = again(pixel_values=torch.from_numpy(pixels)).logits.numpy()
    np.testing.assert_allclose(got, np.asarray(jp.logits(model, pixels)), **CLOSE)
    fresh = jp.load(tmp_path / "dense", labels=2)  # a new head, of both tokens
    assert jp.logits(fresh, pixels).shape == (3, 2) and "fine-tune first" in fresh.provenance.warnings[0]


def test_a_masked_image_model_is_its_encoder(tmp_path):
    whole = image_reference("vit", "ForMaskedImageModeling", encoder_stride=4)
    whole.save_pretrained(tmp_path)
    model, pixels = jp.load(tmp_path), image_pixels(whole.config)
    with torch.no_grad():
        theirs = whole.vit(pixel_values=torch.from_numpy(pixels)).last_hidden_state.numpy()
    np.testing.assert_allclose(np.asarray(jp.logits(model, pixels)), theirs, **CLOSE)


# --- pixels


def images():
    random = np.random.RandomState(0)
    yield random.randint(0, 256, (17, 23, 3)).astype(np.uint8)
    yield random.randint(0, 256, (40, 9, 3)).astype(np.uint8)
    yield random.randint(0, 256, (3, 12, 30)).astype(np.uint8)  # channels first
    yield random.randint(0, 256, (12, 12, 3)).astype(np.uint8)


SETTINGS = [
    {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 12}},
    {"feature_extractor_type": "ViTFeatureExtractor", "size": 12, "resample": 3, "image_mean": [0.1, 0.2, 0.3]},
    {"image_processor_type": "ViTImageProcessorFast", "size": [12, 12], "resample": 0, "image_std": [0.2, 0.3, 0.4]},
    {"image_processor_type": "DeiTImageProcessor", "size": 15, "crop_size": 12},
    {"image_processor_type": "DeiTImageProcessor", "size": 9, "crop_size": {"height": 12, "width": 12}, "resample": 1},
    {
        "image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 13}, "do_center_crop": True,
        "crop_size": {"height": 12, "width": 12}, "do_normalize": False,
    },
    {
        "image_processor_type": "ViTImageProcessor", "size": 12, "do_rescale": False,
        "image_mean": [127.0, 120.0, 100.0], "image_std": [50.0, 60.0, 70.0],
    },
    {"image_processor_type": "ViTImageProcessor", "size": 12, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS)
def test_pixels_match_the_image_processor(tmp_path, settings):
    write_model(tmp_path / "model", image_size=12, patch_size=4)
    (tmp_path / "model" / PREPROCESSOR).write_text(json.dumps(settings))
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model", backend="pil")
    ours = ImageReader.of(jp.load(tmp_path / "model"))
    for number, image in enumerate(images()):
        expected = theirs(image, return_tensors="np")["pixel_values"][0]
        np.testing.assert_array_equal(ours.pixels(picture_of(image, number)), expected)


def test_files_are_read_as_pipelines_read_them(tmp_path):
    """Upright, in three channels, without transparency."""
    write_model(tmp_path / "model", image_size=12, patch_size=4)
    model = jp.load(tmp_path / "model")
    processor, reader = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model"), ImageReader.of(model)
    random = np.random.RandomState(0)
    grey, colour = (random.randint(0, 256, (20, 16, *more)).astype(np.uint8) for more in ((), (4,)))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(colour).save(tmp_path / "clear.png")
    Image.fromarray(colour[..., :3]).save(tmp_path / "turned.jpg", exif=turned)
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.gif")
    for name in ("grey.png", "clear.png", "turned.jpg", "palette.gif"):
        loaded = transformers.image_utils.load_image(str(tmp_path / name))
        expected = processor(loaded, return_tensors="np")["pixel_values"][0]
        np.testing.assert_array_equal(reader.pixels(picture_of(str(tmp_path / name), 0)), expected, err_msg=name)


def test_predictions_match_a_pipeline(tmp_path):
    reference = image_reference("vit")
    reference.config.id2label = dict(enumerate(("ant", "bee", "cow", "dog", "elk")))
    reference.save_pretrained(tmp_path)
    (tmp_path / PREPROCESSOR).write_text(json.dumps({"image_processor_type": "ViTImageProcessor", "size": 12}))
    image = Image.fromarray(next(images()))
    classify = transformers.pipeline("image-classification", model=str(tmp_path), device="cpu")
    expected = {entry["label"]: entry["score"] for entry in classify(image)}
    [said] = jp.predict(jp.load(tmp_path), [image])
    assert said.probabilities == pytest.approx(expected, abs=1e-5)


# --- exports


@pytest.mark.parametrize("family", IMAGE_CLASSES)
def test_exports_load_in_transformers(tmp_path, family):
    reference = image_reference(family, num_channels=1)
    reference.save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / PREPROCESSOR).write_text(
        json.dumps(
            {"size": 12, "do_rescale": False, "do_normalize": False, "image_processor_type": "ViTImageProcessor"}
        )
    )
    model = jp.load(tmp_path / "dense")
    pixels = image_pixels(reference.config)
    calibration = jp.Calibration.of_images(
        (40 * image_pixels(reference.config, 32) + 120).clip(0, 255).astype(np.uint8)
    )
    uniform = jp.Budget(remove=0.1, uniform=True, keep_heads=True)
    for name, budget, options in (("same", uniform, {}), ("zeros", jp.Budget(remove=0.3), {"fill_zeros": True})):
        small = jp.prune(model, calibration, budget)
        written = jp.export(small, tmp_path / name, **options)
        theirs = transformers.AutoModelForImageClassification.from_pretrained(written.folder).eval()
        assert type(theirs).__name__ == f"{IMAGE_CLASSES[family]}ForImageClassification"
        with torch.no_grad():
            got = theirs(pixel_values=torch.from_numpy(pixels)).logits.numpy()
        np.testing.assert_allclose(got, np.asarray(jp.logits(small, pixels)), **CLOSE)
        assert transformers.AutoImageProcessor.from_pretrained(written.folder).size["height"] == 12
        np.testing.assert_array_equal(jp.logits(jp.load(written.folder), pixels).shape, got.shape)
    with pytest.raises(CheckpointError, match="fill_zeros"):
        jp.export(jp.prune(model, calibration, jp.Budget(remove=0.3)), tmp_path / "uneven")
    with pytest.raises(DataError, match="not interpolated"):
        jp.logits(model, np.zeros((1, 1, 16, 16), np.float32))
