"""Rotary frequencies from a checkpoint's settings, with the scalings that stretch a model's context.

Plain: Su et al., RoFormer, 2021. linear: Chen et al., Position Interpolation, 2023. llama3: Llama 3.1's smooth mix of
stretched and plain. yarn: Peng et al., YaRN, 2023. dynamic: plain up to the length that the model was made for, then a
base that grows with the text. Computed in float32, as the checkpoints' own code does, so that angles agree at late
positions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointError

# Of each kind of scaling, what is read beside the base and the kind itself.
_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    ),
    "longrope": ("factor", "short_factor", "long_factor", "attention_factor", "original_max_position_embeddings"),
}
_ALWAYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
# Known elsewhere, without a meaning for a text alone: other kinds of scaling, positions in pictures, notes of training.
_ELSEWHERE = ("mrope_section", "mrope_interleaved", "finetuned")
_NEUTRAL = {"attn_factor": 1.0, "extrapolation_factor": 1.0}  # factors of the code of YaRN's authors, and no change
LONGEST = "max_sequence_length"
MADE_FOR = "original_max_position_embeddings"
# Of config.json: two older ones, one that replaces both, and two that transformers takes from beside them.
KEYS = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", MADE_FOR)


class Rotary(NamedTuple):
    """How positions turn queries and keys, named as the fields of `Architecture`."""

    rotary: tuple[float, ...]  # radians a position, one for each pair of features
    rotary_scale: float = 1.0  # times sine and cosine
    rotary_dynamic: tuple[float, ...] = ()  # factor, and the longest text that it leaves as it is
    max_positions: int = 0  # the longest text, in tokens


def settings_of(config: Mapping[str, Any], where: str) -> tuple[str, Mapping[str, Any]]:
    """The key under which `config` has its rotary settings, and these; of two keys the one that transformers reads."""
    key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    settings = config.get(key) or {}
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"{where}: {key} is {str(settings)[:60]!r}, expected an object.")
    return key, settings


def _kind(settings: Mapping[str, Any], where: str) -> str:
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind not in _SETTINGS:
        raise CheckpointError(f"{where}: rotary scaling {str(kind)[:60]!r} is not known, only {', '.join(_SETTINGS)}.")
    return kind


def unread_settings(config: Mapping[str, Any], where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Rotary settings that are not known and may change the result, by name; and warnings of those that cannot."""
    key, settings = settings_of(config, where)
    kind, warnings = _kind(settings, where), []
    elsewhere = {name for names in _SETTINGS.values() for name in names} | {*_ELSEWHERE}
    rest = {name: value for name, value in settings.items() if name not in (*_ALWAYS, *_SETTINGS[kind])}
    idle = [
        name
        for name, value in rest.items()
        if value is None or name in elsewhere or (name in _NEUTRAL and value == _NEUTRAL[name])
    ]
    if told := [name for name in idle if rest[name] is not None]:
        warnings.append(f"{where}: {key} is of the kind {kind}, for which {', '.join(told)} means nothing.")
    made_for, longest = _made_for(config, settings), config.get("max_position_embeddings")
    if kind == "longrope" and isinstance(made_for, int) and isinstance(longest, int) and made_for < longest:
        warnings.append(
            f"{where}: texts are read up to {made_for} tokens, which the short factors of the rotary scaling are for; "
            "beyond, the long ones are not supported."
        )
    if config.get("rope_scaling") and config.get("rope_parameters") not in (None, {}, config["rope_scaling"]):
        warnings.append(f"{where} has rope_scaling and rope_parameters; the first counts, as in transformers.")
    return {f"{key}.{name}": value for name, value in rest.items() if name not in idle}, tuple(warnings)


def by_type(
    config: Mapping[str, Any], bases: Mapping[str, tuple[str, float]], scaled: Sequence[str], where: str
) -> dict[str, Mapping[str, Any]]:
    """`config` once for every type of layer, with the rotary settings of that type alone.

    `bases` has for each type the key of its base and what that is by default, and nothing for a model whose layers turn
    alike; `scaled` are those that an older file's rope_scaling is for. Raises `CheckpointError` for settings that are
    not given by type.
    """
    if not bases:
        return {}
    given, scaling = (config.get(name) or {} for name in ("rope_parameters", "rope_scaling"))
    if not isinstance(given, Mapping) or given.keys() - bases.keys():
        raise CheckpointError(
            f"{where}: rope_parameters is {str(given)[:60]!r}, expected an object for each of {', '.join(bases)}."
        )
    if scaled and "type" in scaling and "rope_type" not in scaling:
        raise CheckpointError(
            f"{where}: rope_scaling has a type and no rope_type, which transformers passes over where layers turn "
            "differently, so that nothing is scaled; call it rope_type, or delete rope_scaling."
        )
    # transformers looks beside settings by type for nothing but the base.
    rest = {name: value for name, value in config.items() if name not in ("rope_theta", "rope_scaling", MADE_FOR)}
    out: dict[str, Mapping[str, Any]] = {}
    for kind, (key, base) in bases.items():
        own = {**(given.get(kind) or {}), **(scaling if kind in scaled else {})}
        own.setdefault("rope_theta", config.get(key) or base)
        out[kind] = {**rest, "rope_parameters": own}
    return out


def renamed(
    config: Mapping[str, Any], names: Mapping[str, str], where: str, made_for: int | None = None
) -> Mapping[str, Any]:
    """`config` with the kind of its rotary scaling as a family means it, by `names`.

    `made_for` is how long texts were before a scaling stretched them, where neither says so.
    """
    key, settings = settings_of(config, where)
    if made_for is not None and config.get("original_max_position_embeddings") is None:
        config = {**config, "original_max_position_embeddings": made_for}
    kind = settings.get("rope_type", settings.get("type"))
    return config if kind not in names else {**config, key: {**settings, "rope_type": names[kind]}}


def _made_for(config: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """How long texts were before a scaling stretched them, as far as `config` says so."""
    beside = config.get("original_max_position_embeddings")
    given = settings.get("original_max_position_embeddings") if beside is None else beside
    return config.get("max_position_embeddings") if given is None else given


def rotary_of(
    config: Mapping[str, Any], width: int, positions: int, where: str, base: float = 10000.0, partly: bool = False
) -> Rotary:
    """What `config` says of rotary positions. Raises `CheckpointError` for a scaling that we do not know.

    `width` is that of a head, `positions` the longest text without a scaling that stretches it, `base` the default one.
    `partly`: of a family that may turn a part of a head's features.
    """
    _, settings = settings_of(config, where)
    kind = _kind(settings, where)
    share = settings.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if share not in (None, 1.0):
        if not partly:
            raise CheckpointError(
                f"{where}: partial_rotary_factor is not 1; rotating a part of a head is not supported here."
            )
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise CheckpointError(f"{where}: partial_rotary_factor is {share!r}, expected a number in (0, 1].")
        if kind not in ("default", "longrope"):
            raise CheckpointError(f"{where}: a part of a head is turned, and scaled by {kind}; it is not supported.")
        width = int(width * share)
    if width % 2 or not width:
        raise CheckpointError(f"{where}: heads of width {width} cannot be rotated in pairs.")

    def number(key: str, default: float | None = None) -> float:
        value = settings.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise CheckpointError(f"{where}: {key} of the rotary settings is {value!r}, expected a positive number.")
        return float(value)

    theta = settings.get("rope_theta") or config.get("rope_theta") or base
    settings = {**settings, "rope_theta": theta}
    steps = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    plain = (1.0 / np.float32(number("rope_theta")) ** steps).astype(np.float32)
    if kind == "default":
        return Rotary(_floats(plain), max_positions=positions)
    if kind == "linear":
        factor = number("factor")
        # Files that say the length before stretching have the other one beside it (LongChat, Vicuna).
        beside = config.get(LONGEST)
        longest = max(positions, beside) if type(beside) is int else positions
        return Rotary(_floats(plain / np.float32(factor)), max_positions=longest)
    if kind == "dynamic":
        factor = number("factor")
        if width < 4:
            raise CheckpointError(f"{where}: dynamic scaling needs heads wider than {width}.")
        longest = _stretched(positions, factor, positions)
        return Rotary(_floats(plain), rotary_dynamic=(factor, float(positions)), max_positions=longest)
    # Lengths before stretching; a config that does not say means its own.
    beside = config.get("original_max_position_embeddings")
    settings = settings if beside is None else {**settings, "original_max_position_embeddings": beside}
    made_for = number("original_max_position_embeddings", float(positions))
    if kind == "longrope":
        return _longrope(settings, plain, number, made_for, positions, where)
    if kind == "llama3":  # its positions are those after stretching
        low, high = number("low_freq_factor"), number("high_freq_factor")
        return Rotary(_floats(_llama3(plain, number("factor"), low, high, made_for)), max_positions=positions)
    factor = number("factor", positions / made_for)
    fast, slow = number("beta_fast", 32.0), number("beta_slow", 1.0)
    truncate = settings.get("truncate", True)
    if not isinstance(truncate, bool):
        raise CheckpointError(f"{where}: truncate of the rotary settings is {truncate!r}, expected true or false.")
    frequencies = _floats(_yarn(plain, theta, factor, fast, slow, made_for, truncate))
    longest = _stretched(made_for, factor, positions)
    if settings.get("attention_factor") is not None:
        return Rotary(frequencies, number("attention_factor"), max_positions=longest)
    if settings.get("mscale") and settings.get("mscale_all_dim"):
        up, down = (_yarn_scale(factor, number(key)) for key in ("mscale", "mscale_all_dim"))
        return Rotary(frequencies, up / down, max_positions=longest)
    return Rotary(frequencies, _yarn_scale(factor, 1.0), max_positions=longest)


def _longrope(
    settings: Mapping[str, Any],
    plain: np.ndarray,
    number: Callable[..., float],
    made_for: float,
    positions: int,
    where: str,
) -> Rotary:
    """Ding et al., LongRoPE, 2024: every frequency has a divisor; others for texts longer than the model was made for.

    These are not computed: transformers changes to them in the middle of a text.
    """
    given = settings.get("short_factor")
    divisors = given if isinstance(given, list) else []
    numbers = all(isinstance(entry, (int, float)) and not isinstance(entry, bool) and entry > 0 for entry in divisors)
    if not numbers or len(divisors) != len(plain):
        raise CheckpointError(
            f"{where}: short_factor of the rotary settings is {str(given)[:60]!r}, expected {len(plain)} numbers."
        )
    factor = number("factor", positions / made_for)
    scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(made_for))
    frequencies = (plain / np.array(divisors, np.float32)).astype(np.float32)
    longest = min(positions, int(made_for))
    return Rotary(_floats(frequencies), number("attention_factor", scale), max_positions=longest)


def _floats(frequencies: np.ndarray) -> tuple[float, ...]:
    return tuple(float(frequency) for frequency in frequencies.astype(np.float32))


def _stretched(made_for: int | float, factor: float, positions: int) -> int:
    """The longest text of a model whose context was stretched; some files say it in their positions already."""
    return max(positions, int(made_for * factor))


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
