"""What a Transformer is, apart from its numbers: one frozen description, with the sizes of every layer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeVar

from ..errors import SettingsError
from .attention_kinds import Attention, Disentangled, Full, Mixed, Relative
from .embedding import Embedding
from .patches import Patches

HeadKind = Literal[
    "classification", "token_classification", "question_answering", "causal_lm", "masked_lm", "embedding", "none"
]
Problem = Literal["single_label", "multi_label", "regression"]  # what a classification's labels are to each other

ATTENTION, FEED_FORWARD = "attention", "feed_forward"
HALVES = (ATTENTION, FEED_FORWARD)

# Where the unit axis of each array lies, per half; arrays that are not named here (norms, output biases) stay whole.
# An attention unit is a key-value group together with its query heads.
UNIT_AXES: dict[str, dict[str, dict[str, int]]] = {
    "attention": {
        "q": {"kernel": 1, "bias": 0},
        "k": {"kernel": 1, "bias": 0},
        "v": {"kernel": 1, "bias": 0},
        "o": {"kernel": 0},
        "relative": {"table": 1},
        "distance_k": {"kernel": 1, "bias": 0},
        "distance_q": {"kernel": 1, "bias": 0},
    },
    "feed_forward": {
        "up": {"kernel": 1, "bias": 0},
        "gate": {"kernel": 1, "bias": 0},
        "down": {"kernel": 0},
    },
}

T = TypeVar("T")


class Sublayer(NamedTuple):
    """The address of a sublayer."""

    index: int  # its place among all sublayers, bottom up: of masks, scores, costs and the like
    layer: int
    half: str

    def of(self, layers: Sequence[Any]) -> Any:
        """What belongs to it in a list with one {half: …} a layer, as parameters are."""
        return layers[self.layer][self.half]


@dataclass(frozen=True, kw_only=True)
class LayerSizes:
    """Sizes of one layer; a pruned model has a different one in every layer."""

    groups: int  # key-value groups; equals the heads where every head has its own keys and values
    queries: int = 1  # query heads that share one group
    neurons: int

    @property
    def heads(self) -> int:
        return self.groups * self.queries

    @property
    def units(self) -> dict[str, int]:
        """Units of every half, in the order in which halves run."""
        return {ATTENTION: self.groups, FEED_FORWARD: self.neurons}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A Transformer as data: switches between families, and sizes per layer. Hashable, so static under `jax.jit`."""

    family: str
    vocab: int
    hidden: int
    head_width: int
    layers: tuple[LayerSizes, ...]
    max_positions: int  # the longest text, in tokens
    attention: Attention = Full()
    positions: Literal["learned", "rotary", "none"] = "learned"
    position_offset: int = 0  # rows of the position table that lie before position 0
    # Plain batches: count every slot, only tokens that are not padding by their id, or only those the mask shows.
    positions_count: Literal["slots", "tokens", "mask"] = "slots"
    # Radians a position, for each pair of a head's features, or of the first ones: then the others are not turned.
    # Scalings are in them.
    rotary: tuple[float, ...] = ()
    rotary_scale: float = 1.0  # times sine and cosine (YaRN's attention factor)
    rotary_dynamic: tuple[float, ...] = ()  # dynamic scaling: its factor, and the longest text that it leaves alone
    pad_id: int = 0
    end_ids: tuple[int, ...] = ()  # tokens after which nothing is generated
    embed_width: int | None = None  # of the token table, where a projection lies between it and the residual stream
    # What that projects: tokens, before positions are added, and back before the head; or the sum of all tables, once
    # that is normed or ("tables") before it is.
    embed_projects: Literal["tokens", "sum", "tables"] = "tokens"
    padding_blank: bool = False  # padding's embeddings are zeros, and what padding looks at is all slots alike
    token_types: int = 0  # 0: the model has no token type embedding
    embed_scaled: bool = False  # tokens' embeddings are multiplied by the root of the hidden size
    embed_norm: bool = True
    norm: Literal["layer", "rms"] = "layer"
    norm_bias: bool = True  # of layer norms
    first_norm: bool = True  # False: the first attention half reads the stream as it is
    # Of a half: the stream after it, or before it; what it adds to the stream; or both, before it and what it adds.
    norm_position: Literal["post", "pre", "update", "around"] = "post"
    norm_plus_one: bool = False  # norms multiply by 1 + their scale
    norm_eps: float = 1e-12
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu"
    gated: bool = False
    attention_bias: bool = True  # of q, k, v
    output_bias: bool = True  # of o
    query_key_norm: bool = False  # RMS norms over the width of queries and of keys, before the rotation
    whole_query_key_norm: bool = False  # these are over all heads together, so that no head can leave
    feed_forward_bias: bool = True
    down_bias: bool = True
    attention_scale: float | None = None  # None: head_width ** -0.5
    score_cap: float | None = None  # attention scores s become cap * tanh(s / cap)
    causal: bool = False
    # The token that stands for a text, where the head reads one of each; or the mean of all of them.
    pool: Literal["first", "last", "mean"] = "first"
    pool_tokens: int = 1  # that the head reads side by side, from that one on: of DeiT also the distillation token
    pool_pad: int | None = None  # padding's id, which the last token has not; None: only the mask tells padding
    # Dense layer and activation on what the head would read, before it: the pooled token, or every one.
    pooler: Literal["none", "tanh", "relu", "gelu"] = "none"
    pooler_bias: bool = True  # of that layer, or of the one before the token table of a masked language model
    pooler_norm: bool = False  # a norm comes after
    head: HeadKind = "none"  # `heads.head_of` says what each kind is
    head_bias: bool = True  # of a head of a kind that has one
    tied: bool = False  # the language model's head is the token table
    # Of a masked language model, the activation between a dense layer and a norm before that table: the layers' own.
    transform: Literal["none", "own", "gelu"] = "none"
    logit_cap: float | None = None  # a language model's logits x become cap * tanh(x / cap)
    problem: Problem = "single_label"
    labels: tuple[str, ...] = ()  # names of the classes; one name for a regression
    embedding: Embedding | None = None  # of a head that makes one vector of a text
    patches: Patches | None = None  # of images, which are read in place of texts; `vocab` counts their special tokens
    dropout: float = 0.1  # for training only

    def __post_init__(self):
        for index, layer in enumerate(self.layers):
            if min(layer.groups, layer.neurons) < 0 or layer.queries < 1:
                raise SettingsError(f"layer {index}: sizes must not be negative, got {layer}.")
        if LAST_LAYERS[self.head].labelled and not self.labels:
            raise SettingsError(f"a {self.head} head needs at least one label, got none; name the labels.")
        if LAST_LAYERS[self.head].pooled != (self.embedding is not None):
            needs = "needs" if self.embedding is None else "has no use for"
            raise SettingsError(
                f"a {self.head} head {needs} an embedding, which says how texts are pooled; change both."
            )
        if LAST_LAYERS[self.head].transformed != (self.transform != "none"):
            raise SettingsError(f"a {self.head} head does not go with the transform {self.transform}; change both.")
        if self.positions == "rotary" and not 0 < 2 * len(self.rotary) <= self.head_width:
            raise SettingsError(f"{len(self.rotary)} rotary frequencies do not fit heads of width {self.head_width}.")
        if self.patches is not None and (self.vocab, self.max_positions) != (
            self.patches.specials,
            self.patches.tokens,
        ):
            raise SettingsError(
                f"an image has {self.patches.specials} special tokens and {self.patches.tokens} in all, the model a "
                f"vocabulary of {self.vocab} and {self.max_positions} positions; make the two agree."
            )
        if isinstance(self.attention, Relative | Disentangled):
            self.attention.check([(layer.groups, layer.queries) for layer in self.layers])
        if isinstance(self.attention, Mixed):
            self.attention.check(len(self.layers))
        if len(self.rotary_dynamic) not in (0, 2):
            raise SettingsError(f"rotary_dynamic is {self.rotary_dynamic}, expected a factor and a length, or nothing.")

    @property
    def final_norm(self) -> bool:
        """True where a norm lies between the last layer and the head."""
        return self.norm_position != "post"

    @property
    def norms_input(self) -> bool:
        """True where a half norms the stream that it reads."""
        return self.norm_position in ("pre", "around")

    @property
    def norms_update(self) -> bool:
        """True where a half norms what it adds to the stream."""
        return self.norm_position in ("update", "around")

    @property
    def output_width(self) -> int:
        """Numbers a token that the head reads."""
        return self.hidden if self.embed_width is None or self.embed_projects != "tokens" else self.embed_width

    @property
    def limit(self) -> str:
        """What bounds the length of a text, for messages: "the model's …"."""
        return f"{self.max_positions} positions"

    @property
    def ragged(self) -> bool:
        """True when layers differ, so that they cannot be stacked."""
        return len(set(self.layers)) > 1

    def of_layer(self, layer: int) -> "Architecture":
        """The same, as if all layers were of the kind of that one: what a program for one layer has to know.

        It is the same for all layers of a kind, so that they share a program.
        """
        kind = self.attention
        return _of_kind(self, kind.layers[layer]) if isinstance(kind, Mixed) else self

    def sublayers(self) -> tuple[Sublayer, ...]:
        """Every sublayer, bottom up: the one place that knows their order."""
        addresses = [(layer, half) for layer, size in enumerate(self.layers) for half in size.units]
        return tuple(Sublayer(index, layer, half) for index, (layer, half) in enumerate(addresses))

    def of_half(self, half: str, values: Sequence[T]) -> list[T]:
        """Of one value a sublayer, those of one half."""
        return [value for at, value in zip(self.sublayers(), values, strict=True) if at.half == half]

    def by_layer(self, values: Sequence[T]) -> list[dict[str, T]]:
        """One value a sublayer as {half: value} a layer."""
        layers: list[dict[str, T]] = [{} for _ in self.layers]
        for at, value in zip(self.sublayers(), values, strict=True):
            layers[at.layer][at.half] = value
        return layers

    def with_layers(self, layers: tuple[LayerSizes, ...]) -> "Architecture":
        """The same with layers of other sizes, whichever units these are."""
        kind = self.attention
        if isinstance(kind, Relative) and [len(own) for own in kind.columns] != [size.groups for size in layers]:
            kind = replace(kind, columns=())
        return replace(self, layers=layers, attention=kind)


@lru_cache(maxsize=256)
def _of_kind(architecture: Architecture, number: int) -> Architecture:
    assert isinstance(architecture.attention, Mixed)
    kind = architecture.attention.kinds[number]
    if kind.rotary is None:
        return replace(architecture, attention=kind.attention)
    turning: dict[str, Any] = {"rotary": kind.rotary, "rotary_scale": kind.rotary_scale, "rotary_dynamic": ()}
    return replace(architecture, attention=kind.attention, positions="rotary" if kind.rotary else "none", **turning)


class LastLayer(NamedTuple):
    """What a kind of head adds to the parameters: one dense layer on what it reads, or nothing."""

    outputs: Callable[[Architecture], int]  # 0: no such layer
    bias: bool = True  # unless the architecture's head has none
    labelled: bool = False  # one output a label, so that there has to be one
    transformed: bool = False  # a dense layer and a norm before the token table, and a bias behind it
    pooled: bool = False  # `Architecture.embedding` says what is made of the hidden states, dense layers included


LAST_LAYERS: Mapping[HeadKind, LastLayer] = {
    "classification": LastLayer(lambda a: len(a.labels), labelled=True),
    "token_classification": LastLayer(lambda a: len(a.labels), labelled=True),
    "question_answering": LastLayer(lambda a: 2),  # start and end
    "causal_lm": LastLayer(lambda a: 0 if a.tied else a.vocab, bias=False),
    "masked_lm": LastLayer(lambda a: 0, transformed=True),
    "embedding": LastLayer(lambda a: 0, pooled=True),
    "none": LastLayer(lambda a: 0),
}
