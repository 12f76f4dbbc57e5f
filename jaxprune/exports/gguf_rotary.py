"""Rotary frequencies as a GGUF file says them: a base, a scaling that llama.cpp computes, or a divisor for each.

Phi-3 has two divisors for each: llama.cpp takes the long ones where its context (not the text) is longer than the model
was made for.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ..checkpoint.families import Family
from ..checkpoint.rotary import MADE_FOR, by_type, renamed, settings_of
from ..checkpoint.sliding import FULL
from ..errors import CheckpointError
from ..model.architecture import Architecture
from .gguf_layout import Layout

_WHERE = "the model's source_config"
_CONTEXTS = 256  # tokens; llama.cpp's contexts are multiples of it
_CLOSE = 1e-5  # relative: llama.cpp multiplies float32 steps, where checkpoints' code takes powers


class RotaryWritten(NamedTuple):
    """Keys without the architecture's name before each, and tensors of what each plain frequency is divided by."""

    keys: dict[str, Any]
    tensors: Mapping[str, np.ndarray] = MappingProxyType({})


def rotary_written(family: Family, source: Mapping[str, Any], a: Architecture, layout: Layout) -> RotaryWritten | None:
    """What a file says of a model's rotary positions; None where it cannot be said.

    `source` is the checkpoint's config.json, which names the base and the kind of scaling. What llama.cpp makes of it
    has to be what the model computes; where not, and where there is a tensor for it, frequencies are told one by one.
    """
    by_kind = by_type(source, family.rotary_bases, family.scaled_types, _WHERE)
    own = by_kind.get(FULL) or renamed(source, family.rotary_names, _WHERE, family.defaults.get(MADE_FOR))
    _, settings = settings_of(own, _WHERE)
    base = float(settings.get("rope_theta") or own.get("rope_theta") or family.defaults.get("rope_theta", 10000.0))
    keys = {"rope.dimension_count": 2 * len(a.rotary), "rope.freq_base": base}
    if layout.full_every:
        in_windows = _base_in_windows(a, layout)
        if in_windows is None:
            return None
        keys["rope.freq_base_swa"] = in_windows
    scaling = _scaling(own, settings, a)
    if scaling is not None and _agrees(scaling, base, a):
        # llama.cpp scales by YaRN in all layers, and linearly in those that see all tokens alone.
        return (
            None if layout.full_every and scaling.get("rope.scaling.type") == "yarn" else RotaryWritten(keys | scaling)
        )
    keys |= {} if a.rotary_scale == 1.0 else {"rope.scaling.attn_factor": a.rotary_scale}
    divisors = (_plain(base, 2 * len(a.rotary)) / np.array(a.rotary)).astype(np.float32)
    if layout.factors:
        return RotaryWritten(keys, {"rope_freqs.weight": divisors})
    if layout.long_factors and settings.get("rope_type", settings.get("type")) == "longrope":
        # llama.cpp rounds its contexts up, also the one that the file names, and compares after that.
        keys["rope.scaling.original_context_length"] = math.ceil(a.max_positions / _CONTEXTS) * _CONTEXTS
        long = _long_factors(settings, len(a.rotary))
        return RotaryWritten(keys, {"rope_factors_long.weight": long, "rope_factors_short.weight": divisors})
    return None


def _long_factors(settings: Mapping[str, Any], count: int) -> np.ndarray:
    """The divisors for longer texts than the model was made for, which we do not read ourselves."""
    given = settings.get("long_factor")
    numbers = given if isinstance(given, list) else []
    plain = all(isinstance(entry, (int, float)) and not isinstance(entry, bool) and entry > 0 for entry in numbers)
    if not plain or len(numbers) != count:
        raise CheckpointError(
            f"{_WHERE}: long_factor of the rotary settings is {str(given)[:60]!r}, expected {count} numbers."
        )
    return np.array(numbers, np.float32)


def _base_in_windows(a: Architecture, layout: Layout) -> float | None:
    """The base of the layers with windows, which turn without any scaling; None where they do not.

    Frequencies are powers of it, the last nearly its inverse.
    """
    kinds = {a.of_layer(number) for number in range(len(a.layers)) if layout.slides(number)}
    turns = {(kind.rotary, kind.rotary_scale) for kind in kinds} or {(a.rotary, a.rotary_scale)}
    frequencies, scale = min(turns)
    features = 2 * len(frequencies)
    base = frequencies[-1] ** (-features / (features - 2)) if features > 2 else 10000.0
    base = float(round(base)) if abs(base - round(base)) < 1e-6 * base else base
    plain = np.allclose(frequencies, _plain(base, features), rtol=_CLOSE, atol=0)
    return base if plain and scale == 1.0 and len(turns) == 1 else None


def _scaling(source: Mapping[str, Any], settings: Mapping[str, Any], a: Architecture) -> dict[str, Any] | None:
    """The keys of a scaling that llama.cpp computes by itself, as its converter writes them."""
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind == "default":
        return {}
    positions = float(source.get("max_position_embeddings") or a.max_positions)
    given = source.get("original_max_position_embeddings") or settings.get("original_max_position_embeddings")
    made_for = float(given or positions)
    factor = float(settings.get("factor") or positions / made_for)
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": factor}
    if kind != "yarn":
        return None
    keys = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": int(made_for),
    }
    for name in ("beta_fast", "beta_slow"):
        if settings.get(name) is not None:
            keys[f"rope.scaling.yarn_{name}"] = float(settings[name])
    beside = a.rotary_scale / _yarn_scale(factor)
    # Not yarn_attn_factor, as llama.cpp's converter has it: llama.cpp replaces that by its own.
    return keys if abs(beside - 1) < _CLOSE else keys | {"rope.scaling.attn_factor": beside}


def _agrees(keys: Mapping[str, Any], base: float, a: Architecture) -> bool:
    """Whether llama.cpp computes the model's frequencies from these keys."""
    frequencies, scale = read_frequencies(keys, base, 2 * len(a.rotary))
    return bool(np.allclose(frequencies, a.rotary, rtol=_CLOSE, atol=0)) and abs(scale / a.rotary_scale - 1) < _CLOSE


def read_frequencies(keys: Mapping[str, Any], base: float, width: int) -> tuple[np.ndarray, float]:
    """Radians a position for each pair of features, and what multiplies sine and cosine, as llama.cpp reads keys.

    Source: llama.cpp, ggml/src/ggml-cpu/ops.cpp, `rope_yarn`, and src/llama-context.cpp for the factor.
    """
    plain = _plain(base, width)
    factor, scale = keys.get("rope.scaling.factor", 1.0), keys.get("rope.scaling.attn_factor", 1.0)
    if keys.get("rope.scaling.type") != "yarn":
        return plain / factor, scale
    made_for = keys["rope.scaling.original_context_length"]

    def feature(turns: float) -> float:
        return width * math.log(made_for / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(feature(keys.get("rope.scaling.yarn_beta_fast", 32.0))), 0)
    high = min(math.ceil(feature(keys.get("rope.scaling.yarn_beta_slow", 1.0))), width - 1)
    kept = 1 - np.clip((np.arange(width // 2) - low) / max(high - low, 0.001), 0, 1)
    return plain / factor * (1 - kept) + plain * kept, scale * _yarn_scale(factor)


def _plain(base: float, width: int) -> np.ndarray:
    return base ** -(np.arange(0, width, 2) / width)


def _yarn_scale(factor: float) -> float:
    return 1 + 0.1 * math.log(factor)
