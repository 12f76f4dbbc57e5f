"""A reader of GGUF files that shares nothing with their writer, and a small forward pass from such a file alone.

The format: github.com/ggml-org/ggml, docs/gguf.md. What the architectures compute: llama.cpp, src/models.
"""

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_PLAIN = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 30: np.dtype(ml_dtypes.bfloat16)}
FULL_EVERY = {"gemma2": 2, "gemma3": 6}  # of so many layers the last has no window
TYPE_NAMES = {0: "F32", 1: "F16", 8: "Q8_0", 30: "BF16"}


class File(NamedTuple):
    keys: dict[str, Any]
    kinds: dict[str, int]  # of the keys; of a list that of its entries
    tensors: dict[str, np.ndarray]  # float32, [out, in]
    types: dict[str, str]  # of the tensors

    @property
    def name(self) -> str:
        return self.keys["general.architecture"]

    def own(self, key: str, default: Any = None) -> Any:
        """A key of the architecture."""
        return self.keys.get(f"{self.name}.{key}", default)


def read_gguf(path: Path) -> File:
    data, at = path.read_bytes(), 0

    def scalar(kind: int) -> Any:
        nonlocal at
        (value,) = struct.unpack_from(_SCALARS[kind], data, at)
        at += struct.calcsize(_SCALARS[kind])
        return value

    def text() -> str:
        nonlocal at
        length = scalar(10)
        at += length
        return data[at - length : at].decode("utf-8")

    def value(kind: int) -> tuple[Any, int]:
        if kind == 9:
            inner, count = scalar(4), scalar(10)
            return [value(inner)[0] for _ in range(count)], inner
        return (text() if kind == 8 else scalar(kind)), kind

    assert data[:4] == b"GGUF"
    at = 4
    assert scalar(4) == 3
    tensors, count = scalar(10), scalar(10)
    keys: dict[str, Any] = {}
    kinds: dict[str, int] = {}
    for _ in range(count):
        name = text()
        assert name not in keys
        keys[name], kinds[name] = value(scalar(4))
    infos = []
    for _ in range(tensors):
        name, dims = text(), scalar(4)
        infos.append((name, [scalar(10) for _ in range(dims)][::-1], scalar(4), scalar(10)))
    align = keys.get("general.alignment", 32)
    start = math.ceil(at / align) * align
    arrays = {name: _array(data, start + offset, shape, kind) for name, shape, kind, offset in infos}
    return File(keys, kinds, arrays, {name: TYPE_NAMES[kind] for name, _, kind, _ in infos})


def _array(data: bytes, at: int, shape: list[int], kind: int) -> np.ndarray:
    count = math.prod(shape)
    if kind in _PLAIN:
        return np.frombuffer(data, _PLAIN[kind], count, at).astype(np.float32).reshape(shape)
    assert kind == 8 and shape[-1] % 32 == 0  # Q8_0: a float16 scale, then 32 whole numbers
    blocks = np.frombuffer(data, np.dtype([("scale", "<f2"), ("numbers", "i1", 32)]), count // 32, at)
    return (blocks["scale"].astype(np.float32)[:, None] * blocks["numbers"]).reshape(shape)


def logits_of(file: File, ids: np.ndarray, context: int = 0) -> np.ndarray:
    """[tokens, vocab] for one text, as llama.cpp computes them from the file in a context of so many tokens."""
    t, keys, layers = file.tensors, file.own, file.own("block_count")
    used: set[str] = set()

    def weight(name: str) -> np.ndarray | None:
        used.add(name)
        return t.get(name)

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        matrix, bias = weight(f"{name}.weight"), weight(f"{name}.bias")
        assert matrix is not None, name
        return x @ matrix.T + (0 if bias is None else bias)

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        scale, bias = weight(f"{name}.weight"), weight(f"{name}.bias")
        assert scale is not None, name
        if (eps := keys("attention.layer_norm_rms_epsilon")) is None:
            x, eps = x - x.mean(-1, keepdims=True), keys("attention.layer_norm_epsilon")
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale + (0 if bias is None else bias)

    def of_layer(key: str, number: int) -> int:
        given = keys(key)
        return given[number] if isinstance(given, list) else given

    factors = weight("rope_freqs.weight")
    if file.name == "phi3":
        short, long = (weight(f"rope_factors_{name}.weight") for name in ("short", "long"))
        factors = long if context > keys("rope.scaling.original_context_length", keys("context_length")) else short
    x = t["token_embd.weight"][ids]
    used.add("token_embd.weight")
    gemma = file.name.startswith("gemma")
    x = x * math.sqrt(x.shape[1]) if gemma else x
    positions = weight("position_embd.weight")
    if positions is not None:
        assert len(positions) == keys("context_length")
        x = x + positions[: len(ids)]
    width = keys("attention.key_length")
    for number in range(layers):
        heads, groups = of_layer("attention.head_count", number), of_layer("attention.head_count_kv", number)
        place = f"blk.{number}."
        assert heads > 0 < of_layer("feed_forward_length", number)  # what llama.cpp misreads
        y = x if file.name == "olmo2" else norm(f"{place}attn_norm", x)
        if f"{place}attn_qkv.weight" in t:
            parts = np.split(dense(f"{place}attn_qkv", y), [heads * width, (heads + groups) * width], axis=1)
        else:
            parts = [dense(f"{place}attn_{name}", y) for name in "qkv"]
        if file.name == "olmo2":  # over all heads
            parts = [norm(f"{place}attn_q_norm", parts[0]), norm(f"{place}attn_k_norm", parts[1]), parts[2]]
        q, k, v = (part.reshape(len(ids), -1, width) for part in parts)
        if f"{place}attn_q_norm.weight" in t and file.name != "olmo2":
            q, k = norm(f"{place}attn_q_norm", q), norm(f"{place}attn_k_norm", k)
        slides = FULL_EVERY.get(file.name, 1)
        slides = (number + 1) % slides != 0
        if positions is None and (file.name != "smollm3" or (number + 1) % 4):
            q, k = (rotated(file, part, factors, slides) for part in (q, k))
        assert q.shape[1] == heads and k.shape[1] == v.shape[1] == groups
        k, v = (np.repeat(part, heads // groups, axis=1) for part in (k, v))
        scores = np.einsum("qhw,khw->hqk", q, k) / math.sqrt(width)
        scores = capped(scores, keys("attn_logit_softcapping"))
        before = np.arange(len(ids))[:, None] - np.arange(len(ids))
        seen = (before >= 0) & (before < keys("attention.sliding_window") if slides else True)
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hqk,khw->qhw", weights / weights.sum(-1, keepdims=True), v)
        update = dense(f"{place}attn_output", mixed.reshape(len(ids), -1))
        around = file.name in ("gemma2", "gemma3", "olmo2")
        x = x + (norm(f"{place}post_attention_norm", update) if around else update)
        y = x if file.name == "olmo2" else norm(f"{place}ffn_norm", x)
        up = dense(f"{place}ffn_up", y)
        if file.name == "phi3":  # the gate's rows come first
            gate, up = np.split(up, 2, axis=1)
            up = silu(gate) * up
        elif f"{place}ffn_gate.weight" in t:
            gate = dense(f"{place}ffn_gate", y)
            up = (gelu(gate) if gemma else silu(gate)) * up
        else:
            up = gelu(up)
        assert up.shape[1] == of_layer("feed_forward_length", number)
        update = dense(f"{place}ffn_down", up)
        x = x + (norm(f"{place}post_ffw_norm", update) if around else update)
    x = norm("output_norm", x)
    out = dense("output", x) if "output.weight" in t else x @ t["token_embd.weight"].T
    out = capped(out, keys("final_logit_softcapping"))
    assert not set(t) - used, set(t) - used  # llama.cpp refuses a file with tensors that it does not load
    return out


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def capped(x: np.ndarray, cap: float | None) -> np.ndarray:
    return x if cap is None else cap * np.tanh(x / cap)


def rotated(file: File, x: np.ndarray, factors: np.ndarray | None, slides: bool) -> np.ndarray:
    """Queries or keys [tokens, heads, width], turned by position as the architecture pairs features."""
    turned = file.own("rope.dimension_count")
    if turned < x.shape[-1]:
        assert file.name == "phi3"
        return np.concatenate([rotated(file, x[..., :turned], factors, slides), x[..., turned:]], axis=-1)
    width = x.shape[-1]
    assert turned == width
    base = file.own("rope.freq_base_swa" if slides else "rope.freq_base")
    frequencies = base ** -(np.arange(0, width, 2) / width)
    frequencies = frequencies / (1 if factors is None else factors)
    kind, factor, scale = file.own("rope.scaling.type"), file.own("rope.scaling.factor", 1.0), 1.0
    factor = 1.0 if slides else factor
    assert kind in (None, "linear", "yarn")
    stretched = np.ones(width // 2)
    if kind == "yarn":
        made_for, base = file.own("rope.scaling.original_context_length"), file.own("rope.freq_base")
        turns = [file.own(f"rope.scaling.yarn_beta_{name}", usual) for name, usual in (("fast", 32.0), ("slow", 1.0))]
        places = [width * math.log(made_for / (2 * math.pi * turn)) / (2 * math.log(base)) for turn in turns]
        low, high = max(math.floor(places[0]), 0), min(math.ceil(places[1]), width - 1)
        stretched = ((np.arange(width // 2) - low) / max(0.001, high - low)).clip(0, 1)
        scale = 1 + 0.1 * math.log(factor)
    frequencies = stretched * frequencies / factor + (1 - stretched) * frequencies
    scale *= file.own("rope.scaling.attn_factor", 1.0)
    angles = (np.arange(len(x))[:, None] * frequencies)[:, None, :]
    cosine, sine = scale * np.cos(angles), scale * np.sin(angles)
    neighbours = file.name in ("llama", "deci", "smollm3")
    first, second = (x[..., ::2], x[..., 1::2]) if neighbours else np.split(x, 2, axis=-1)
    one, other = first * cosine - second * sine, second * cosine + first * sine
    return np.stack([one, other], -1).reshape(x.shape) if neighbours else np.concatenate([one, other], -1)
