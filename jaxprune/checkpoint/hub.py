"""Where a checkpoint lies: a folder, or a name on the Hugging Face hub that is brought here first."""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError
from .files import ADAPTER, one_line
from .generation import GENERATION
from .image_settings import IMAGE_FILES
from .manifest import MANIFEST
from .sentence import MODULES, SENTENCE_CONFIG, TRANSFORMER_CONFIGS, module_folders
from .tokenizer_files import TEMPLATES, TOKENIZER_FILES

# Small files and the format we prefer; the other formats are fetched only where it is missing.
_PATTERNS = (
    "config.json",
    ADAPTER,
    MODULES,
    SENTENCE_CONFIG,
    *TRANSFORMER_CONFIGS,
    MANIFEST,
    GENERATION,
    *TOKENIZER_FILES,
    f"{TEMPLATES}/*.jinja",
    *IMAGE_FILES,
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
)
_OTHERS = (
    ("flax_model*.msgpack", "flax_model.msgpack.index.json"),
    ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class Located(NamedTuple):
    """Where a checkpoint lies on this machine, and what to record of where it came from."""

    folder: Path
    record: dict[str, Any]  # of a hub model {"source": its id, "hub": {"revision": as asked, "commit": …}}; else empty


def locate(source: str | Path, revision: str | None = None) -> Located:
    """The folder of a checkpoint; a hub id becomes a snapshot in the hub's cache, from which it is read when offline.

    Only a text can be a hub id. Raises `CheckpointError` where there is neither such a folder nor such a model.
    """
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
        raise CheckpointError(
            f"the checkpoint to load is {source!r}, expected a text or path; give a checkpoint's folder or a hub id "
            "such as org/name."
        )
    folder = Path(os.path.expanduser(source))  # which leaves a user that is none
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(f"{source} is a folder, which has no revision {revision!r}; leave the revision out.")
        return Located(folder, {})
    if folder.exists():
        raise CheckpointError(f"{source} is a file, expected a checkpoint's folder; give the folder it lies in.")
    if isinstance(source, os.PathLike) or not _HUB_ID.fullmatch(source):
        raise CheckpointError(f"there is no folder {source}; give a checkpoint's folder or a hub id such as org/name.")
    folder = _snapshot(source, revision)
    # The cache names a snapshot by its commit: models--org--name/snapshots/<commit>.
    commit = folder.name if folder.parent.name == "snapshots" else None
    return Located(folder, {"source": source, "hub": {"revision": revision, "commit": commit}})


def _snapshot(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    def fetch(*patterns: str) -> Path:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))

    def fetch_part(place: str) -> Path:
        """The files of the model, or of one of its modules, whose folder is `place` ("1_Pooling/")."""
        folder = fetch(*(place + pattern for pattern in _PATTERNS))
        for patterns in _OTHERS:
            if any((folder / place).glob("*.safetensors")) or any((folder / place).glob("flax_model*.msgpack")):
                break
            folder = fetch(*(place + pattern for pattern in patterns))
        return folder

    try:
        folder = fetch_part("")
        for place in module_folders(folder):
            fetch_part(f"{place}/")
    except CheckpointError:  # modules.json says what is no module
        raise
    except Exception as error:  # the hub's client raises errors of several packages, for network, login, name and disk
        raise CheckpointError(
            f"there is no folder {name}, and the hub does not give a model of that name ({one_line(error)}); give a "
            "checkpoint's folder or a hub id such as org/name."
        ) from error
    return folder
