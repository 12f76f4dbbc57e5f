"""A model that was exported to ONNX, in the place of one: `evaluate` and `predict` run the file that is shipped."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..checkpoint.files import sha256
from ..checkpoint.manifest import EXPORTED, ONNX_FILES, architecture_of, read_manifest
from ..checks import checked
from ..doubts import tell
from ..errors import CheckpointError
from ..model import Architecture, Batch, Model, Provenance
from ..model.heads import head_of
from ..runtime.onnx import OnnxProgram, open_onnx, plain_inputs
from ..runtime.programs import Programs
from ..tokens.encoded import Encoded
from ..tokens.packing import batch_of, batch_tokens, check_encoded
from .outputs import Runner, TextsRun, check_outputs, in_parts, run_texts, without_patches


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """An ONNX file, and what its folder says of the model in it."""

    described: Model  # architecture and notes (record, tokenizer), without parameters
    program: OnnxProgram
    file: Path

    def __repr__(self) -> str:
        return f"OnnxModel({self.file})"

    def run(self, encoded: Encoded) -> TextsRun:
        """The outputs for tokenised texts, or images, one a row, in batches of about one length."""
        architecture = self.described.architecture
        pad, per_text = architecture.pool_pad, head_of(architecture).per_text
        values, seen, seconds = [], [], 0.0
        for rows in in_parts(encoded):
            part = encoded if len(rows) == len(encoded) else encoded.picked(rows)
            for batch in plain_batches(part, architecture):
                # The last token is told by padding's id, where the checkpoint names one.
                real = np.asarray(batch.segments) > 0
                told = batch if pad is None else batch._replace(ids=np.where(real, batch.ids, pad))
                began = time.perf_counter()
                out = self.program(*plain_inputs(told, architecture))
                seconds += time.perf_counter() - began
                values.append(out[:, None] if per_text else out)
                seen.append(without_patches(batch, rows.start))
        check_outputs(values, seen, architecture)
        return TextsRun(values, seen, seconds, 0.0)

    def losses(self, encoded: Encoded) -> tuple[list[Batch], Iterator[np.ndarray]]:
        """Of a language model: batches of one text a row, and the losses of each, computed as they are asked for.

        A loss, in nats, stands at the token before the one that it is of; 0 at the last token of a text and at padding.
        """
        batches = plain_batches(encoded, self.described.architecture)
        return batches, (self._losses(batch) for batch in batches)

    def _losses(self, batch: Batch) -> np.ndarray:
        ids, real, types = plain_inputs(batch, self.described.architecture)
        logits = self.program(ids, real, types)[:, :-1]
        most = logits.max(axis=-1, keepdims=True)
        total = np.log(np.exp(logits - most).sum(axis=-1, dtype=np.float64)) + most[..., 0]
        of_next = total - np.take_along_axis(logits, ids[:, 1:, None].astype(np.int64), axis=-1)[..., 0]
        return np.pad(np.where(real[:, 1:], of_next, 0.0), ((0, 0), (0, 1)))


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
    changed = _changed_files(folder, manifest["export"].get("sha256", {}), ONNX_FILES[int8])
    tell(changed)
    notes = Provenance(str(folder), manifest, (*manifest.get("warnings", []), *changed))
    return OnnxModel(Model(architecture, {}, notes), open_onnx(file, threads), file)


def _changed_files(folder: Path, sums: Mapping[str, str], name: str) -> list[str]:
    """A warning where the file that is run, or a part that it has of its own, is not the one that was exported."""
    changed = [part for part, said in sums.items() if part.startswith(name) and _sum(folder / part) != said]
    return [
        f"{folder / part} is not the file that was exported: what is computed is what is there." for part in changed
    ]


def _sum(file: Path) -> str | None:
    return sha256(file) if file.is_file() else None


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
