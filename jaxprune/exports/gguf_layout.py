"""Which of llama.cpp's architectures computes what a model does, and has a place for its sizes and biases.

Read off llama.cpp (src/models/*.cpp): what an architecture does not load it either refuses or passes over in silence,
so that a model is written only as one that has a place for all of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ..checkpoint.head_names import HEAD_NAMES
from ..errors import CheckpointError
from ..model.architecture import Architecture, LayerSizes
from ..model.attention_kinds import Window, shortest_window
from ..model.heads import head_of

BIASES = {  # fields of `Architecture`, and how they are called in messages
    "attention_bias": "biases of queries, keys and values",
    "output_bias": "output biases of attention",
    "feed_forward_bias": "biases of up and gate projections",
    "down_bias": "output biases of feed-forward halves",
}
_CAUSAL = {"causal": True, "norm_position": "pre", "embed_norm": False, "embed_width": None, "token_types": 0}
_CAUSAL |= {"positions_count": "slots", "position_offset": 0, "rotary_dynamic": ()}
_CAUSAL |= {"norm_plus_one": False, "embed_scaled": False, "whole_query_key_norm": False}
_LLAMA = _CAUSAL | {"norm": "rms", "gated": True, "activation": "silu", "positions": "rotary", "query_key_norm": False}
_GEMMA = _LLAMA | {"activation": "gelu_tanh", "norm_plus_one": True, "embed_scaled": True}
_OLMO2 = _LLAMA | {"norm_position": "update", "query_key_norm": True, "whole_query_key_norm": True}
_GPT2 = _CAUSAL | {"norm": "layer", "gated": False, "activation": "gelu_tanh", "positions": "learned"}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """An architecture of llama.cpp.

    `switches` are fields of `Architecture` with the value that it computes.
    """

    name: str
    switches: Mapping[str, Any]
    per_layer: bool = False  # layers may differ in heads and neurons
    square: bool = False  # heads times their width has to be the hidden size
    untied: bool = True  # the head may be a matrix of its own
    biases: tuple[str, ...] = ()  # that it has a place for
    all_biases: bool = False  # and has to have: zeros where the model has none
    fused: bool = False  # queries, keys and values are one matrix
    neighbours: bool = False  # rotary pairs are features 2 i and 2 i + 1, else i and i + width / 2
    factors: bool = False  # a tensor may divide each rotary frequency
    long_factors: bool = False  # two may: one in contexts up to the length the model was made for, one in longer ones
    partly: bool = False  # the first features of a head may be turned alone
    fused_up: bool = False  # gate and up projections are one matrix
    own_head: bool = False  # the head has to be a matrix of its own
    full_every: int = 0  # of so many layers the last sees all tokens, the others a window; 0: it knows no windows
    unturned_every: int = 0  # of so many layers the last turns nothing
    # Caps that it has to have, and those that it may have: fields of `Architecture`.
    caps: tuple[str, ...] = ()
    may_cap: tuple[str, ...] = ()
    large: int = 0  # with so many layers it scales scores by the hidden size over the heads, not by a head's width

    def slides(self, layer: int) -> bool:
        """Whether a layer sees a window alone."""
        return self.full_every > 0 and (layer + 1) % self.full_every != 0


LAYOUTS = (
    Layout(name="llama", switches=_LLAMA, biases=tuple(BIASES), neighbours=True, factors=True),
    Layout(name="qwen2", switches=_LLAMA, biases=("attention_bias",), square=True),
    Layout(name="qwen3", switches=_LLAMA | {"query_key_norm": True}, biases=("attention_bias",)),
    Layout(name="gemma", switches=_GEMMA, untied=False),
    Layout(
        name="gemma2",
        switches=_GEMMA | {"norm_position": "around"},
        untied=False,
        full_every=2,
        caps=("score_cap", "logit_cap"),
        large=46,
    ),
    Layout(
        name="gemma3",
        switches=_GEMMA | {"norm_position": "around", "query_key_norm": True},
        full_every=6,
        may_cap=("logit_cap",),
        large=62,
    ),
    Layout(name="smollm3", switches=_LLAMA, neighbours=True, unturned_every=4),
    Layout(name="olmo2", switches=_OLMO2, square=True, own_head=True),
    Layout(name="phi3", switches=_LLAMA, square=True, fused=True, fused_up=True, partly=True, long_factors=True),
    Layout(name="gpt2", switches=_GPT2, biases=tuple(BIASES), all_biases=True, square=True, fused=True),
    Layout(name="deci", switches=_LLAMA, per_layer=True, biases=tuple(BIASES), neighbours=True, factors=True),
    Layout(name="openelm", switches=_LLAMA | {"query_key_norm": True}, per_layer=True, untied=False, fused=True),
)
_OWN = MappingProxyType({"mistral": "llama", "gemma3_text": "gemma3"})  # by family, where the name is another


def matching_layouts(a: Architecture) -> Sequence[Layout]:
    """Architectures that compute what a model does, the family's own first, then those for all sizes last.

    Raises `CheckpointError` where there is none.
    """
    if not head_of(a).generates:
        head = "no head" if HEAD_NAMES[a.head].bare else f"a {a.head.replace('_', ' ')} head"
        raise CheckpointError(
            f"a GGUF file holds a language model, and this model has {head}, which has no place there; export it with "
            "format 'onnx'."
        )
    own = _OWN.get(a.family, a.family)
    matching = [layout for layout in LAYOUTS if _unlike(layout, a) is None]
    if not matching:
        name = next((layout for layout in LAYOUTS if layout.name == own), None)
        differs = None if name is None else _unlike(name, a)
        reason = f" with {differs}" if differs else ""
        raise CheckpointError(
            f"llama.cpp has no architecture that computes what this {a.family} model{reason} does; export it with "
            "format 'onnx' or 'transformers'."
        )
    return sorted(matching, key=lambda layout: layout.name != own)


def _unlike(layout: Layout, a: Architecture) -> str | None:
    """What of a model an architecture computes otherwise; None: it computes the same."""
    for key, value in layout.switches.items():
        if getattr(a, key) != value:
            return f"{key.replace('_', ' ')} {getattr(a, key)}"
    for key in ("score_cap", "logit_cap"):
        if (getattr(a, key) is None) == (key in layout.caps) and key not in layout.may_cap:
            return f"{key.replace('_', ' ')} {getattr(a, key)}"
    if not layout.partly and 2 * len(a.rotary) not in (0, a.head_width):
        return f"{2 * len(a.rotary)} of a head's {a.head_width} features turned"
    width = a.hidden // a.layers[0].heads if len(a.layers) == layout.large and a.layers[0].heads else a.head_width
    if a.attention_scale is not None and abs(a.attention_scale * width**0.5 - 1) > 1e-6:
        return f"scores scaled by {a.attention_scale:g}"
    return _unlike_layers(layout, a)


def _unlike_layers(layout: Layout, a: Architecture) -> str | None:
    """The same of the layers' windows and turns, by their places."""
    window = shortest_window(a.attention)
    for number in range(len(a.layers)):
        kind = a.of_layer(number)
        turns = not layout.unturned_every or (number + 1) % layout.unturned_every != 0
        if (kind.positions != "none") != (turns and a.positions != "none") and a.positions == "rotary":
            return f"a layer {number} that turns {'nothing' if turns else 'queries and keys'}"
        if layout.full_every and window is not None and isinstance(kind.attention, Window) != layout.slides(number):
            return f"a layer {number} that sees {'all tokens' if layout.slides(number) else 'a window'}"
        if turns and not layout.slides(number) and kind.rotary != a.rotary:
            return f"a layer {number} that turns otherwise"
    return None


def misfit(layout: Layout, a: Architecture) -> str | None:
    """Why a model's sizes, head or biases have no place in an architecture that computes the same; None: they have."""
    sizes = written_sizes(a)
    if not layout.per_layer and len(set(sizes)) > 1:
        return "its layers have one size"
    if layout.square and sizes[0].heads * a.head_width != a.hidden:
        return f"its heads are as wide as the hidden size ({a.hidden}) together, and {sizes[0].heads} are left"
    if not layout.untied and not a.tied:
        return "its head is the token table, and this one is a matrix of its own"
    if layout.own_head and a.tied:
        return "its head is a matrix of its own, and this one is the token table"
    for field, words in BIASES.items():
        if getattr(a, field) and field not in layout.biases:
            return f"it has no place for {words}"
    return None


def written_sizes(a: Architecture) -> tuple[LayerSizes, ...]:
    """The sizes of the layers with one unit, which is zero, where none is left.

    llama.cpp passes over the attention of a layer without neurons, and does not load a model whose first layer has no
    heads, or whose last has nothing.
    """
    return tuple(
        replace(size, groups=size.groups or 1, queries=size.queries if size.groups else 1, neurons=size.neurons or 1)
        for size in a.layers
    )


def file_context(layout: Layout, a: Architecture) -> int:
    """The longest text that the file's architecture computes as the model does: no longer than a window it lacks."""
    window = None if layout.full_every else shortest_window(a.attention)
    return min(a.max_positions, window or a.max_positions)


def size_keys(layout: Layout, a: Architecture) -> dict[str, Any]:
    """What the file says of a model's sizes and norms, without the architecture's name before each key."""
    sizes = written_sizes(a)
    counts: dict[str, list[int]] = {
        "feed_forward_length": [size.neurons for size in sizes],
        "attention.head_count": [size.heads for size in sizes],
        "attention.head_count_kv": [size.groups for size in sizes],
    }
    caps = {"attn_logit_softcapping": a.score_cap, "final_logit_softcapping": a.logit_cap}
    own: dict[str, Any] = {key: cap for key, cap in caps.items() if cap is not None}
    if layout.full_every:  # a window that is open is one of the longest text
        own["attention.sliding_window"] = shortest_window(a.attention) or a.max_positions
    return own | {
        "block_count": len(sizes),
        "context_length": file_context(layout, a),
        "embedding_length": a.hidden,
        "vocab_size": a.vocab,
        **{key: each if layout.per_layer else each[0] for key, each in counts.items()},
        "attention.key_length": a.head_width,
        "attention.value_length": a.head_width,
        f"attention.layer_norm{'_rms' if a.norm == 'rms' else ''}_epsilon": a.norm_eps,
    }
