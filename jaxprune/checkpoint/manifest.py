"""Our own folders, read back: `jaxprune.json` says what the model is, `model.safetensors` holds its numbers."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from .. import __version__
from ..errors import CheckpointError, NumericalError, SettingsError
from ..jsonio import plain
from ..model.architecture import Architecture, LayerSizes
from ..model.attention_kinds import ATTENTION_KINDS
from ..model.model import Model, Params, Provenance
from ..model.shapes import parameter_shapes
from .files import inside, listed, one_line, read_json, shards
from .read import FLOATS

FORMAT_VERSION = 1
MANIFEST = "jaxprune.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = ("float32", "bfloat16", "auto")  # that parameters can be loaded in; auto: bfloat16 where the file is
SAVED = ("float32", "bfloat16", "float16")  # that they are written in
EXPORTED = "jaxprune_export.json"  # marks a folder for other programs as written by us; `load` passes it over
_RUN_WITH = {"onnx": "jaxprune.load_onnx", "stablehlo": "jax.export", "gguf": "llama.cpp"}  # folders that are programs
# Of an ONNX export, where transformers.js and optimum look for it: {in eight bits: the file}.
ONNX_FILES = {False: "onnx/model.onnx", True: "onnx/model_quantized.onnx"}


def manifest_of(model: Model) -> dict[str, Any]:
    """What `jaxprune.json` will say of `model`, as plain JSON values: NaN and infinities become null.

    The record's own "source" stays, so that a folder that was loaded, tuned and saved again still names the dense
    model that it was cut from. Of a model from the hub that is its id, with revision and commit under "hub".
    """
    provenance = model.provenance
    return plain(
        {
            **provenance.record,
            "format_version": FORMAT_VERSION,
            "architecture": asdict(model.architecture),
            "source": provenance.record.get("source") or provenance.source,
            "versions": {"jaxprune": __version__, "jax": jax.__version__, "numpy": np.__version__},
            "warnings": list(dict.fromkeys([*provenance.warnings, *provenance.record.get("warnings", [])])),
        }
    )


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """Valid JSON with one line per entry: indices of kept units would otherwise fill thousands of lines."""
    lines = [
        f"  {json.dumps(name)}: {json.dumps(entry, ensure_ascii=False, allow_nan=False)}"
        for name, entry in manifest.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_manifest(folder: str | Path, name: str = MANIFEST) -> dict[str, Any]:
    """The contents of a folder's `jaxprune.json`, or of an exported one's file, by its name.

    Raises `CheckpointError` where it is not one that we can read.
    """
    path = Path(folder) / name
    manifest = read_json(path, f"give a folder that jaxprune {'saved' if name == MANIFEST else 'exported'}")
    version = manifest.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CheckpointError(f"{path} has format_version {version!r}, expected {FORMAT_VERSION}; save the model anew.")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format_version {version}, this jaxprune reads up to {FORMAT_VERSION}; "
            "install a newer jaxprune."
        )
    if not isinstance(manifest.get("architecture"), dict):
        raise CheckpointError(f"{path} has no architecture; save the model anew.")
    warnings = manifest.get("warnings", [])
    if not isinstance(warnings, list) or not all(isinstance(entry, str) for entry in warnings):
        raise CheckpointError(f"{path} has warnings {str(warnings)[:60]!r}, expected a list of texts.")
    return manifest


def check_no_program(folder: Path) -> None:
    """Raise `CheckpointError` for a folder that was exported as a program: its config.json has no weights beside it."""
    try:
        kind = read_manifest(folder, EXPORTED).get("export", {}).get("format")
    except CheckpointError:  # there is none, or it is nothing that a checkpoint needs
        return
    if kind in _RUN_WITH:
        run = f"run it with {_RUN_WITH[kind]}"
        raise CheckpointError(f"{folder} is an export in the format {kind}; {run}, or load what it was exported from.")


def load_own(folder: str | Path, dtype: str = "float32", host: bool = False) -> Model:
    """The model in a folder that `save` wrote; its logits are the saved model's, to the bit (see `save` on `dtype`).

    Parameters are JAX arrays that own their memory, or with `host` NumPy arrays, of `dtype` (see `load`). The
    provenance names `folder` as the source, and the whole manifest is its record.

    Raises `CheckpointError` for a damaged, incomplete or newer folder and `NumericalError` for NaN or Inf.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    architecture = architecture_of(manifest["architecture"], str(folder / MANIFEST))
    params, types = _read_params(folder, architecture, dtype, host)
    return Model(architecture, params, Provenance(str(folder), manifest, tuple(manifest.get("warnings", [])), types))


# --- the architecture


def architecture_of(entry: Mapping[str, Any], where: str = MANIFEST) -> Architecture:
    """The architecture that `entry`, a JSON object, describes. Raises `CheckpointError` naming the field at fault."""
    layers = entry.get("layers")
    if not isinstance(layers, list):
        raise CheckpointError(f"{where}: architecture.layers is {str(layers)[:60]!r}, expected a list.")
    sizes = tuple(_checked(LayerSizes, layer, f"{where}: architecture.layers[{i}]") for i, layer in enumerate(layers))
    try:
        return _checked(Architecture, {**_with_attention(entry, where), "layers": sizes}, f"{where}: architecture")
    except SettingsError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _with_attention(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`entry` with its attention as one of `ATTENTION_KINDS`; folders of earlier releases have a window, or null."""
    values = dict(entry)
    if "window" in values:
        window = values.pop("window")
        values.setdefault("attention", {"kind": "full"} if window is None else {"kind": "window", "size": window})
    if "attention" not in values:
        return values
    given = values["attention"]
    return {**values, "attention": _tagged(ATTENTION_KINDS, given, f"{where}: architecture.attention")}


def _tagged(kinds: Mapping[str, type], given: Any, where: str) -> Any:
    """The dataclass that an object's "kind" names."""
    kind = given.get("kind") if isinstance(given, Mapping) else None
    if not isinstance(kind, str) or kind not in kinds:
        known = ", ".join(kinds)
        raise CheckpointError(f"{where} is {str(given)[:60]!r}, expected an object whose kind is one of {known}.")
    return _checked(kinds[kind], given, where)


def _checked(kind: type, entry: Any, where: str) -> Any:
    """`kind(**entry)` for a frozen dataclass, once names and types are known to fit."""
    if not isinstance(entry, Mapping):
        raise CheckpointError(f"{where} is {str(entry)[:60]!r}, expected an object.")
    hints = get_type_hints(kind)
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    for complaint, names in (("lacks", needed - entry.keys()), ("has unknown", entry.keys() - hints.keys())):
        if names:
            raise CheckpointError(f"{where} {complaint} {', '.join(sorted(names))}; save the model anew.")
    values = {name: _read(value, hints[name], f"{where}.{name}") for name, value in entry.items()}
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise CheckpointError(f"{where}.{name} is {str(entry[name])[:60]!r}, expected {_words(hints[name])}.")
    return kind(**values)


def _read(value: Any, hint: Any, where: str) -> Any:
    """A value as it was before it was JSON: lists are tuples, objects dataclasses."""
    if isinstance(value, list):
        inner = get_args(hint)[0] if get_origin(hint) is tuple else None
        return tuple(_read(item, inner, where) for item in value)
    kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)]
    if not kinds or not isinstance(value, Mapping):
        return value
    if len(kinds) == 1:
        return _checked(kinds[0], value, where)
    return _tagged({str(kind.__dataclass_fields__["kind"].default): kind for kind in kinds}, value, where)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if isinstance(hint, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if not isinstance(value, tuple) or (kinds[-1] is not Ellipsis and len(value) != len(kinds)):
            return False
        return all(_fits(item, kinds[0]) for item in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)


# --- the tensors


def named_parameters(tree: Any) -> tuple[dict[str, Any], Any]:
    """Leaves under their dotted paths ("layers.0.attention.q.kernel"), and the structure; a shape counts as a leaf."""
    flat, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, tuple))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in flat}, structure


def check_shapes(shapes: Mapping[str, tuple[int, ...]], architecture: Architecture, where: str) -> None:
    """Raise `CheckpointError` unless `shapes` are the tensors that `architecture` has, no fewer and no more."""
    expected, _ = named_parameters(parameter_shapes(architecture))
    complaints = {
        "missing": [f"{name} {list(shape)}" for name, shape in expected.items() if name not in shapes],
        "extra": [f"{name} {list(shape)}" for name, shape in shapes.items() if name not in expected],
        "misshapen": [
            f"{name} is {list(shape)}, expected {list(expected[name])}"
            for name, shape in shapes.items()
            if name in expected and tuple(shape) != expected[name]
        ],
    }
    parts = [f"{complaint}: {listed(names)}" for complaint, names in complaints.items() if names]
    if parts:
        raise CheckpointError(f"the tensors of {where} do not fit its architecture; {'; '.join(parts)}.")


def check_finite(name: str, array: np.ndarray, where: str) -> None:
    """Raise `NumericalError` where `array` holds NaN or Inf."""
    if not np.isfinite(array).all():
        raise NumericalError(f"tensor {name} of {where} holds NaN or Inf; go back to a model whose numbers are finite.")


def check_all_finite(params: Params, where: str) -> None:
    """Raise `NumericalError` for the first parameter that holds NaN or Inf."""
    for path, leaf in named_parameters(params)[0].items():
        check_finite(path, np.asarray(leaf), where)


def stored_type(of_file: str, asked: str) -> Any:
    """The type of a parameter that a file has in type `of_file`, where `asked` is one of `DTYPES`."""
    return jnp.dtype("bfloat16" if asked == "bfloat16" or (asked, of_file) == ("auto", "bfloat16") else "float32")


def check_saved_type(dtype: str) -> None:
    """Raise `SettingsError` for a type that folders are not written in."""
    if dtype not in SAVED:
        raise SettingsError(f"dtype is {dtype!r}, expected one of {', '.join(SAVED)}.")


def _read_params(folder: Path, architecture: Architecture, dtype: str, host: bool) -> tuple[Params, dict[str, str]]:
    """The parameters, and their types in the files. Shapes are checked from the headers, before any number is read."""
    owner: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, str] = {}
    files = shards(inside(folder, INDEX), ".safetensors") if (folder / INDEX).exists() else [WEIGHTS]
    for name in files:
        try:
            file = safe_open(inside(folder, name), framework="numpy")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder / name} is missing or damaged ({one_line(error)}); copy it anew."
            ) from error
        for key in file.keys():  # noqa: SIM118 - a safetensors file is no dict
            if key in owner:
                raise CheckpointError(f"{folder} holds tensor {key} in two files; save the model anew.")
            view = file.get_slice(key)
            owner[key], shapes[key] = file, tuple(view.get_shape())
            types[key] = FLOATS.get(str(view.get_dtype()), str(view.get_dtype()))
            if types[key] not in SAVED:
                raise CheckpointError(
                    f"tensor {key} of {folder} is {types[key]}, expected one of {', '.join(SAVED)}; save it anew."
                )
    check_shapes(shapes, architecture, str(folder))
    names, structure = named_parameters(parameter_shapes(architecture))
    leaves = []
    for name in names:
        array = owner[name].get_tensor(name)
        check_finite(name, array, str(folder))
        # A copy: jnp.asarray would share NumPy's memory.
        leaves.append((np.array if host else jnp.array)(array, stored_type(types[name], dtype)))
    return structure.unflatten(leaves), types
