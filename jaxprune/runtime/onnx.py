"""ONNX files run by onnxruntime, on the CPU."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, SettingsError

VECTORS = "sentence_embedding"  # the output of an embedding model that is read, where there are others


@dataclass(frozen=True, eq=False)
class OnnxProgram:
    """A file that is loaded, ready to run."""

    session: Any  # onnxruntime.InferenceSession
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] | None = None  # that are computed; None: all

    def __call__(self, ids: np.ndarray, mask: np.ndarray, types: np.ndarray) -> np.ndarray:
        """The outputs for plainly padded token ids, [rows, length]; several, such as start and end, on a last axis."""
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        outputs = self.session.run(self.outputs, {name: np.asarray(given[name], np.int64) for name in self.inputs})
        return outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=-1)


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
    strange = set(inputs) - {"input_ids", "attention_mask", "token_type_ids"}
    if strange:
        raise CheckpointError(f"the ONNX file wants {sorted(strange)[0]}, expected token ids; export the model anew.")
    vectors = VECTORS in {entry.name for entry in session.get_outputs()}
    return OnnxProgram(session, inputs, (VECTORS,) if vectors else None)
