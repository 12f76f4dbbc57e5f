"""generation_config.json: which tokens end a text, and what transformers' `generate` would do that ours does not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..model.heads import head_of
from ..model.model import Model
from .files import inside, read_json

GENERATION = "generation_config.json"
# What of it decides how transformers draws, and from where on; read by it only where do_sample is on.
_DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")
# What changes the tokens that it takes, with the value that changes nothing (beside null, false and empty ones).
_CHANGING = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "guidance_scale": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "bad_words_ids": None,
    "force_words_ids": None,
    "constraints": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "exponential_decay_length_penalty": None,
    "penalty_alpha": None,
    "dola_layers": None,
    "stop_strings": None,
    "max_time": None,
    "watermarking_config": None,
    "token_healing": False,
    "remove_invalid_values": False,
}


def read_generation(folder: str | Path) -> dict[str, Any] | None:
    """The generation_config.json of a folder, None where there is none. Raises `CheckpointError` for a damaged one."""
    path = inside(Path(folder), GENERATION)
    return read_json(path, "copy it anew") if path.exists() else None


def asked_of_generate(model: Model) -> tuple[str, dict[str, Any]]:
    """What says how transformers' `generate` takes tokens, and that: without a generation_config.json a config.json."""
    source = model.provenance.source
    config = None if source is None else read_generation(source)
    if config is not None:
        return GENERATION, config
    said = model.provenance.record.get("source_config") or {}
    names = {*_DRAWING, *_CHANGING, "do_sample"}
    return "config.json", {name: value for name, value in said.items() if name in names}


def end_ids(config: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """The tokens that end a text, by the eos_token_id of a config.json or generation_config.json: one, several, none.

    Negative numbers are no tokens: transformers takes them for "none", too. Raises `CheckpointError` for anything else.
    """
    given = config.get("eos_token_id")
    ids = [] if given is None else given if isinstance(given, list) else [given]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in ids):
        raise CheckpointError(f"{where}: eos_token_id is {str(given)[:60]!r}, expected token ids.")
    return tuple(number for number in ids if number >= 0)


def ends_in(folder: str | Path, otherwise: tuple[int, ...]) -> tuple[int, ...]:
    """What ends a text by a folder's generation_config.json; without that file it is what config.json says.

    A generation_config.json without eos_token_id means that nothing does, whatever config.json says: so it is in
    transformers.
    """
    config = read_generation(folder)
    return otherwise if config is None else end_ids(config, str(Path(folder) / GENERATION))


def write_generation(model: Model, folder: Path) -> None:
    """Bring the source's generation_config.json along, with the end tokens that the model has now.

    Where the source has none, one is written only if config.json would say other end tokens.
    """
    a, notes = model.architecture, model.provenance
    if not head_of(a).generates:
        return
    try:
        config = None if notes.source is None else read_generation(notes.source)
        said = notes.record.get("source_config") if config is None else config
        known = end_ids(said, "the model's source") if isinstance(said, dict) else a.end_ids
    except CheckpointError:  # a link that leads elsewhere, or damaged since it was read
        config, known = None, None
    if known != a.end_ids:
        ends = list(a.end_ids)
        config = {**(config or {}), "eos_token_id": ends[0] if len(ends) == 1 else ends or None}
    if config is not None:
        (folder / GENERATION).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def unapplied(config: Mapping[str, Any], drawing: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings of a generation_config.json that transformers' `generate` follows and ours does not.

    `drawing` are our own settings; what was asked for by them is the caller's choice.
    """
    active = {key: value for key, value in config.items() if value is not None and value is not False and value != []}
    names = [name for name, neutral in _CHANGING.items() if name in active and active[name] != neutral]
    if active.get("do_sample"):
        drawn = bool(drawing.get("temperature"))
        given = {name for name in _DRAWING if drawing.get(name) is not None} if drawn else set()
        names += [] if drawn else ["do_sample"]
        names += [name for name in _DRAWING if name in active and name not in given]
    return tuple(f"{name} {json.dumps(active[name])[:60]}" for name in names)


def strange(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Of settings for transformers' `generate`, those that no generation_config.json has."""
    known = {*_DRAWING, *_CHANGING, "do_sample"}
    return tuple(
        f"{name} {json.dumps(value, default=str)[:60]}" for name, value in settings.items() if name not in known
    )
