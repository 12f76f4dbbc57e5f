"""How an image becomes tokens: cut into patches, of which each is a row of numbers."""

from dataclasses import dataclass
from typing import Any

from ..errors import DataError, SettingsError


@dataclass(frozen=True, kw_only=True)
class Patches:
    """The images that a model reads, and how they are cut. Sizes are in pixels."""

    height: int  # of an image
    width: int
    patch_height: int
    patch_width: int
    channels: int
    specials: int = 1  # tokens before the patches, with states of their own: the class, of DeiT also distillation

    def __post_init__(self):
        sizes = (self.height, self.width, self.patch_height, self.patch_width, self.channels, self.specials)
        if min(sizes) < 1:
            raise SettingsError(f"sizes of images and patches must be at least 1, got {self}.")
        if self.height % self.patch_height or self.width % self.patch_width:
            raise SettingsError(
                f"patches of {self.patch_height} x {self.patch_width} do not divide images of {self.height} x "
                f"{self.width}; what is left over at the edges would not be read."
            )

    @property
    def count(self) -> int:
        """Patches of an image."""
        return (self.height // self.patch_height) * (self.width // self.patch_width)

    @property
    def tokens(self) -> int:
        """Of an image: special ones and patches."""
        return self.specials + self.count

    @property
    def numbers(self) -> int:
        """Of a patch: its pixels in every channel."""
        return self.channels * self.patch_height * self.patch_width

    def cut(self, pixels: Any) -> Any:
        """[images, channels, height, width] as [images, patches, numbers]: patches by rows of the image, the numbers
        of each by channel, then by row. NumPy arrays give one.

        Raises `DataError` for images of another size: positions are not interpolated.
        """
        expected = (self.channels, self.height, self.width)
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected:
            raise DataError(
                f"pixels have shape {tuple(pixels.shape)}, expected [images, {', '.join(map(str, expected))}]: "
                "channels, height and width are the model's, whose positions are not interpolated."
            )
        rows, columns = self.height // self.patch_height, self.width // self.patch_width
        parts = pixels.reshape(-1, self.channels, rows, self.patch_height, columns, self.patch_width)
        return parts.transpose(0, 2, 4, 1, 3, 5).reshape(-1, self.count, self.numbers)

    def joined(self, patches: Any) -> Any:
        """[images, patches, numbers] as [images, channels, height, width]: what `cut` was given."""
        rows, columns = self.height // self.patch_height, self.width // self.patch_width
        parts = patches.reshape(-1, rows, columns, self.channels, self.patch_height, self.patch_width)
        return parts.transpose(0, 3, 1, 4, 2, 5).reshape(-1, self.channels, self.height, self.width)
