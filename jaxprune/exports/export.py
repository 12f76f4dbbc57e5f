"""`export`: a model as a folder for other programs, in the format that they read."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ..checkpoint.write import SHARD_BYTES
from ..checks import checked
from ..errors import SettingsError
from ..model.model import Model
from .exported import Exported
from .gguf import export_gguf
from .huggingface import export_transformers
from .onnx import export_onnx
from .stablehlo import export_stablehlo


class Format(NamedTuple):
    """One format: who writes it, and which settings it has beside those of all."""

    write: Callable[..., Exported]
    settings: tuple[str, ...]


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "transformers": Format(export_transformers, ("fill_zeros", "dtype", "shard_bytes")),
        "onnx": Format(export_onnx, ("int8",)),
        "gguf": Format(export_gguf, ("dtype",)),
        "stablehlo": Format(export_stablehlo, ("weights", "generation")),
    }
)
FORMER_NAMES = {"hf": "transformers"}  # as the command line called it


@checked
def export(
    model: Model,
    folder: str | Path,
    *,
    format: str = "transformers",
    overwrite: bool = False,
    tokenizer: Any = None,
    fill_zeros: bool = False,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    int8: bool = False,
    weights: str = "inside",
    generation: bool = False,
) -> Exported:
    """Write `model` to `folder` in a `format` that other programs read.

    "transformers": an ordinary Hugging Face folder. Tensors are in their own types, as `save` writes them, or in
    `dtype`, in files of `shard_bytes` at most. A config.json has one size for all layers: a model that it cannot
    describe has the file `modeling_pruned.py` beside it, which transformers runs with trust_remote_code=True and
    jaxprune never does; or `fill_zeros` writes the sizes of its source, with zeros where units were removed.

    "onnx": `onnx/model.onnx` with config.json and tokenizer beside it, as transformers.js and optimum lay them out;
    layers may differ. With `int8` also `onnx/model_quantized.onnx`, weights and embeddings in eight bits. Where
    onnxruntime is installed, what was written is run and compared with the model.

    "gguf": `model.gguf` for llama.cpp and the programs around it, tokenizer and chat template in it; layers may differ.
    `dtype` may also be "q8_0" there: eight bits, a scale for every 32 numbers of a row.

    "stablehlo": `model.stablehlo`, a program of jax.export for CPUs, CUDA and TPUs that JAX alone loads and runs, for
    any number of rows and tokens; its `weights` are "inside", or "beside" in `weights.npz`. With `generation` also
    `step.stablehlo`, which reads prompts and then one token after the other, with a cache.

    The record of what was done lies in every folder in `jaxprune_export.json`. The folder is there whole or not at all,
    as with `save`; `overwrite` and `tokenizer` are those of `save`. Raises `SettingsError` for a format that is none or
    is not installed, and for settings of another one; `CheckpointError` for a model that a format has no place for;
    `OutputError` and `NumericalError` as `save` does, the latter also where an ONNX file computes something else.
    """
    if format not in FORMATS:
        raise SettingsError(f"format is {format!r}, expected one of {', '.join(FORMATS)}.")
    row = FORMATS[format]
    given = {"fill_zeros": fill_zeros, "dtype": dtype, "shard_bytes": shard_bytes, "int8": int8}
    given |= {"weights": weights, "generation": generation}
    defaults = {"fill_zeros": False, "dtype": None, "shard_bytes": SHARD_BYTES, "int8": False}
    defaults |= {"weights": "inside", "generation": False}
    for name, value in given.items():
        if name not in row.settings and value != defaults[name]:
            raise SettingsError(f"{name} ({value}) has no effect with format {format!r}; leave it out.")
    own = {name: value for name, value in given.items() if name in row.settings}
    folder = Path(os.path.expanduser(folder))  # as `load` reads it
    return row.write(model, folder, overwrite=overwrite, tokenizer=tokenizer, **own)
