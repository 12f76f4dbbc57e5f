"""Tensors by name from a folder, whatever format they are in: safetensors, Flax msgpack, or torch's `.bin`."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, NumericalError
from .pickle_free import read_bin

# In this order: the first that is there is read.
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
FLAX = ("flax_model.msgpack",)
BIN = ("pytorch_model.bin", "pytorch_model.bin.index.json")
HUB_PATTERNS = ("*.json", "*.safetensors", "*.msgpack", "pytorch_model*.bin", "*.txt")


def resolve(source: str | Path, revision: str | None = None) -> Path:
    """The folder a checkpoint lies in: a local folder, or a hub id's snapshot (from the cache when offline)."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    name = str(source)
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(f"{name} is neither a folder nor a hub id such as org/name; check the path.")
    from huggingface_hub import snapshot_download  # late: only hub ids need it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(HUB_PATTERNS)))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{name} is no folder here, and the hub did not give it: {reason}") from error


def read_json(path: Path) -> Any:
    """A JSON file's contents, with errors that name the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; a checkpoint folder needs it.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); fetch it again.") from error


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, the best format first found; for an index, its shards."""
    for name in (*SAFETENSORS, *FLAX, *BIN):
        path = folder / name
        if not path.exists():
            continue
        if not name.endswith(".index.json"):
            return [path]
        index = read_json(path)
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict) or not shards:
            raise CheckpointError(f"{path} has no weight_map; fetch it again.")
        files = sorted(set(shards.values()))
        for file in files:
            if Path(file).name != file:
                raise CheckpointError(f"{path} names {file!r}; shards must lie in the folder itself.")
            if not (folder / file).exists():
                raise CheckpointError(f"{folder / file} is missing, but {path.name} names it; fetch it again.")
        return [folder / file for file in files]
    raise CheckpointError(
        f"{folder} has no weights; expected one of {', '.join((*SAFETENSORS, *FLAX, *BIN))}."
    )


def read_tensors(folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """All tensors of a checkpoint folder, floats as float32, and their layout: "torch" or "flax".

    Raises `CheckpointError` for files that are missing, truncated, garbage or unsafe, `NumericalError` for NaN or Inf.
    """
    files = weight_files(folder)
    flax = files[0].name in FLAX
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        if flax:
            tensors |= _read_msgpack(file)
        elif file.suffix == ".bin":
            tensors |= read_bin(file)
        else:
            tensors |= _read_safetensors(file)
    out = {}
    for name, value in tensors.items():
        if value.dtype.kind in "fV" or value.dtype.name in ("bfloat16", "float8_e4m3fn"):
            value = np.asarray(value, np.float32)
            if not np.isfinite(value).all():
                raise NumericalError(f"{name} in {folder} holds NaN or Inf; the checkpoint is damaged, use another copy.")
        out[name] = value
    return out, "flax" if flax else "torch"


def source_hash(folder: Path) -> str:
    """SHA-256 over the weight files, in the order of their names."""
    digest = hashlib.sha256()
    for file in weight_files(folder):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); fetch it again.") from error


def _read_msgpack(path: Path) -> dict[str, np.ndarray]:
    from flax.serialization import msgpack_restore  # late: takes a second to import

    try:
        tree = msgpack_restore(path.read_bytes())
    except Exception as error:  # msgpack raises several kinds of its own
        raise CheckpointError(f"{path} is not a whole Flax msgpack file ({error}); fetch it again.") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} holds no tree of parameters; expected a Flax model's.")
    flat: dict[str, np.ndarray] = {}

    def walk(prefix: str, node: Any) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(f"{prefix}{key}.", value)
            else:
                flat[f"{prefix}{key}"] = np.asarray(value)

    walk("", tree.get("params", tree))
    return flat
