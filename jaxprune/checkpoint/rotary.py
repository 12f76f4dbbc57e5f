"""Rotary frequencies from a checkpoint's settings, with the scalings that stretch a model's context.

Plain: Su et al., RoFormer, 2021. linear: Chen et al., Position Interpolation, 2023. llama3: Llama 3.1's smooth mix of
stretched and plain. yarn: Peng et al., YaRN, 2023. dynamic: plain up to the length that the model was made for, and
no longer texts. Computed in float32, as the checkpoints' own code does, so that angles agree at late positions.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointError

KINDS = ("default", "linear", "dynamic", "llama3", "yarn")
KEYS = ("rope_theta", "rope_scaling", "rope_parameters")  # of config.json: two older, one that replaces both


class Rotary(NamedTuple):
    frequencies: tuple[float, ...]  # radians a position, one for each pair of features
    scale: float  # times sine and cosine


def rotary_of(config: Mapping[str, Any], width: int, positions: int, where: str) -> Rotary:
    """What `config` says of rotary positions. Raises `CheckpointError` for a scaling that we do not know.

    `width` is that of a head, `positions` the longest text.
    """
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"{where}: the rotary settings are {str(settings)[:60]!r}, expected an object.")
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind not in KINDS:
        raise CheckpointError(f"{where}: rotary scaling {kind!r} is not known, only {', '.join(KINDS)}.")
    if settings.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise CheckpointError(f"{where}: partial_rotary_factor is not 1; rotating a part of a head is not supported.")
    if width % 2:
        raise CheckpointError(f"{where}: heads of width {width} cannot be rotated in pairs.")

    def number(key: str, default: float | None = None) -> float:
        found = settings.get(key, default)
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < float("inf"):
            raise CheckpointError(f"{where}: {key} of the rotary settings is {found!r}, expected a positive number.")
        return float(found)

    theta = settings.get("rope_theta") or config.get("rope_theta") or 10000.0
    settings = {**settings, "rope_theta": theta}
    steps = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    plain = (1.0 / np.float32(number("rope_theta")) ** steps).astype(np.float32)
    if kind in ("default", "dynamic"):
        return _rotary(plain)
    factor = number("factor")
    if kind == "linear":
        return _rotary(plain / np.float32(factor))
    # Lengths before stretching; a config that does not say means its own.
    made_for = number("original_max_position_embeddings", float(positions))
    if kind == "llama3":
        return _rotary(_llama3(plain, factor, number("low_freq_factor"), number("high_freq_factor"), made_for))
    fast, slow = number("beta_fast", 32.0), number("beta_slow", 1.0)
    stretched = _yarn(plain, theta, factor, fast, slow, made_for, bool(settings.get("truncate", True)))
    if settings.get("attention_factor") is not None:
        return _rotary(stretched, number("attention_factor"))
    if settings.get("mscale") and settings.get("mscale_all_dim"):
        up, down = (_yarn_scale(factor, number(key)) for key in ("mscale", "mscale_all_dim"))
        return _rotary(stretched, up / down)
    return _rotary(stretched, _yarn_scale(factor, 1.0))


def _rotary(frequencies: np.ndarray, scale: float = 1.0) -> Rotary:
    return Rotary(tuple(float(frequency) for frequency in frequencies.astype(np.float32)), scale)


def _llama3(plain: np.ndarray, factor: float, low: float, high: float, made_for: float) -> np.ndarray:
    """Waves longer than `made_for` / low are stretched, shorter ones than `made_for` / high left, others mixed."""
    turns = made_for * plain / np.float32(2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return (1 - smooth) * plain / np.float32(factor) + smooth * plain


def _yarn(
    plain: np.ndarray, theta: float, factor: float, fast: float, slow: float, made_for: float, truncate: bool
) -> np.ndarray:
    """Features that turn more than `fast` times within `made_for` are left, less than `slow` times are stretched."""
    width = 2 * len(plain)

    def feature(turns: float) -> float:
        return width * math.log(made_for / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = feature(fast), feature(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    high = high + 0.001 if low == high else high
    ramp = np.clip((np.arange(len(plain), dtype=np.float32) - low) / (high - low), 0, 1).astype(np.float32)
    return plain / np.float32(factor) * ramp + plain * (1 - ramp)


def _yarn_scale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
