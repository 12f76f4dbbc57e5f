"""What a folder says of its images: their size in config.json, and in preprocessor_config.json what is done to them."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import CheckpointError, SettingsError
from ..model.patches import Patches
from .families import Family
from .files import inside, listed, read_json

PREPROCESSOR = "preprocessor_config.json"
_NESTED = "processor_config.json"  # transformers 5 may keep the same under "image_processor" there, which counts first
IMAGE_FILES = (PREPROCESSOR, _NESTED)
_HALF = (0.5, 0.5, 0.5)  # transformers' IMAGENET_STANDARD_MEAN and _STD


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """What an image processor does to an image, in this order; None: that step is left out."""

    resize: tuple[int, int] | int | None = (224, 224)  # height and width; or the length of the shorter edge
    resample: int = 2  # Pillow's number of the filter
    crop: tuple[int, int] | None = None  # height and width, from the middle; zeros where the image is smaller
    scale: float | None = 1 / 255  # pixels, 0 to 255, are multiplied by it
    mean: tuple[float, ...] | None = _HALF  # subtracted, by channel
    std: tuple[float, ...] | None = _HALF  # divided by then
    to_rgb: bool = False  # greyscale arrays become three equal channels

    @property
    def size(self) -> tuple[int, int] | None:
        """Of every image in the end; None: it depends on the image."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)


# By the class of transformers, whose names also end in FeatureExtractor (old files), Fast and Pil: what it does where
# the file is silent.
_CLASSES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ViT": {"size": 224, "resample": 2, "do_center_crop": False, "crop_size": None},
        "DeiT": {"size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224},
    }
)
_SHARED: Mapping[str, Any] = MappingProxyType(
    {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _HALF,
        "image_std": _HALF,
        "do_convert_rgb": False,
        "do_pad": False,
    }
)
# What leaves pixels alone: bookkeeping, and what only a caller of transformers can mean.
_HARMLESS = frozenset(
    """
    image_processor_type feature_extractor_type processor_class default_to_square pad_size data_format device
    return_tensors disable_grouping image_seq_length _processor_class
    """.split()
)


def patches_of(family: Family, config: Mapping[str, Any], where: str) -> Patches:
    """The images that a config.json describes, and how they are cut. Raises `CheckpointError`."""

    def given(name: str) -> Any:
        key = family.keys[name]
        return key, (family.defaults.get(key) if config.get(key) is None else config[key])

    def pair(name: str) -> tuple[int, int]:
        key, value = given(name)
        sizes = (value, value) if isinstance(value, int) else value
        good = isinstance(sizes, list | tuple) and len(sizes) == 2 and all(_is_size(size) for size in sizes)
        if not good:
            raise CheckpointError(f"{where}: {key} is {str(value)[:60]!r}, expected pixels, or [height, width].")
        return sizes[0], sizes[1]

    channels_key, channels = given("channels")
    if not _is_size(channels):
        raise CheckpointError(f"{where}: {channels_key} is {str(channels)[:60]!r}, expected an integer of at least 1.")
    (height, width), (patch_height, patch_width) = pair("image"), pair("patch")
    specials = len(family.stacked.get(family.modules["embed.token"], ("",)))
    try:
        return Patches(
            height=height,
            width=width,
            patch_height=patch_height,
            patch_width=patch_width,
            channels=channels,
            specials=specials,
        )
    except SettingsError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def read_image_settings(folder: str | Path, model_type: str, channels: int) -> tuple[ImageSettings, tuple[str, ...]]:
    """What is done to images for the model in a folder, which reads so many channels, as transformers reads it there,
    and doubts.

    `model_type` says it where the file names no class. Raises `CheckpointError` where there is no such file, and for
    settings that are not computed here.
    """
    entries, path = _entries(Path(folder))
    known = _defaults(entries, model_type, path)
    values = {name: default if entries.get(name) is None else entries[name] for name, default in known.items()}
    for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_pad"):
        if not isinstance(values[name], bool):
            raise CheckpointError(f"{path}: {name} is {str(values[name])[:60]!r}, expected true or false.")
    if values["do_pad"]:
        raise CheckpointError(f"{path}: do_pad is true, and images are not padded here; resize or crop them instead.")
    form = entries.get("input_data_format")
    strange = [name for name in entries if name not in (*known, *_HARMLESS, "input_data_format")]
    doubts = (f"{path} has settings that its class does not read: {listed(strange)}.",) if strange else ()
    if form is not None:
        raise CheckpointError(
            f"{path}: input_data_format is {form!r}; which axis has the channels is read off the images, delete it."
        )
    resample = values["resample"]
    if not isinstance(resample, int) or isinstance(resample, bool) or not 0 <= resample <= 5:
        raise CheckpointError(f"{path}: resample is {str(resample)[:60]!r}, expected one of Pillow's filters, 0 to 5.")
    settings = ImageSettings(
        resize=_resize(values["size"], entries.get("default_to_square"), path) if values["do_resize"] else None,
        resample=resample,
        crop=_crop(values["crop_size"], path) if values["do_center_crop"] else None,
        scale=_number(values, "rescale_factor", path) if values["do_rescale"] else None,
        mean=_channels(values, "image_mean", path, channels) if values["do_normalize"] else None,
        std=_channels(values, "image_std", path, channels) if values["do_normalize"] else None,
        to_rgb=values["do_convert_rgb"],
    )
    if settings.std is not None and min(settings.std) == 0:
        raise CheckpointError(f"{path}: image_std has a 0, by which pixels would be divided; correct it.")
    return settings, doubts


def copy_image_settings(source: str | Path, folder: Path) -> None:
    """Write the settings of one folder to another, in a file of their own; nothing where there are none."""
    try:
        entries, path = _entries(Path(source))
    except CheckpointError:  # said, or to be said, to whoever gives it images
        return
    if path.name == PREPROCESSOR:
        shutil.copyfile(path, folder / PREPROCESSOR)
    else:
        (folder / PREPROCESSOR).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def _entries(folder: Path) -> tuple[dict[str, Any], Path]:
    nested = inside(folder, _NESTED)
    if nested.is_file():
        entries = read_json(nested, "copy it anew").get("image_processor")
        if isinstance(entries, dict):
            return entries, nested
    path = inside(folder, PREPROCESSOR)
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {PREPROCESSOR}, which says what is done to images (size, mean, …); copy it there from "
            "the checkpoint."
        )
    return read_json(path, "copy it anew"), path


def _defaults(entries: Mapping[str, Any], model_type: str, path: Path) -> dict[str, Any]:
    """What the class of an image processor takes where its file is silent. Raises `CheckpointError` for others."""
    said = entries.get("image_processor_type") or entries.get("feature_extractor_type")
    usual = {name.lower(): name for name in _CLASSES}.get(model_type, "ViT")
    name = f"{usual}ImageProcessor" if said is None else str(said)
    kind = name.removesuffix("Fast").removesuffix("Pil").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind == name or kind not in _CLASSES:
        raise CheckpointError(
            f"{path} is of a {name[:60]}, which is not computed here; supported are "
            f"{', '.join(f'{kind}ImageProcessor' for kind in _CLASSES)}."
        )
    return {**_SHARED, **_CLASSES[kind]}


def _resize(size: Any, square: Any, path: Path) -> tuple[int, int] | int:
    """`size` in any of the forms that transformers reads: a number, [height, width], or named sizes."""
    if _is_size(size):
        return size if square is False else (size, size)
    if isinstance(size, list) and len(size) == 2 and all(map(_is_size, size)):
        return size[0], size[1]
    if isinstance(size, Mapping) and size.keys() == {"height", "width"} and all(map(_is_size, size.values())):
        return size["height"], size["width"]
    if isinstance(size, Mapping) and size.keys() == {"shortest_edge"} and _is_size(size["shortest_edge"]):
        return size["shortest_edge"]
    raise CheckpointError(
        f"{path}: size is {str(size)[:60]}, expected pixels, [height, width], {{height, width}} or {{shortest_edge}}."
    )


def _crop(size: Any, path: Path) -> tuple[int, int]:
    try:
        crop = _resize(size, True, path)
    except CheckpointError:
        crop = None
    if not isinstance(crop, tuple):
        raise CheckpointError(f"{path}: crop_size is {str(size)[:60]}, expected pixels or {{height, width}}.")
    return crop


def _number(values: Mapping[str, Any], name: str, path: Path) -> float:
    value = values[name]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise CheckpointError(f"{path}: {name} is {str(value)[:60]!r}, expected a positive number.")
    return float(value)


def _channels(values: Mapping[str, Any], name: str, path: Path, channels: int) -> tuple[float, ...]:
    """One number a channel; a number that stands alone, not in a list, serves all of them."""
    value = values[name]
    several: Any = [value] if isinstance(value, int | float) and not isinstance(value, bool) else value
    numbers = isinstance(several, list | tuple) and several
    if not numbers or not all(isinstance(entry, int | float) and not isinstance(entry, bool) for entry in several):
        raise CheckpointError(f"{path}: {name} is {str(value)[:60]!r}, expected a number for each channel.")
    if several is value and len(several) == 1 < channels:
        raise CheckpointError(
            f"{path}: {name} is a list of 1 number, the model reads {channels} channels; give one for each, or the "
            "number without a list, which serves all."
        )
    return tuple(map(float, several))
