"""Small steps that reading and writing share: JSON with named errors, files that must lie inside a folder."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # files of the hub's cache are named by their hash
ADAPTER = "adapter_config.json"  # of PEFT
NAMED = 5  # so many tensors are named in an error; the rest are counted


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """The object in a JSON file. Raises `CheckpointError`; `hint` says what to do where the file is missing."""
    return _read_json(path, hint, dict, "an object")


def read_json_list(path: Path, hint: str) -> list[Any]:
    """The list in a JSON file; `hint` and errors as `read_json`."""
    return _read_json(path, hint, list, "a list")


def _read_json(path: Path, hint: str, kind: type, expected: str) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; {hint}.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({one_line(error)}); copy it anew.") from error
    if not isinstance(value, kind):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected {expected}; copy it anew.")
    return value


def inside(folder: Path, name: str) -> Path:
    """The path of a file that must lie in `folder`. Raises `CheckpointError` where a name or a link leads elsewhere.

    Links are followed within the folder, in a snapshot of the hub's cache to the files of the same repository, and from
    any folder into such a cache: older clients of the hub filled a local folder with links.
    """
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name:
        raise CheckpointError(f"{folder} names the file {name!r}, which is not in that folder; nothing was read.")
    path, home = folder / name, folder.resolve()
    if home.parent.name == "snapshots":  # models--org--name/snapshots/<commit>/file -> ../../blobs/<hash>
        home = home.parent.parent
    if path.exists() and not (target := path.resolve()).is_relative_to(home) and not _in_cache(target):
        raise CheckpointError(f"{path} is a link to a place outside its folder; copy the file itself there.")
    return path


def _in_cache(path: Path) -> bool:
    """True for a file of the hub's cache: models--org--name/blobs/<hash>."""
    blobs = path.parent
    return blobs.name == "blobs" and blobs.parent.name.startswith("models--") and bool(_BLOB.fullmatch(path.name))


def shards(index: Path, suffix: str) -> list[str]:
    """The files that an index of a sharded checkpoint names. Raises `CheckpointError` for any but plain file names."""
    places = read_json(index, "copy it anew").get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index} has no weight_map; copy it anew.")
    files = sorted(set(places.values()))
    for name in files:
        if Path(name).name != name or "\\" in name or not name.endswith(suffix):
            raise CheckpointError(f"{index} names {name!r}, which is no {suffix[1:]} file of this folder.")
    return files


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed(names: Sequence[str]) -> str:
    """The first few names; the others are counted."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
