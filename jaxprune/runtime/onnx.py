"""ONNX files run by onnxruntime, on the CPU."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, SettingsError
from ..model import Architecture, Batch

TEXTS, PIXELS = ("input_ids", "attention_mask", "token_type_ids"), "pixel_values"  # inputs
VECTORS = "sentence_embedding"  # the output of an embedding model that is read, where there are others


@dataclass(frozen=True, eq=False)
class OnnxProgram:
    """A file that is loaded, ready to run."""

    session: Any  # onnxruntime.InferenceSession
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] | None = None  # that are computed; None: all

    def __call__(self, *given: np.ndarray) -> np.ndarray:
        """The outputs for plainly padded token ids, mask and types, [rows, length]; or for pixels, [rows, channels,
        height, width]. Several outputs, such as start and end, are on a last axis."""
        if self.inputs == (PIXELS,):
            named = {PIXELS: np.asarray(given[0], np.float32)}
        else:
            texts = dict(zip(TEXTS, given, strict=True))
            named = {name: np.asarray(texts[name], np.int64) for name in self.inputs}
        outputs = self.session.run(self.outputs, named)
        return outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=-1)


def plain_inputs(batch: Batch, architecture: Architecture) -> tuple[np.ndarray, ...]:
    """What a program is given of a batch with one text, or one image, a row."""
    if architecture.patches is None:
        return np.asarray(batch.ids), np.asarray(batch.segments) > 0, np.asarray(batch.types)
    return (architecture.patches.joined(np.asarray(batch.patches)[:, architecture.patches.specials :]),)


def has_onnxruntime() -> bool:
    """Whether the package is there."""
    return find_spec("onnxruntime") is not None


def open_onnx(file: str | Path | bytes, threads: int | None = None) -> OnnxProgram:
    """Load a file, or the bytes of one. `threads` compute an operator (None: as many as onnxruntime takes).

    Raises `SettingsError` where onnxruntime is not installed, `CheckpointError` for what it cannot load.
    """
    if not has_onnxruntime():
        raise SettingsError("this needs the package onnxruntime; pip install 'jaxprune[onnx]'.")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone: they come as exceptions, too
    if threads is not None:
        options.intra_op_num_threads = threads
    source = file if isinstance(file, bytes) else str(file)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many kinds, all named after its own states
        name = "the ONNX graph" if isinstance(file, bytes) else str(file)
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{name} is missing or damaged ({reason}); export the model anew.") from error
    inputs = tuple(entry.name for entry in session.get_inputs())
    strange = () if inputs == (PIXELS,) else sorted(set(inputs) - {*TEXTS})
    if strange:
        raise CheckpointError(
            f"the ONNX file wants {strange[0]}, expected token ids, or pixels; export the model anew."
        )
    vectors = VECTORS in {entry.name for entry in session.get_outputs()}
    return OnnxProgram(session, inputs, (VECTORS,) if vectors else None)
