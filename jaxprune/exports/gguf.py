"""`format="gguf"`: one file for llama.cpp and the programs around it, layers as uneven as they are."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.card import model_name
from ..checkpoint.config import family_of
from ..checkpoint.dtypes import saved_types
from ..checkpoint.families import Family
from ..checkpoint.files import listed
from ..checkpoint.manifest import EXPORTED, check_finite, manifest_of, named_parameters
from ..checkpoint.write import write_folder
from ..doubts import tell
from ..errors import CheckpointError, NumericalError, SettingsError
from ..model.architecture import Architecture
from ..model.model import Model
from .exported import Exported, ready_to_export, source_config
from .gguf_file import write_gguf
from .gguf_layout import BIASES, Layout, file_context, matching_layouts, misfit, size_keys
from .gguf_rotary import RotaryWritten, rotary_written
from .gguf_tensors import BLOCK, KINDS, Tensor, holds_all, tensors_of
from .gguf_tokenizer import tokenizer_keys

GGUF_FILE = "model.gguf"


def export_gguf(
    model: Model, folder: str | Path, *, dtype: str | None = None, overwrite: bool = False, tokenizer: Any = None
) -> Exported:
    """Write `model` as `model.gguf`, with its tokenizer and chat template in it; see `export`.

    The architecture in the file is the family's own where it has a place for the model, else one whose layers differ.
    """
    folder = Path(folder)
    if find_spec("gguf") is None:
        raise SettingsError("format 'gguf' needs the package gguf; pip install 'jaxprune[gguf]'.")
    if dtype is not None and dtype not in KINDS:
        raise SettingsError(f"dtype is {dtype!r}, expected one of {', '.join(KINDS)}.")
    source = source_config(model)
    model = ready_to_export(model, folder, overwrite, tokenizer)
    a = model.architecture
    for name, leaf in named_parameters(model.params)[0].items():
        check_finite(name, np.asarray(leaf), "the model")
    layout, rotary = chosen_layout(a, source, family_of(source, "the model's source_config"))
    kind = dtype or saved_types(model).most
    warnings: list[str] = []
    if (context := file_context(layout, a)) < a.max_positions:
        warnings.append(
            f"the file's context is {context} tokens, the model's sliding window: llama.cpp's {layout.name} has none, "
            f"and would read longer texts otherwise than the model, which reads {a.max_positions}."
        )
    if "rope_factors_long.weight" in rotary.tensors:
        short_up_to = rotary.keys["rope.scaling.original_context_length"]
        warnings.append(
            f"in contexts of more than {short_up_to} tokens llama.cpp takes the long factors of the rotary scaling for "
            "short texts too; transformers takes them for texts that are that long, which jaxprune does not read."
        )
    own = {f"{layout.name}.{key}": value for key, value in (size_keys(layout, a) | rotary.keys).items()}
    told = manifest_of(model)
    name = model_name(told, told["architecture"])
    keys = _general(kind) | own | tokenizer_keys(model, name, warnings)

    def read() -> Iterator[Tensor]:
        """The tensors, made anew each time: all of them together may be more than there is room for."""
        for tensor in tensors_of(model.params, a, layout, kind, rotary.tensors):
            yield tensor._replace(kind="float32") if tensor.name in large else tensor

    large: frozenset[str] = frozenset()
    large = frozenset(tensor.name for tensor in read() if not holds_all(tensor))
    if large and dtype is not None:
        raise NumericalError(f"tensor {min(large)} has numbers too large for {kind}; choose dtype 'float32'.")
    if large:
        warnings.append(f"{listed(sorted(large))}: numbers too large for {kind}, the checkpoint's type; in float32.")
    tensors = [(tensor.name, tensor.array.shape, tensor.kind) for tensor in read()]
    if kind == "q8_0" and (wide := [name for name, _, stored in tensors if stored == "float16"]):
        warnings.append(
            f"{len(wide)} of {len(tensors)} tensors are float16 ({listed(wide)}): their rows do not divide by {BLOCK}, "
            f"as Q8_0's have to{f'; prune with round_to={BLOCK}' if a.hidden % BLOCK == 0 else ''}."
        )
    size = 0

    def fill(part: Path) -> None:
        nonlocal size
        size = write_gguf(part / GGUF_FILE, layout.name, keys, tensors, read())

    made = {
        "format": "gguf",
        "dtype": kind,
        "gguf_architecture": layout.name,
        "files": [GGUF_FILE],
        "warnings": warnings,
    }
    write_folder(folder, EXPORTED, told | {"export": made}, fill, overwrite)
    tell(warnings)
    return Exported(folder, {"architectures": [layout.name], **own}, size, tuple(warnings), kind)


def chosen_layout(a: Architecture, source: Mapping[str, Any], family: Family) -> tuple[Layout, RotaryWritten]:
    """The first of llama.cpp's architectures that has a place for all of a model, and its rotary positions there.

    Raises `CheckpointError` that says what has no place in each of them.
    """
    reasons = []
    for layout in matching_layouts(a):
        reason = misfit(layout, a)
        rotary = RotaryWritten({}) if a.positions != "rotary" else rotary_written(family, source, a, layout)
        if reason is None and rotary is not None:
            return layout, rotary
        reasons.append(f"{layout.name}: {reason or 'it does not have its kind of rotary scaling'}")
    square = any(layout.square for layout in matching_layouts(a))
    raise CheckpointError(
        f"none of llama.cpp's architectures has a place for this {a.family} model ({'; '.join(reasons)}); "
        f"{_cure(reasons, square)}."
    )


def _cure(reasons: Sequence[str], square: bool) -> str:
    """What to do about a model that has no place; `square`: where all heads have to stay."""
    tries = []
    if any("layers" in reason or "heads are" in reason for reason in reasons):
        tries.append(f"prune with Budget(uniform=True{', keep_heads=True' if square else ''})")
    if any(words in reason for words in BIASES.values() for reason in reasons):
        tries.append("prune without adding output biases (KPrune(intercept=False), Flap(compensate=False))")
    return ", ".join([*tries, "or export it with format 'onnx'" if tries else "export it with format 'onnx'"])


def _general(kind: str) -> dict[str, Any]:
    return {
        "general.type": "model",
        "general.quantization_version": 2,
        "general.file_type": KINDS[kind].number,
    }
