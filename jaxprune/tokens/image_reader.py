"""Images to patches: what an image processor of transformers does, in the place of a tokenizer.

Numbers are those of its classes on Pillow and NumPy (`ViTImageProcessorPil` and the like), to the bit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, overload

import numpy as np

from ..checkpoint.image_settings import ImageSettings
from ..checkpoint.notes import images_of
from ..errors import CheckpointError, DataError, SettingsError
from ..model import Model
from ..model.patches import Patches
from ..tasks.example import Example
from ..tasks.picture import Picture
from .encoded import Encoded
from .image_steps import as_bytes, by_channel, channels_first, cropped, resized

KEPT = 2**29  # bytes of patches up to which all are kept; beyond, images are read each time that they are asked for
_DARK = 64  # of 255: arrays whose brightest pixel is below are doubted


class _Read(Sequence[np.ndarray]):
    """The patches of images, [tokens, numbers] each, read when they are asked for."""

    def __init__(self, read: Callable[[Example], np.ndarray], examples: Sequence[Example]):
        self._read, self._examples = read, examples

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> "_Read": ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return _Read(self._read, self._examples[index])
        return self._read(self._examples[index])


@dataclass(frozen=True)
class ImageReader:
    """Reads images as a model's folder says, where a `Tokenizer` would read texts."""

    settings: ImageSettings
    patches: Patches
    said: tuple[str, ...] = ()  # doubts about the settings
    first: int = 0  # the number of the first image, in errors: of images that come in parts

    @staticmethod
    def of(model: Model) -> "ImageReader":
        """Of the settings beside a model, or of those that were handed in.

        Raises `DataError` for a model that reads texts, `CheckpointError` for settings that do not fit it.
        """
        patches = model.architecture.patches
        if patches is None:
            raise DataError("these are images, and the model reads texts; take a model of images, such as a ViT.")
        settings, doubts = images_of(model)
        expected = (patches.height, patches.width)
        if settings.size is not None and settings.size != expected:
            raise CheckpointError(
                f"the image processor makes images of {settings.size[0]} x {settings.size[1]}, the model reads "
                f"{expected[0]} x {expected[1]}, and its positions are not interpolated; correct size or crop_size."
            )
        for name, values in (("image_mean", settings.mean), ("image_std", settings.std)):
            if values is not None and len(values) not in (1, patches.channels):
                raise CheckpointError(
                    f"the image processor's {name} has {len(values)} numbers, the model reads {patches.channels} "
                    "channels; give one for each."
                )
        return ImageReader(settings, patches, doubts)

    def encode(self, examples: Sequence[Example], max_length: int = 0, strict: bool = False) -> Encoded:
        """The patches of every image, behind its special tokens; nothing is cut, whatever `max_length` says.

        Raises `DataError` that names an image which is none, or not of the model's kind: of files by their beginning
        at once, and when they are read.
        """
        for number, example in enumerate(examples, self.first):
            if example.image is None:
                raise DataError(f"example {number} is a text, and the model reads images; give images.")
            self._check(example.image)
        tokens, specials = self.patches.tokens, self.patches.specials
        ids = np.where(np.arange(tokens) < specials, np.arange(tokens), 0).astype(np.int32)
        read: Sequence[np.ndarray] = _Read(self._tokens, examples)
        if len(examples) * tokens * self.patches.numbers * 4 <= KEPT:
            read = list(read)
        count = len(examples)
        return Encoded([ids] * count, [np.zeros_like(ids)] * count, patches=read)

    def doubts(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """What may surprise in how these images are read."""
        if self._normalises_unscaled and self.settings.resize is not None:  # which makes bytes of them
            return (
                *self.said,
                "do_rescale is false, so that pixels are read as 0 to 255, and image_mean is of pixels from 0 to 1: "
                "they are likely meant to be rescaled; correct preprocessor_config.json.",
            )
        arrays = [example.image.pixels for example in examples if example.image is not None]
        bytes_ = [entry for entry in arrays if isinstance(entry, np.ndarray) and entry.size]
        brightest = max((float(entry.max()) for entry in bytes_), default=255.0)
        if self.settings.scale is None or len(bytes_) < len(examples) or not bytes_ or brightest >= _DARK:
            return self.said
        return (
            *self.said,
            f"the brightest pixel of {len(bytes_)} images is {brightest:g}, and pixels are read as 0 to 255: all are "
            "nearly black; scale them if they were meant otherwise.",
        )

    def pixels(self, image: Picture) -> np.ndarray:
        """An image as the model reads it: float32 [channels, height, width]. Raises `DataError`."""
        array, settings = self._array(image), self.settings
        if settings.resize is not None:
            array = resized(array, settings.resize, settings.resample)
        if settings.crop is not None:
            array = cropped(array, settings.crop)
        if settings.scale is not None:
            array = (array.astype(np.float64) * settings.scale).astype(np.float32)
        array = array.astype(np.float32)
        if settings.mean is not None and settings.std is not None:
            mean, std = (by_channel(values, len(array)) for values in (settings.mean, settings.std))
            array = (array - mean) / std
        p = self.patches
        if array.shape != (p.channels, p.height, p.width):
            raise DataError(
                f"{image.where} is {array.shape[1]} x {array.shape[2]} in the end, the model reads {p.height} x "
                f"{p.width}, and its positions are not interpolated; resize it, or have do_resize in the settings."
            )
        return array

    def _tokens(self, example: Example) -> np.ndarray:
        assert example.image is not None  # encode has looked
        patches = self.patches.cut(self.pixels(example.image)[None])[0]
        return np.pad(patches, [(self.patches.specials, 0), (0, 0)])

    def _check(self, image: Picture) -> None:
        """Raise `DataError` for what is no image, as far as that shows without reading all of it."""
        if isinstance(image.pixels, np.ndarray):
            self._array(image)
        else:
            with opened(image) as there:
                self._check_mode(there, image.where)

    def _array(self, image: Picture) -> np.ndarray:
        """Channels first, as many as the model reads; bytes where they are resized or scaled."""
        if isinstance(image.pixels, np.ndarray):
            return self._of_array(image.pixels, image.where)
        with opened(image) as there:
            self._check_mode(there, image.where)
            from PIL import ImageOps  # an extra: only image files need it

            try:
                upright = ImageOps.exif_transpose(there)  # as transformers' load_image
                array = np.array(upright.convert("RGB" if self.patches.channels == 3 else "L"))
            except Exception as error:  # Pillow has no common base for what damaged files raise
                raise _no_image(image.where, error) from error
        self._check_unscaled(array, image.where)
        return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)

    def _check_unscaled(self, array: np.ndarray, where: str) -> None:
        """Raise `DataError` for pixels up to 255 of which a mean of pixels from 0 to 1 would be subtracted."""
        if self._normalises_unscaled and self.settings.resize is None and float(array.max()) > 1:
            raise DataError(
                f"{where} has pixels up to {float(array.max()):g}, and the image processor leaves them as they are "
                "(do_rescale false), to subtract a mean of pixels from 0 to 1; divide them by 255."
            )

    @property
    def _normalises_unscaled(self) -> bool:
        mean = self.settings.mean
        return self.settings.scale is None and mean is not None and max(mean) <= 1

    def _check_mode(self, image: Any, where: str) -> None:
        """Raise `DataError` for an image of Pillow whose colours are not the model's."""
        channels, mode = self.patches.channels, str(image.mode)
        if mode.startswith(("I", "F")):
            raise DataError(f"{where} has pixels of more than 8 bits (mode {mode}); convert it to 8 bits.")
        if channels == 1 and mode not in ("L", "1", "LA"):
            raise DataError(f"{where} is in colour ({mode}), the model reads 1 channel; convert it to greyscale.")
        if channels not in (1, 3):
            raise DataError(f"the model reads {channels} channels, and image files have 1 or 3; give arrays.")

    def _of_array(self, array: np.ndarray, where: str) -> np.ndarray:
        """Channels first, as many as the model reads; a range that the settings mean. Raises `DataError`."""
        if array.ndim not in (2, 3) or not array.size or array.dtype.kind not in "uif":
            raise DataError(
                f"{where} is an array of {array.dtype} and shape {array.shape}, expected pixels: [height, width], "
                "[height, width, channels] or [channels, height, width]."
            )
        array = channels_first(array, where)
        if len(array) == 1 and self.patches.channels == 3 and self.settings.to_rgb:
            array = np.repeat(array, 3, axis=0)
        if len(array) != self.patches.channels:
            cure = "repeat it three times" if len(array) == 1 else "convert it"
            raise DataError(
                f"{where} has {len(array)} channel{'s' if len(array) > 1 else ''}, the model reads "
                f"{self.patches.channels}; {cure}."
            )
        low, high = float(array.min()), float(array.max())
        if not np.isfinite([low, high]).all():
            raise DataError(f"{where} holds NaN or Inf; correct it.")
        if self.settings.resize is not None or self.settings.scale is not None:
            return as_bytes(array, where, low, high)
        self._check_unscaled(array, where)
        return array


@contextmanager
def opened(image: Picture) -> Iterator[Any]:
    """The image of Pillow that a picture is, or lies in; of a file its beginning is read.

    Raises `DataError` for what is none, `SettingsError` without Pillow.
    """
    if image.file is None:
        yield image.pixels
        return
    if find_spec("PIL") is None:
        raise SettingsError("image files are read by the package Pillow; pip install 'jaxprune[images]'.")
    from PIL import Image

    try:
        there = Image.open(image.file)
    except Exception as error:  # of many kinds, one of them for a size that it takes for an attack
        raise _no_image(image.where, error) from error
    with there:
        yield there


def _no_image(where: str, error: Exception) -> DataError:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return DataError(f"{where} is no image that Pillow reads ({said}); convert it, or drop it.")
