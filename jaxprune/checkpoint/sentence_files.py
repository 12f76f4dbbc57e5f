"""The files by which sentence-transformers knows an embedding model, written from what the model is now."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from ..model.embedding import Embedding
from ..model.model import Model
from .dtypes import rounded
from .sentence import ACTIVATION_CLASSES, MODULES, OLD_MODES, SENTENCE_CONFIG, TRANSFORMER_CONFIGS

_TEXTS = TRANSFORMER_CONFIGS[0]
_IN_FOLDERS = re.compile(r"\d+_(Pooling|Dense)/(config\.json|model\.safetensors)")


def is_sentence_file(name: str) -> bool:
    """Whether a file of a folder of ours is one that `write_sentence` writes."""
    return name in (MODULES, SENTENCE_CONFIG, _TEXTS) or _IN_FOLDERS.fullmatch(name) is not None


def write_sentence(model: Model, folder: Path, types: Mapping[str, str]) -> None:
    """Write modules.json and what it names; nothing for a model that makes no vectors of texts.

    `types` are those of the dense layers' numbers in files, by parameter; float32 where it names none.
    """
    embedding = model.architecture.embedding
    if embedding is None:
        return
    width, modules = model.architecture.output_width, [("Transformer", "")]
    for name, config in _modules(embedding, width):
        modules.append((name, f"{len(modules)}_{name}"))
        if config is not None:
            _write(folder / modules[-1][1] / "config.json", config)
    dense = [path for name, path in modules if name == "Dense"]
    for path, number in zip(dense, range(len(dense)), strict=True):
        layer = model.params["head"][number]
        tensors = {}
        for name, ours, array in (("weight", "kernel", layer["kernel"].T), ("bias", "bias", layer.get("bias"))):
            if array is not None:
                full = f"head.{number}.{ours}"
                tensors[f"linear.{name}"] = rounded(full, array, types.get(full, "float32"))
        save_file(tensors, folder / path / "model.safetensors")
    entries = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{name}"}
        for at, (name, path) in enumerate(modules)
    ]
    _write(folder / MODULES, entries)
    most = {} if embedding.max_tokens is None else {"max_seq_length": embedding.max_tokens}
    _write(folder / _TEXTS, {**most, "do_lower_case": embedding.lower_case})
    said = model.provenance.record.get("sentence_transformers")
    kept = said if isinstance(said, dict) else {}
    prompts = {"prompts": dict(embedding.prompts), "default_prompt_name": embedding.default_prompt}
    _write(folder / SENTENCE_CONFIG, {**kept, **(prompts if embedding.prompts or "prompts" in kept else {})})


def _modules(embedding: Embedding, width: int) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """What follows the encoder, and the settings of each; None: it has none."""
    yield "Pooling", _pooling(embedding, width)
    classes = {ours: theirs for theirs, ours in ACTIVATION_CLASSES.items()}
    for inputs, step in zip(embedding.widths(width)[:-1], embedding.dense, strict=True):
        yield (
            "Dense",
            {
                "in_features": inputs,
                "out_features": step.outputs,
                "bias": step.bias,
                "activation_function": classes[step.activation],
            },
        )
    if embedding.normalize:
        yield "Normalize", None


def _pooling(embedding: Embedding, width: int) -> dict[str, Any]:
    """In the form of versions before 6, which all read, where it can say the order of what is pooled."""
    prompt = {} if embedding.include_prompt else {"include_prompt": False}
    flags = {key: mode in embedding.pooling for key, mode in OLD_MODES.items()}
    if tuple(mode for mode in OLD_MODES.values() if mode in embedding.pooling) == embedding.pooling:
        return {"word_embedding_dimension": width, **flags, **prompt}
    return {"embedding_dimension": width, "pooling_mode": list(embedding.pooling), **prompt}


def _write(file: Path, value: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
