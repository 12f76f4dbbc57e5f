"""What a Transformer is, apart from its numbers: one frozen description, with the sizes of every layer."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class LayerSizes:
    """Sizes of one layer; a pruned model has a different one in every layer."""

    groups: int  # key-value groups; equals the heads where every head has its own keys and values
    queries: int = 1  # query heads that share one group
    neurons: int

    @property
    def heads(self) -> int:
        return self.groups * self.queries


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A Transformer as data: switches between families, and sizes per layer. Hashable, so static under `jax.jit`."""

    family: str
    vocab: int
    hidden: int
    head_width: int
    layers: tuple[LayerSizes, ...]
    max_positions: int  # the longest text, in tokens
    positions: Literal["learned", "rotary", "none"] = "learned"
    position_offset: int = 0  # rows of the position table that lie before position 0
    positions_count: Literal["slots", "tokens"] = "slots"  # plain batches: count every slot, or only real tokens
    pad_id: int = 0
    token_types: int = 0  # 0: the model has no token type embedding
    embed_norm: bool = True
    norm: Literal["layer", "rms"] = "layer"
    norm_position: Literal["post", "pre"] = "post"
    norm_eps: float = 1e-12
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu"
    gated: bool = False
    attention_bias: bool = True
    feed_forward_bias: bool = True
    attention_scale: float | None = None  # None: head_width ** -0.5
    causal: bool = False
    pooler: Literal["none", "tanh", "relu"] = "none"  # dense layer and activation on the pooled token, before the head
    head: Literal["classification", "question_answering", "none"] = "none"
    problem: Literal["single_label", "multi_label", "regression"] = "single_label"
    labels: tuple[str, ...] = ()  # names of the classes; one name for a regression
    dropout: float = 0.1  # for training only

    def __post_init__(self):
        for index, layer in enumerate(self.layers):
            if min(layer.groups, layer.neurons) < 0 or layer.queries < 1:
                raise SettingsError(f"layer {index}: sizes must not be negative, got {layer}.")
        if self.head == "classification" and not self.labels:
            raise SettingsError("a classification head needs at least one label, got none; name the labels.")

    @property
    def ragged(self) -> bool:
        """True when layers differ, so that they cannot be stacked."""
        return len(set(self.layers)) > 1

    def with_layers(self, layers: tuple[LayerSizes, ...]) -> "Architecture":
        return replace(self, layers=layers)


def parameter_shapes(architecture: Architecture) -> dict[str, Any]:
    """The parameter tree of `architecture`, with a tuple of integers (a shape) in place of every array.

    Kernels are [in, out] with the units spelled out: q [hidden, groups, queries, width], k and v [hidden, groups,
    width], o [groups, queries, width, hidden], up and gate [hidden, neurons], down [neurons, hidden].
    """
    a, hidden, width = architecture, architecture.hidden, architecture.head_width

    def dense(inputs: tuple[int, ...], outputs: tuple[int, ...], bias: bool = True) -> dict[str, Any]:
        return {"kernel": inputs + outputs} | ({"bias": outputs} if bias else {})

    norm = {"scale": (hidden,)} | ({"bias": (hidden,)} if a.norm == "layer" else {})

    def layer(size: LayerSizes) -> dict[str, Any]:
        keys = dense((hidden,), (size.groups, width), a.attention_bias)
        up = dense((hidden,), (size.neurons,), a.feed_forward_bias)
        return {
            "attention": {
                "q": dense((hidden,), (size.groups, size.queries, width), a.attention_bias),
                "k": dict(keys),
                "v": dict(keys),
                "o": dense((size.groups, size.queries, width), (hidden,), a.attention_bias),
                "norm": dict(norm),
            },
            "feed_forward": {
                "up": up,
                **({"gate": dict(up)} if a.gated else {}),
                "down": dense((size.neurons,), (hidden,), a.feed_forward_bias),
                "norm": dict(norm),
            },
        }

    embed: dict[str, Any] = {"token": (a.vocab, hidden)}
    if a.positions == "learned":
        embed["position"] = (a.max_positions + a.position_offset, hidden)
    if a.token_types:
        embed["type"] = (a.token_types, hidden)
    if a.embed_norm:
        embed["norm"] = dict(norm)
    tree: dict[str, Any] = {"embed": embed, "layers": [layer(size) for size in a.layers]}
    if a.norm_position == "pre":
        tree["final_norm"] = dict(norm)
    if a.pooler != "none":
        tree["pooler"] = dense((hidden,), (hidden,))
    if a.head == "classification":
        tree["head"] = dense((hidden,), (len(a.labels),))
    if a.head == "question_answering":
        tree["head"] = dense((hidden,), (2,))
    return tree
