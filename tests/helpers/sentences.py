"""Folders of sentence-transformers, tiny and random, for any test; no torch, no download."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.helpers import tiny
from tests.helpers.words import VOCABULARY, write_tokenizer

HIDDEN = 12
MODES = (
    "pooling_mode_cls_token",
    "pooling_mode_max_tokens",
    "pooling_mode_mean_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
)


def write_json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


def write_folder(
    folder: Path,
    modes: tuple[str, ...] = ("pooling_mode_mean_tokens",),
    dense: tuple[tuple[int, str], ...] = (),
    normalize: bool = True,
    inner: str = "",
    family: str = "bert",
    **settings: Any,
) -> Path:
    """An encoder in the folder, or in a folder of it that is called `inner`, and the files that make it a model of
    sentences. `dense` are (outputs, activation) of every dense layer, `settings` those of the whole model."""
    config = tiny.config(family, "none", vocab_size=len(VOCABULARY))
    tiny.write(folder / inner, config, tiny.tensors(config))
    write_tokenizer(folder / inner)
    classes = ["Transformer", "Pooling", *["Dense"] * len(dense), *["Normalize"] * normalize]
    paths = [inner, *(f"{at}_{name}" for at, name in enumerate(classes) if at)]
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{name}"}
        for at, (name, path) in enumerate(zip(classes, paths, strict=True))
    ]
    write_json(folder / "modules.json", modules)
    pooling = {mode: mode in modes for mode in MODES[:4]} | {mode: True for mode in modes}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, **pooling})
    random, inputs = np.random.RandomState(1), HIDDEN * len(modes)
    for (outputs, activation), path in zip(dense, paths[2:], strict=False):
        write_json(
            folder / path / "config.json",
            {"in_features": inputs, "out_features": outputs, "bias": True, "activation_function": activation},
        )
        weight = random.normal(0, 0.4, (outputs, inputs)).astype(np.float32)
        bias = random.normal(0, 0.4, outputs).astype(np.float32)
        save_file({"linear.weight": weight, "linear.bias": bias}, folder / path / "model.safetensors")
        inputs = outputs
    write_json(folder / inner / "sentence_bert_config.json", {"max_seq_length": 12, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"__version__": {}, **settings})
    return folder
