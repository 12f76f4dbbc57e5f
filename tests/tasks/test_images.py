"""Images of one's own: class folders and arrays, what is refused, and how they are read, scored and predicted."""

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import CheckpointError, DataError, SettingsError
from jaxprune.evaluation.label_map import HeadMismatch
from tests.helpers.images import LABELS, pixels, write_folder, write_model, write_npz


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return jp.load(write_model(tmp_path_factory.mktemp("images") / "model"))


def test_arrays_of_every_split(tmp_path):
    write_npz(tmp_path / "data" / "train.npz", 80)
    write_npz(tmp_path / "data" / "val.npz", 12, seed=1)
    task = jp.tasks.load("images", tmp_path / "data")
    assert (task.labels, task.metric, task.classes_from) == (LABELS, "accuracy", "names")
    assert (len(task.train), len(task.validation)) == (80, 12)
    assert [example.label for example in task.validation] == [0, 1] * 6
    calibration = task.calibration(16, seed=3)
    assert calibration.warnings == (
        "only 16 calibration images: scores and refits will be noisy; 512 is a good number.",
    )
    write_npz(tmp_path / "data" / "validation.npz", 12, seed=2)
    with pytest.raises(DataError, match="has val.npz and validation.npz for one split; keep one of them"):
        jp.tasks.images(tmp_path / "data")
    assert calibration.hash == task.calibration(16, seed=3).hash != task.calibration(16, seed=4).hash


def test_a_share_of_one_file_is_set_aside(tmp_path):
    images, labels = pixels(40)
    np.savez(tmp_path / "all.npz", images=images, labels=np.where(np.arange(40) == 7, -1, labels))
    task = jp.tasks.images(tmp_path / "all.npz", validation=0.25, seed=1)
    assert (len(task.train), len(task.validation)) == (30, 10)
    assert (task.labels, task.classes_from) == (("0", "1"), "numbers")
    assert sum(example.label is None for example in (*task.train, *task.validation)) == 1
    assert len(jp.tasks.images(tmp_path / "all.npz").validation) == 40
    shared = jp.tasks.images(tmp_path / "all.npz")
    twice = jp.Task("images", "single_label", ("0", "1"), "accuracy", shared.validation, shared.validation, "here")
    assert "16 of 16 calibration images are evaluation images too" in twice.calibration(16).warnings[1]


def test_class_folders(tmp_path, model):
    pytest.importorskip("PIL", reason="image files are read by Pillow")
    root = write_folder(tmp_path / "data", {"train": 20, "validation": 8, "test": 4})
    (root / "train" / ".DS_Store").write_text("")
    task = jp.tasks.images(root)
    assert (task.labels, task.classes_from, len(task.others["test"])) == (LABELS, "sorted names", 4)
    scored = jp.evaluate(model, task)
    files = [example.image.file for example in task.validation]
    said = jp.predict(model, files)
    assert scored.score == np.mean([entry.label == file.parent.name for entry, file in zip(said, files, strict=True)])
    # The same from arrays, one at a time, and from an iterator.
    arrays = np.stack([pixels(8, seed=1)[0][[0, 2, 4, 6, 1, 3, 5, 7]]])[0]
    again = list(jp.predict(model, iter(list(arrays))))
    for entry, other in zip(said, again, strict=True):
        assert entry.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    assert jp.predict(model, arrays[0])[0].label == said[0].label  # one image
    (root / "labels.json").write_text('["light", "dark"]')
    assert jp.tasks.images(root).labels == ("light", "dark")
    assert jp.evaluate(model, jp.tasks.images(root)).score == scored.score  # matched by name


def _lay(root, *names):
    for name in names:
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"no image") if "." in name else place.mkdir()
    return root


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/cat/1.png", "train/dog"), "class folder .*dog has no images"),
        (("train/cat/1.png", "car/1.png"), "has the folder train, as if for a split, beside car"),
        (("train/cat/1.png", "val/cat/1.png", "valid/cat/1.png"), "has val and valid for one split"),
        (("cat/1.png", "cat/notes.txt"), "notes.txt is no image by its name"),
        (("train/1.png", "train/cat/2.png"), "1.png lies in no class folder"),
        (("readme.md",), "has no folders; make one for every class"),
        (("first.npz",), "first.npz is named after no split"),
        (("train.npz",), "train.npz is no .npz of plain arrays"),
    ],
)
def test_folders_that_are_refused(tmp_path, names, message):
    with pytest.raises(DataError, match=message):
        jp.tasks.images(_lay(tmp_path / "data", *names))


IMAGES = np.zeros((4, 6, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IMAGES, "labels": np.zeros(4, int)}, "has no array images, only x, labels"),
        ({"images": IMAGES}, "has no array labels, only images"),
        ({"images": IMAGES[0, 0], "labels": np.zeros(6, int)}, r"images are uint8 of shape \(6, 3\)"),
        ({"images": IMAGES > 0, "labels": np.zeros(4, int)}, "images are bool"),
        ({"images": IMAGES, "labels": np.zeros(3, int)}, r"labels are int64 of shape \(3,\) for 4 images"),
        ({"images": IMAGES, "labels": np.zeros(4)}, "labels are float64"),
        ({"images": IMAGES, "labels": np.array([0, 1, -2, 0])}, "image 2 has the label -2; classes count from 0"),
        ({"images": IMAGES, "labels": np.arange(4), "names": np.array(["a", "b"])}, "image 2 has the label 2, none of"),
        ({"images": IMAGES, "labels": np.arange(4), "names": np.array(["a", "a"])}, "expected a name for each class"),
        ({"images": np.array([None] * 4), "labels": np.arange(4)}, "is no .npz of plain arrays"),
    ],
)
def test_arrays_that_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(DataError, match=message):
        jp.tasks.images(tmp_path / "data.npz")


def test_calls_that_are_refused(tmp_path, model):
    write_npz(tmp_path / "data" / "train.npz", 8)
    with pytest.raises(DataError, match="says itself what is scored"):
        jp.tasks.images(tmp_path / "data", validation=0.5)
    with pytest.raises(DataError, match=r"a length \(32\) has no effect on images"):
        jp.tasks.load("images", tmp_path / "data", length=32)
    with pytest.raises(DataError, match="images needs data=FOLDER with train/CLASS"):
        jp.tasks.load("images")
    with pytest.raises(DataError, match="validation 9 leaves nothing of 8 images"):
        jp.tasks.images(tmp_path / "data" / "train.npz", validation=9)
    image = pixels(1)[0][0]
    with pytest.raises(DataError, match="no second texts"):
        jp.predict(model, [image], ["a text"])
    with pytest.raises(SettingsError, match=r"max_length \(4\) has no effect on images"):
        jp.predict(model, [image], max_length=4)
    with pytest.raises(DataError, match="image 1, missing.png, is not a file"):
        jp.predict(model, [image, "missing.png"])
    with pytest.raises(DataError, match="there are no images to predict"):
        jp.predict(model, [])
    with pytest.raises(CheckpointError, match="tokenizer is a dict, and the model reads images"):
        jp.predict(model, [image], tokenizer={})


ONE = pixels(1)[0][0]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (ONE / 255, "floats from 0 to 1, and the image processor reads 0 to 255"),
        (ONE / 100, "floats that are not whole from .*, expected 0 to 255"),
        (ONE.astype(int) - 300, "pixels from .* to .*, expected 0 to 255"),
        (ONE.astype(int) + 200, "pixels from .* to .*, expected 0 to 255"),
        (ONE[..., 0], "has 1 channel, the model reads 3; repeat it three times"),
        (np.concatenate([ONE, ONE[..., :1]], -1), "has 4 channels, the model reads 3; convert it"),
        (ONE[:3], "both its first and its last axis could be the channels"),
        (np.zeros((6, 6, 5), np.uint8), "no axis of 1, 3 or 4 is the channels"),
        (ONE > 100, "is an array of bool"),
        (np.where(ONE > 100, np.nan, 1.0), "holds NaN or Inf"),
        ("text", "is not a file"),
        (7, "image 1 is a int, expected a file, an image of Pillow or an array"),
    ],
)
def test_images_that_are_none(model, image, message):
    with pytest.raises(DataError, match=message):
        jp.predict(model, [ONE, image])


def test_ranges_that_a_processor_does_not_mean(tmp_path, model):
    """Where pixels are not divided by 255, images of 0 to 1 are read as they are and bytes are refused."""
    plain = {"size": 6, "do_rescale": False, "do_resize": False}
    raw = jp.load(write_model(tmp_path / "model", processor=plain))
    with pytest.raises(DataError, match=r"pixels up to .* leaves them as they are \(do_rescale false\)"):
        jp.predict(raw, [ONE])
    doubted = jp.load(write_model(tmp_path / "doubted", processor={"size": 6, "do_rescale": False}))
    assert "do_rescale is false, so that pixels are read as 0 to 255" in jp.predict(doubted, [ONE]).warnings[0]
    halves = np.round(ONE / 255, 2)
    small = jp.predict(raw, [halves])[0].probabilities
    assert small == pytest.approx(
        jp.predict(model, [np.round(255 * halves).astype(np.uint8)])[0].probabilities, abs=1e-2
    )
    assert jp.predict(model, [ONE.astype(float)])[0].probabilities == jp.predict(model, [ONE])[0].probabilities
    dim = (np.arange(108).reshape(1, 6, 6, 3) % 17).astype(np.uint8)  # 0 to 16, as scikit-learn's digits are
    assert (
        "the brightest pixel of 1 images is 16, and pixels are read as 0 to 255" in jp.predict(model, dim).warnings[0]
    )


def test_files_that_are_none(tmp_path, model):
    image = pytest.importorskip("PIL.Image", reason="image files are read by Pillow")
    (tmp_path / "a.png").write_bytes(b"no image")
    image.fromarray(ONE).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes((tmp_path / "b.png").read_bytes()[:90])
    image.fromarray(np.zeros((6, 6), np.uint16)).save(tmp_path / "d.png")
    for name, message in (("a", "is no image that Pillow reads"), ("c", "is no image that Pillow reads"),
                          ("d", "has pixels of more than 8 bits")):  # fmt: skip
        with pytest.raises(DataError, match=f"{name}.png.*{message}"):
            jp.predict(model, [str(tmp_path / "b.png"), str(tmp_path / f"{name}.png")])
    grey = jp.load(
        write_model(tmp_path / "grey", num_channels=1, processor={"size": 6, "image_mean": 0.5, "image_std": 1})
    )
    with pytest.raises(DataError, match=r"b.png\) is in colour \(RGB\), the model reads 1 channel"):
        jp.predict(grey, str(tmp_path / "b.png"))
    image.fromarray(ONE).convert("L").save(tmp_path / "e.png")
    assert jp.predict(grey, str(tmp_path / "e.png"))[0].label in LABELS


def test_labels_beyond_the_head(tmp_path, model):
    images, labels = pixels(6)
    np.savez(tmp_path / "data.npz", images=images, labels=np.where(np.arange(6) == 4, 5, labels))
    with pytest.raises(DataError, match="image 4 has the label 5, the model's head 2 classes"):
        jp.evaluate(model, jp.tasks.images(tmp_path / "data.npz"))
    np.savez(tmp_path / "named.npz", images=images, labels=np.array(["a", "b", "c"] * 2))
    with pytest.raises(HeadMismatch, match="has 3 classes"):
        jp.evaluate(model, jp.tasks.images(tmp_path / "named.npz"))


def test_texts_for_a_model_of_images_and_the_reverse(tmp_path, model, tiny):
    write_npz(tmp_path / "data.npz", 8)
    task = jp.tasks.images(tmp_path / "data.npz")
    with pytest.raises(DataError, match="these are images, and the model reads texts"):
        jp.evaluate(tiny(labels=LABELS), task)
