"""The steps of an image processor, on arrays [channels, height, width], as transformers' classes on Pillow do them."""

from importlib.util import find_spec

import numpy as np

from ..errors import DataError, SettingsError

CHANNELS = (1, 3, 4)  # by which the axis of an array that has them is told, as in transformers


def channels_first(array: np.ndarray, where: str) -> np.ndarray:
    """An array as [channels, height, width]; without channels it has one. Raises `DataError` where axes do not tell."""
    if array.ndim == 2:
        return array[None]
    first, last = array.shape[0] in CHANNELS, array.shape[2] in CHANNELS
    if first == last:
        said = "both its first and its last axis could be" if first else "no axis of 1, 3 or 4 is"
        raise DataError(f"{where} has shape {array.shape}: {said} the channels; give [channels, height, width].")
    return array if first else np.moveaxis(array, -1, 0)


def as_bytes(array: np.ndarray, where: str, low: float, high: float) -> np.ndarray:
    """Pixels from 0 to 255 as bytes. Raises `DataError` for others, and where 1 could be the brightest."""
    if array.dtype == np.uint8:
        return array
    whole = array.dtype.kind in "ui" or bool(np.equal(array, np.round(array)).all())
    if array.dtype.kind == "f" and 0 <= low and 0 < high <= 1:
        raise DataError(
            f"{where} has floats from 0 to 1, and the image processor reads 0 to 255, which it divides itself; give "
            "(255 * image).round() as uint8."
        )
    if low < 0 or high > 255 or not whole:
        what = "pixels" if whole else "floats that are not whole"
        raise DataError(f"{where} has {what} from {low:g} to {high:g}, expected 0 to 255; give them as uint8.")
    return array.astype(np.uint8)


def resized(array: np.ndarray, size: tuple[int, int] | int, resample: int) -> np.ndarray:
    """By Pillow; an image that has the size stays as it is."""
    height, width = array.shape[1:]
    if isinstance(size, int):
        short, long = min(height, width), max(height, width)
        long = int(size * long / short)
        size = (long, size) if width <= height else (size, long)
    if size == (height, width):
        return array
    if find_spec("PIL") is None:
        raise SettingsError("images are resized by the package Pillow; pip install 'jaxprune[images]'.")
    from PIL import Image

    last = np.moveaxis(array, 0, -1)
    image = Image.fromarray(np.ascontiguousarray(last[..., 0] if len(array) == 1 else last))
    out = np.array(image.resize((size[1], size[0]), resample=resample))
    return out[None] if out.ndim == 2 else np.moveaxis(out, -1, 0)


def cropped(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle; zeros around an image that is smaller."""
    for axis, wanted in enumerate(size, 1):
        have = array.shape[axis]
        if have < wanted:
            before = -(-(wanted - have) // 2)
            pads = [(0, 0)] * 3
            pads[axis] = (before, wanted - have - before)
            array = np.pad(array, pads)
    top, left = ((have - wanted) // 2 for have, wanted in zip(array.shape[1:], size, strict=True))
    return array[:, top : top + size[0], left : left + size[1]]


def by_channel(values: tuple[float, ...], channels: int) -> np.ndarray:
    """One number a channel, to be broadcast over an image."""
    return np.array(values if len(values) == channels else values * channels, np.float32)[:, None, None]
