"""Labelled images of your own: a folder of class folders, or arrays in an .npz."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import check_seed, checked
from ..errors import DataError
from .example import ClassesFrom, Example, picked
from .folder import label_names
from .hub import Hub, Sources, listed_sources
from .jsonl import SCORED, shown
from .kinds import KINDS
from .picture import Picture
from .set_aside import set_aside_rows
from .task import Task

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# What folders and files of a split are called.
_SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(SCORED, SCORED[0])


@checked
def images(
    path: Sources, *, validation: float | int | None = None, seed: int = 0, max_length: int | None = None
) -> Task:
    """A classification task from images.

    `path` is a folder with train/, validation/ (or val/, valid/, dev/, eval/) and test/, or as many of them as there
    are, each with a folder of images for every class; a folder of such class folders alone; an .npz with the arrays
    `images`, pixels from 0 to 255 [images, height, width] or with channels, and `labels`, whole numbers from 0 or names
    (`names` may name the numbers, and -1 is no label); or a folder with train.npz, validation.npz, test.npz. Classes
    are numbered as in labels.json (a JSON list) in the folder if that is there, else in sorted order.

    Of class folders alone and of one .npz, `validation` sets a share (0.1) or a number of the images aside, drawn with
    `seed`, to be scored; all others are trained and calibrated on. Without it all are scored. Image files are read by
    Pillow (`pip install 'jaxprune[images]'`) when they are needed. `max_length` is refused: images have one length.
    Raises `DataError`, naming the file.
    """
    check_seed(seed)
    sources = listed_sources(path)
    if len(sources) != 1 or isinstance(sources[0], Hub):
        raise DataError(f"images are read from one folder or .npz, got {', '.join(map(str, sources))}; name one.")
    if max_length is not None:
        raise DataError(f"a length ({max_length}) has no effect on images, which all have the model's; leave it out.")
    root = Path(sources[0])
    if not root.exists():
        raise DataError(f"{root} does not exist; name a folder of class folders, or an .npz.")
    examples, names, source = _read(root)
    if validation is not None:
        if list(examples) != ["validation"]:
            raise DataError(f"{root} says itself what is scored ({', '.join(examples)}); leave validation out.")
        every = examples["validation"]
        held, rest = set_aside_rows(len(every), validation, seed, "images")
        examples = {"train": picked(every, rest), "validation": picked(every, held)}
    scores = KINDS["single_label"].scores
    others = {split: entries for split, entries in examples.items() if split not in ("train", "validation")}
    return Task(
        name="images",
        kind="single_label",
        labels=names,
        classes_from=source,
        metric=scores[0],
        beside=scores[1:],
        train=examples.get("train", ()),
        validation=examples.get("validation", others.get("test", ())),
        source=str(root) if validation is None else f"{root}; scored: {validation} of it",
        others=others,
    )


def _read(root: Path) -> tuple[dict[str, Sequence[Example]], tuple[str, ...], ClassesFrom]:
    """The examples of every split, and the names of the classes."""
    files = _npz_files(root)
    if files:
        arrays = {split: _npz(file) for split, file in files.items()}
        named = {names for _, _, names in arrays.values() if names is not None}
        if len(named) > 1:
            raise DataError(f"the .npz files of {root} name the classes differently; write the same names in all.")
        names = next(iter(named), None) if named else label_names(root)
        pictures = {split: pixels for split, (pixels, _, _) in arrays.items()}
        labels = {split: values for split, (_, values, _) in arrays.items()}
        where = {split: str(file) for split, file in files.items()}
    else:
        folders = _split_folders(root)
        both = {split: _class_folders(folder) for split, folder in folders.items()}
        pictures = {split: [picture for picture, _ in entries] for split, entries in both.items()}
        labels = {split: [name for _, name in entries] for split, entries in both.items()}
        names, where = label_names(root), {split: str(folder) for split, folder in folders.items()}
    names, source = (names, "names") if names is not None else _class_names(labels)
    examples: dict[str, Sequence[Example]] = {}
    for split, entries in pictures.items():
        numbers = _numbers(labels[split], names, where[split])
        rows = zip(entries, numbers, strict=True)
        examples[split] = tuple(Example("", None, number, image=image) for image, number in rows)
    return examples, names, source


def _class_names(labels: Mapping[str, Sequence[Any]]) -> tuple[tuple[str, ...], ClassesFrom]:
    """Names for classes that nobody named: those used, sorted, or the numbers up to the largest used."""
    used = {value for values in labels.values() for value in values if value is not None}
    if any(isinstance(value, str) for value in used):
        return tuple(sorted(map(str, used))), "sorted names"
    return tuple(map(str, range(max(used, default=0) + 1))), "numbers"


def _numbers(labels: Sequence[Any], names: tuple[str, ...], where: str) -> list[int | None]:
    """The class of every image; None where it has none. Raises `DataError` for a label that is no class."""
    index = {name: number for number, name in enumerate(names)}
    numbers = [index.get(value, -1) if isinstance(value, str) else value for value in labels]
    for image, number in enumerate(numbers):
        if number is not None and not 0 <= number < len(names):
            raise DataError(
                f"{where}: image {image} has the label {labels[image]!r}, none of the {len(names)} classes "
                f"({shown(names)}); correct it."
            )
    return numbers


# --- class folders


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of a root by split; the root itself where it has class folders alone."""
    inner = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    named = [name for name in inner if name in _SPLITS]
    if not inner:
        raise DataError(f"{root} has no folders; make one for every class, with its images in it, or name an .npz.")
    if not named:
        return {"validation": root}
    if len(named) < len(inner):
        other = next(name for name in inner if name not in _SPLITS)
        raise DataError(
            f"{root} has the folder {named[0]}, as if for a split, beside {other}; have splits alone or classes alone."
        )
    folders: dict[str, Path] = {}
    for name in named:
        if _SPLITS[name] in folders:
            raise DataError(f"{root} has {folders[_SPLITS[name]].name} and {name} for one split; keep one of them.")
        folders[_SPLITS[name]] = root / name
    return folders


def _class_folders(folder: Path) -> list[tuple[Picture, str]]:
    """The images of a folder and the classes whose folders they lie in."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    loose = [entry for entry in entries if not entry.is_dir() and entry.suffix.lower() in SUFFIXES]
    classes = [entry for entry in entries if entry.is_dir()]
    if loose:
        raise DataError(f"{loose[0]} lies in no class folder; put it into the folder of its class.")
    if not classes:
        raise DataError(f"{folder} has no class folders; make one for every class, with its images in it.")
    out = []
    for place in classes:
        files = sorted(entry for entry in place.iterdir() if not entry.name.startswith("."))
        strange = next((file for file in files if file.is_dir() or file.suffix.lower() not in SUFFIXES), None)
        if strange is not None:
            raise DataError(f"{strange} is no image by its name ({', '.join(SUFFIXES)}); move it elsewhere.")
        if not files:
            raise DataError(f"class folder {place} has no images; add some, or delete it.")
        out += [(Picture(str(file), file), place.name) for file in files]
    return out


# --- arrays


def _npz_files(root: Path) -> dict[str, Path]:
    if root.is_file():
        if root.suffix.lower() != ".npz":
            raise DataError(
                f"{root} is neither a folder nor an .npz; write the arrays images and labels with np.savez."
            )
        return {"validation": root}
    files: dict[str, Path] = {}
    for file in sorted(root.glob("*.npz")):
        if file.stem not in _SPLITS:
            raise DataError(f"{file} is named after no split; call it train.npz, validation.npz or test.npz.")
        other = files.setdefault(_SPLITS[file.stem], file)
        if other != file:
            raise DataError(f"{root} has {other.name} and {file.name} for one split; keep one of them.")
    return files


def _npz(file: Path) -> tuple[list[Picture], list[Any], tuple[str, ...] | None]:
    """Images, labels and the names of classes in a file. Raises `DataError`."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            there = {name: stored[name] for name in stored.files if name in ("images", "labels", "names")}
            known = stored.files
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{file} is no .npz of plain arrays ({said}); write it anew with np.savez.") from error
    missing = [name for name in ("images", "labels") if name not in there]
    if missing:
        raise DataError(
            f"{file} has no array {' and no array '.join(missing)}, only {', '.join(known) or 'none'}; name them so."
        )
    pixels, labels = there["images"], there["labels"]
    if pixels.ndim not in (3, 4) or not len(pixels) or pixels.dtype.kind not in "uif":
        raise DataError(
            f"{file}: images are {pixels.dtype} of shape {pixels.shape}, expected pixels [images, height, width], or "
            "with channels before or behind."
        )
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != (len(pixels),) or labels.dtype.kind not in "iuU":
        raise DataError(
            f"{file}: labels are {labels.dtype} of shape {labels.shape} for {len(pixels)} images; give a whole number "
            "or a name for each."
        )
    names = None
    if "names" in there:
        names = tuple(map(str, there["names"].ravel().tolist()))
        if there["names"].dtype.kind != "U" or len(set(names)) < len(names) or not names:
            raise DataError(f"{file}: names are {shown(list(names))}, expected a name for each class.")
    low = int(labels.min()) if labels.dtype.kind in "iu" else 0
    if low < -1:
        number = int(labels.argmin())
        raise DataError(f"{file}: image {number} has the label {low}; classes count from 0, and -1 is no label.")
    values = [None if value == -1 else value for value in labels.tolist()]
    return [Picture(f"{file}: image {number}", None, entry) for number, entry in enumerate(pixels)], values, names
