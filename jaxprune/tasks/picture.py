"""Images as tasks and calls have them: files, or pixels in memory; nothing is read of them here."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError


class Picture(NamedTuple):
    """An image: a file, or what is in memory."""

    where: str  # what it is called in errors
    file: Path | None = None
    pixels: Any = None  # an array, or an image of Pillow, where there is no file

    @property
    def bytes(self) -> int:
        """Of the file, or of the pixels."""
        return np.asarray(self.pixels).nbytes if self.file is None else self.file.stat().st_size

    @property
    def hash(self) -> str:
        """SHA-256 of the file, or of shape, type and pixels."""
        if self.file is not None:
            try:
                return hashlib.sha256(self.file.read_bytes()).hexdigest()
            except OSError as error:
                raise DataError(f"{self.where} cannot be read: {error.strerror or error}; check the path.") from error
        pixels = np.asarray(self.pixels)
        told = f"{pixels.dtype} {pixels.shape} ".encode()
        return hashlib.sha256(told + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def pictures(images: Any) -> list[Picture]:
    """A list of images, or an array of several: [images, height, width], or with channels before or behind.

    An image is a file's name, an image of Pillow, or an array. Raises `DataError` for what is none.
    """
    if is_one(images):
        raise DataError("images must be a list of images, got one; pass [image].")
    if isinstance(images, dict | set | frozenset | bytes) or not hasattr(images, "__iter__"):
        raise DataError(f"images is a {type(images).__name__}, expected a list of images.")
    return [picture_of(entry, number) for number, entry in enumerate(images)]


def is_one(images: Any) -> bool:
    """Whether this is one image, not several. An array with three axes is, as [height, width, channels]."""
    return isinstance(images, str | Path) or hasattr(images, "getbands") or getattr(images, "ndim", 4) in (2, 3)


def picture_of(image: Any, number: int) -> Picture:
    """One image. Raises `DataError` that names its number."""
    if isinstance(image, str | Path):
        if not Path(image).is_file():
            raise DataError(f"image {number}, {image}, is not a file; check the path.")
        return Picture(f"image {number} ({image})", Path(image))
    if hasattr(image, "getbands"):  # of Pillow
        return Picture(f"image {number}", None, image)
    if not hasattr(image, "shape"):
        raise DataError(f"image {number} is a {type(image).__name__}, expected a file, an image of Pillow or an array.")
    return Picture(f"image {number}", None, np.asarray(image))


def shared_pictures(ours: Sequence[Picture], others: Sequence[Picture]) -> int:
    """How many of `ours` are among `others`, by their bytes; read are those alone that are of one length."""
    lengths = {picture.bytes for picture in ours}
    known = {picture.hash for picture in others if picture.bytes in lengths}
    return sum(picture.hash in known for picture in ours) if known else 0
