"""`format="onnx"`: a folder as transformers.js and optimum lay it out, with a graph of our own."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.config import family_of
from ..checkpoint.files import sha256
from ..checkpoint.generation import write_generation
from ..checkpoint.manifest import EXPORTED, ONNX_FILES, check_finite, manifest_of, manifest_text, named_parameters
from ..checkpoint.notes import write_tokenizer
from ..checkpoint.sentence_files import write_sentence
from ..checkpoint.write import write_folder
from ..doubts import tell
from ..errors import NumericalError, SettingsError
from ..model.architecture import Architecture
from ..model.heads import head_of
from ..model.model import Model
from ..model.padded import logits
from ..runtime.onnx import has_onnxruntime, open_onnx
from ..runtime.precision import full_precision
from .exported import Exported, pooled_prompt, probe, ready_to_export, source_config, with_head
from .onnx_file import write_int8, write_onnx
from .onnx_graph import graph_of

TOLERANCE = 1e-4  # of the largest output; float32 sums in another order come to 1e-6 a layer
PROBES = ((1, 7), (3, 24))  # rows and tokens that a written file is run on, rows of several lengths


def export_onnx(
    model: Model, folder: str | Path, *, int8: bool = False, overwrite: bool = False, tokenizer: Any = None
) -> Exported:
    """Write `model` as an ONNX file, in float32 and with `int8` also in eight bits; see `export`.

    config.json is the source's, with the model's head and labels: programs read classes from it. Its sizes are those of
    the dense model, which nothing that runs the file looks at; `jaxprune_export.json` has the real ones.
    """
    folder = Path(folder)
    check_onnx_installed(int8)
    source = source_config(model)
    model = ready_to_export(model, folder, overwrite, tokenizer)
    for name, leaf in named_parameters(model.params)[0].items():
        check_finite(name, np.asarray(leaf), "the model")
    config = with_head(source, family_of(source, "the model's source_config"), model.architecture)
    graph = graph_of(model.architecture, model.params)
    errors: dict[str, float] = {}
    sizes: dict[str, int] = {}
    sums: dict[str, str] = {}
    warnings = [*beyond_positions(model.architecture, config), *pooled_prompt(model.architecture)]

    def fill(part: Path) -> None:
        for eight, name in ONNX_FILES.items():
            file = part / name
            if eight and not int8:
                continue
            file.parent.mkdir(exist_ok=True)
            if eight:
                write_int8(graph, file)
            else:
                write_onnx(graph, file)
            if has_onnxruntime():
                errors[name] = file_error(model, file, warnings, exact=not eight)
        (part / "config.json").write_text(manifest_text(config), encoding="utf-8")
        warnings.extend(write_tokenizer(model, part))
        write_generation(model, part)
        write_sentence(model, part, {})
        for file in (part / "onnx").iterdir():
            name = file.relative_to(part).as_posix()
            sizes[name], sums[name] = file.stat().st_size, sha256(file)

    def told() -> dict[str, Any]:
        if not has_onnxruntime():
            warnings.append("the ONNX file was not run: onnxruntime is not installed (pip install 'jaxprune[onnx]').")
        made = {"format": "onnx", "int8": int8, "files": [*sizes], "bytes": sizes, "sha256": sums, "errors": errors}
        return manifest_of(model) | {"export": {**made, "warnings": warnings}}

    write_folder(folder, EXPORTED, told, fill, overwrite)
    tell(warnings)
    return Exported(folder, config, sum(sizes.values()), tuple(warnings), "int8" if int8 else "float32", errors)


def beyond_positions(architecture: Architecture, config: Mapping[str, Any]) -> tuple[str, ...]:
    """A warning where config.json promises longer texts than the model reads, and the file takes them."""
    said = config.get("max_position_embeddings")
    if architecture.positions != "rotary" or not isinstance(said, int) or said <= architecture.max_positions:
        return ()
    return (
        f"the ONNX file takes texts of any length, and is right up to {architecture.limit}; config.json says {said}.",
    )


def check_onnx_installed(int8: bool) -> None:
    """Raise `SettingsError` where what writes the files is not installed."""
    needed = ["onnx", *(["onnxruntime"] if int8 else [])]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise SettingsError(f"format 'onnx' needs the package {missing[0]}; pip install 'jaxprune[onnx]'.")


def file_error(model: Model, file: Path, warnings: list[str], exact: bool) -> float:
    """The largest difference between what a file gives and what the model does, on a few rows of random tokens.

    Raises `NumericalError` where a file that is to be `exact` differs by more than rounding.
    """
    program, difference, largest = open_onnx(file), 0.0, 0.0
    for rows, length in PROBES:
        given = probe(model.architecture, rows, length)
        with full_precision():  # the file's products are not rounded either
            expected = np.asarray(logits(model, *given))
        got = program(*given)
        whole = head_of(model.architecture).per_text or model.architecture.patches is not None
        real = np.ones(rows, bool) if whole else given[1] > 0
        difference = max(difference, float(np.abs(got - expected)[real].max()))
        largest = max(largest, float(np.abs(expected)[real].max()))
    if exact and not difference <= TOLERANCE * max(largest, 1.0):
        raise NumericalError(
            f"the ONNX file gives outputs that differ by {difference:.2g} (the largest is {largest:.2g}); nothing was "
            "written, please report it."
        )
    if not exact and not difference <= largest / 4:
        warnings.append(
            f"in eight bits outputs differ by up to {difference:.2g} (the largest is {largest:.2g}) on random tokens; "
            "score the file with load_onnx(folder, int8=True)."
        )
    return difference
