"""Make tests/golden: tiny random checkpoints of every family and head, and the logits of transformers on torch.

    python experiments/make_golden.py            # --missing: leave those that are there as they are

Each folder holds config.json and model.safetensors as transformers wrote them, and expected.npz: for every case the
inputs and the logits. `make test` compares with these, and so needs no torch.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.helpers.tiny import PAIRS
from tests.parity.reference import cases, image_pixels, image_reference, random_reference, reference_logits

OUT = Path(__file__).resolve().parent.parent / "tests" / "golden"


def make(family: str, head: str, folder: Path) -> None:
    model = random_reference(family, head, seed=0)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(Path(scratch) / name, folder / name)
    arrays: dict[str, Any] = {}
    for name, inputs in cases(family).items():
        arrays |= {f"{name}/{key}": array for key, array in inputs.items()}
        arrays[f"{name}/logits"] = reference_logits(model, inputs)
    np.savez_compressed(folder / "expected.npz", **arrays)


IMAGES = {
    "vit": ("vit", "ForImageClassification"),
    "deit": ("deit", "ForImageClassification"),
    "deit-with-teacher": ("deit", "ForImageClassificationWithTeacher"),
}


def make_of_images(family: str, ending: str, folder: Path) -> None:
    """The same of a model of images: one case, pixels."""
    model = image_reference(family, ending)
    model.save_pretrained(folder)
    for extra in set(folder.iterdir()) - {folder / "config.json", folder / "model.safetensors"}:
        extra.unlink()
    inputs = {"pixel_values": image_pixels(model.config)}
    arrays: dict[str, Any] = {**inputs, "logits": reference_logits(model, inputs)}
    np.savez_compressed(folder / "expected.npz", **arrays)


def main(overwrite: bool) -> None:
    for name, (family, ending) in IMAGES.items():
        folder = OUT / "images" / name
        if overwrite or not folder.exists():
            make_of_images(family, ending, folder)
    for family, head in PAIRS:
        folder = OUT / f"{family}-{head}"
        if folder.exists() and not overwrite:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        make(family, head, folder)
    size = sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file())
    print(f"{OUT}: {size:,} bytes")


if __name__ == "__main__":
    main(overwrite="--missing" not in sys.argv)
