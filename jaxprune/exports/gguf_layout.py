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
from ..model.attention_kinds import Mixed, shortest_window
from ..model.heads import head_of

BIASES = {  # fields of `Architecture`, and how they are called in messages
    "attention_bias": "biases of queries, keys and values",
    "output_bias": "output biases of attention",
    "feed_forward_bias": "biases of up and gate projections",
    "down_bias": "output biases of feed-forward halves",
}
_CAUSAL = {"causal": True, "norm_position": "pre", "embed_norm": False, "embed_width": None, "token_types": 0}
_CAUSAL |= {"attention_scale": None, "positions_count": "slots", "position_offset": 0, "rotary_dynamic": ()}
_CAUSAL |= {"norm_plus_one": False, "embed_scaled": False, "score_cap": None, "logit_cap": None}
_LLAMA = _CAUSAL | {"norm": "rms", "gated": True, "activation": "silu", "positions": "rotary", "query_key_norm": False}
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


LAYOUTS = (
    Layout(name="llama", switches=_LLAMA, biases=tuple(BIASES), neighbours=True, factors=True),
    Layout(name="qwen2", switches=_LLAMA, biases=("attention_bias",), square=True),
    Layout(name="qwen3", switches=_LLAMA | {"query_key_norm": True}, biases=("attention_bias",)),
    Layout(name="gpt2", switches=_GPT2, biases=tuple(BIASES), all_biases=True, square=True, fused=True),
    Layout(name="deci", switches=_LLAMA, per_layer=True, biases=tuple(BIASES), neighbours=True, factors=True),
    Layout(name="openelm", switches=_LLAMA | {"query_key_norm": True}, per_layer=True, untied=False, fused=True),
)
_OWN = MappingProxyType({"mistral": "llama"})  # by family, where the name is another


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
    alike = not isinstance(a.attention, Mixed) or all(kind.rotary is None for kind in a.attention.kinds)
    alike = alike and 2 * len(a.rotary) in (0, a.head_width)
    matching = [
        layout
        for layout in LAYOUTS
        if alike and all(getattr(a, key) == value for key, value in layout.switches.items())
    ]
    if not matching:
        name = next((layout for layout in LAYOUTS if layout.name == own), None)
        differ = [] if name is None else [key for key, value in name.switches.items() if getattr(a, key) != value]
        reason = f" with {differ[0].replace('_', ' ')} {getattr(a, differ[0])}" if differ else ""
        raise CheckpointError(
            f"llama.cpp has no architecture that computes what this {a.family} model{reason} does; export it with "
            "format 'onnx' or 'transformers'."
        )
    return sorted(matching, key=lambda layout: layout.name != own)


def misfit(layout: Layout, a: Architecture) -> str | None:
    """Why a model's sizes, head or biases have no place in an architecture that computes the same; None: they have."""
    sizes = written_sizes(a)
    if not layout.per_layer and len(set(sizes)) > 1:
        return "its layers have one size"
    if layout.square and sizes[0].heads * a.head_width != a.hidden:
        return f"its heads are as wide as the hidden size ({a.hidden}) together, and {sizes[0].heads} are left"
    if not layout.untied and not a.tied:
        return "its head is the token table, and this one is a matrix of its own"
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


def file_context(a: Architecture) -> int:
    """The longest text that the file's architecture computes as the model does: none of them has a window."""
    return min(a.max_positions, shortest_window(a.attention) or a.max_positions)


def size_keys(layout: Layout, a: Architecture) -> dict[str, Any]:
    """What the file says of a model's sizes and norms, without the architecture's name before each key."""
    sizes = written_sizes(a)
    counts: dict[str, list[int]] = {
        "feed_forward_length": [size.neurons for size in sizes],
        "attention.head_count": [size.heads for size in sizes],
        "attention.head_count_kv": [size.groups for size in sizes],
    }
    return {
        "block_count": len(sizes),
        "context_length": file_context(a),
        "embedding_length": a.hidden,
        "vocab_size": a.vocab,
        **{key: each if layout.per_layer else each[0] for key, each in counts.items()},
        "attention.key_length": a.head_width,
        "attention.value_length": a.head_width,
        f"attention.layer_norm{'_rms' if a.norm == 'rms' else ''}_epsilon": a.norm_eps,
    }
