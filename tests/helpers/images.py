"""Tiny random models of images, and images to show them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxprune.checkpoint.image_settings import PREPROCESSOR
from tests.helpers import tiny

LABELS = ("dark", "light")
SIZE = 6  # pixels an edge, patches of 2: ten tokens


def write_model(folder: Path, family: str = "vit", processor: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A checkpoint of two layers, three heads and ten neurons that reads images of `SIZE` in three channels."""
    labels = {"id2label": {str(number): label for number, label in enumerate(LABELS)}}
    settings = tiny.config(family, "classification", **{**labels, **changes})
    named = {
        name: 0.5 * tensor + (1 if "norm" in name and name.endswith("weight") else 0)
        for name, tensor in tiny.tensors(settings).items()
    }
    tiny.write(folder, settings, named)
    size = settings["image_size"]
    told = {"image_processor_type": "ViTImageProcessor", "size": size} if processor is None else processor
    (folder / PREPROCESSOR).write_text(json.dumps(told))
    return folder


def pixels(count: int, seed: int = 0, channels: int = 3, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Bytes [images, size, size, channels], and whether each is light: its mean is."""
    random = np.random.RandomState(seed)
    labels = np.arange(count) % 2
    means = np.where(labels == 1, 160, 95)[:, None, None, None]
    noise = random.randint(-60, 61, (count, size, size, channels))
    return (means + noise).clip(0, 255).astype(np.uint8), labels


def write_npz(file: Path, count: int, seed: int = 0, **more: Any) -> Path:
    images, labels = pixels(count, seed, more.pop("channels", 3))
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{"images": images, "labels": labels, "names": np.array(LABELS), **more})
    return file


def write_folder(root: Path, counts: dict[str, int]) -> Path:
    """Class folders of PNG files for every split; needs Pillow."""
    from PIL import Image

    for seed, (split, count) in enumerate(counts.items()):
        for number, (image, label) in enumerate(zip(*pixels(count, seed), strict=True)):
            place = root / split / LABELS[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number:03}.png")
    return root
