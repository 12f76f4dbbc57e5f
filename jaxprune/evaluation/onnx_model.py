"""A model that was exported to ONNX, in the place of one: `evaluate` and `predict` run the file that is shipped."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..checkpoint.manifest import EXPORTED, ONNX_FILES, architecture_of, read_manifest
from ..checks import checked
from ..errors import CheckpointError
from ..model import Architecture, Batch, Model, Provenance
from ..model.heads import head_of
from ..runtime.onnx import OnnxProgram, open_onnx
from ..runtime.programs import Programs
from ..tokens.encoded import Encoded
from ..tokens.packing import batch_of, batch_tokens, check_encoded
from .outputs import Runner, TextsRun, check_outputs, run_texts


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """An ONNX file, and what its folder says of the model in it."""

    described: Model  # architecture and notes (record, tokenizer), without parameters
    program: OnnxProgram
    file: Path

    def __repr__(self) -> str:
        return f"OnnxModel({self.file})"

    def run(self, encoded: Encoded) -> TextsRun:
        """The outputs for tokenised texts, one a row, in batches of texts of about one length."""
        architecture = self.described.architecture
        batches, pad = plain_batches(encoded, architecture), architecture.pool_pad
        per_text = head_of(architecture).per_text
        began, values = time.perf_counter(), []
        for batch in batches:
            real = np.asarray(batch.segments) > 0
            # The last token is told by padding's id, where the checkpoint names one.
            ids = np.where(real, batch.ids, batch.ids if pad is None else pad)
            out = self.program(ids, real, np.asarray(batch.types))
            values.append(out[:, None] if per_text else out)
        seconds = time.perf_counter() - began
        check_outputs(values, batches, architecture)
        return TextsRun(values, batches, seconds, 0.0)


@checked
def load_onnx(folder: str | Path, *, int8: bool = False, threads: int | None = None) -> OnnxModel:
    """The model in a folder that `export` wrote with `format="onnx"`, run by onnxruntime on the CPU.

    `evaluate` and `predict` take it in place of a model, so that what is scored is the file that will be shipped; with
    `int8` the one with weights in eight bits. `threads` compute an operator (None: as many as onnxruntime takes).
    Raises `CheckpointError` for another folder, or a damaged one, `SettingsError` where onnxruntime is not installed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, EXPORTED)
    if manifest.get("export", {}).get("format") != "onnx":
        raise CheckpointError(f"{folder} is no ONNX export; write one by export with format='onnx'.")
    file = folder / ONNX_FILES[int8]
    if not file.is_file():
        cure = "export the model with int8=True" if int8 else "export the model anew"
        raise CheckpointError(f"{folder} has no {ONNX_FILES[int8]}; {cure}.")
    architecture = architecture_of(manifest["architecture"], str(folder / EXPORTED))
    notes = Provenance(str(folder), manifest, tuple(manifest.get("warnings", [])))
    return OnnxModel(Model(architecture, {}, notes), open_onnx(file, threads), file)


def described(model: Model | OnnxModel) -> Model:
    """The model itself, or what is known of an exported one: architecture and notes."""
    return model.described if isinstance(model, OnnxModel) else model


def runner_of(model: Model | OnnxModel, programs: Programs, few_shapes: bool = False) -> Runner:
    """How its outputs for texts are computed; `few_shapes` is that of `pack`."""
    if isinstance(model, OnnxModel):
        return model.run
    return partial(run_texts, model, programs=programs, few_shapes=few_shapes)


def plain_batches(encoded: Encoded, architecture: Architecture) -> list[Batch]:
    """One text a row, padded right to the longest of its batch; longest first."""
    lengths = np.array([len(ids) for ids in encoded.ids], np.int64)
    check_encoded(encoded, lengths, int(lengths.max(initial=0)), architecture)
    order, batches, at = np.argsort(-lengths, kind="stable"), [], 0
    while at < len(order):
        length = int(lengths[order[at]])
        texts = order[at : at + max(1, batch_tokens() // length)]
        batches.append(batch_of([[int(text)] for text in texts], encoded, architecture, (len(texts), length, 1)))
        at += len(texts)
    return batches
