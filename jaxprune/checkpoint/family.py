"""What a family of Transformers is to us: one row of names of tensors and switches, no code.

Names of tensors are those of the PyTorch files, without the encoder's prefix ("bert."), which a file may have or lack.
Flax files need no second table: `read` gives their tensors the same names and the same layout, [out, in].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

# What has to be off, in every family: a decoder, cut heads, weights that are not plain numbers, code from the hub.
OFF = {
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "quantization_config": None,
    "quantization": None,
    "compression_config": None,
    "auto_map": None,
}


@dataclass(frozen=True, kw_only=True)
class HeadModules:
    """The modules that hold one kind of task head, and what lies between them."""

    output: str  # the module that gives the logits
    pooler: str | None = None  # the dense layer on the pooled token before it
    activation: Literal["none", "tanh", "relu", "gelu"] = "none"  # after the pooler
    pooler_norm: str | None = None  # the norm after that
    token: Literal["first", "last"] = "first"  # which of a text it reads, where it reads one
    bias: bool = True  # of the output
    # Of a masked language model: the dense layer and the norm before the token table; the output holds a bias alone.
    transform: str | None = None
    transform_norm: str | None = None
    transform_activation: Literal["own", "gelu"] = "gelu"  # between them; the layers' own
    told_by: str | None = None  # a tensor that files have for this head alone, where others share the modules

    @property
    def modules(self) -> tuple[str, ...]:
        """All that hold its tensors."""
        every = (self.output, self.pooler, self.pooler_norm, self.transform, self.transform_norm)
        return tuple(module for module in every if module)

    @property
    def sign(self) -> str:
        """A tensor that files have where they have this head."""
        return self.told_by or f"{self.transform or self.output}.weight"


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one `model_type` names its tensors and its settings; one of your own goes to `jaxprune.load(…, family=row)`.

    `keys` says under which key of config.json a size lies; a size whose key is missing there and in `defaults` is an
    error. Every row has those of vocab, hidden, layers, heads, neurons, positions and activation; groups, head_width,
    token_types, norm_eps, dropout, pad_id, embed_width, tied (of a language model), attention_bias, feed_forward_bias,
    pre_norm, window, window_on, window_from, layer_types (where the family reads it), score_cap, logit_cap,
    attention_scalar, both_ways (no causal mask), norm_bias, pooler_bias, pool ("cls" or "mean"), pooler (its
    activation) and those of disentangled attention (`checkpoint.disentangled`) where config.json has them. A family of
    images has image, patch and channels in place of vocab and positions, and input_bias (of q, k and v alone). `pinned`
    are settings that would change the result, with the one value that we compute. `modules` names embed.token,
    .position, .type, .norm, .project, .patch; layers.{}.attention.q, .k, .v, .o, .norm, .q_norm, .k_norm, .update_norm,
    .relative, .distances, .distances.norm (one for all layers), .distance_k, .distance_q; layers.{}.feed_forward.up,
    .gate, .down, .norm, .update_norm; final_norm and project_out, as far as an architecture with these switches has
    them. The rows of `jaxprune.FAMILIES` are examples, and `dataclasses.replace` makes a relative of one.
    """

    model_type: str
    classes: str  # how the names under "architectures" start: BertModel, BertForMaskedLM, …
    prefix: str  # before the names of the encoder's tensors, in files that hold a head as well
    switches: Mapping[str, Any] = field(default_factory=dict)  # fields of Architecture that the whole family shares
    keys: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)  # what transformers takes where config.json is silent
    pinned: Mapping[str, Any] = field(default_factory=lambda: dict(OFF))
    modules: Mapping[str, str]  # our module -> theirs; {} stands for the number of the layer
    heads: Mapping[str, HeadModules]  # by kind: classification, question_answering, causal_lm, masked_lm
    pretrained_pooler: bool = False  # the pooler is part of the encoder, so that a new head starts from it
    shared_pooler: bool = False  # it is none, but that of the masked language model: a new head starts from it, too
    ignored: tuple[str, ...] = ()  # patterns of tensors that no head of ours reads: language model heads, buffers
    neurons_per_hidden: int | None = None  # where config.json may leave the number of neurons out
    transposed: tuple[str, ...] = ()  # patterns of modules whose files hold weights [in, out]
    fused: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # patterns of modules that hold several, in order
    # What holds an image's special tokens, in their order, and other tables that files keep as [1, rows, hidden]: our
    # module -> their tensors, one behind the other.
    stacked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    convolutions: tuple[str, ...] = ()  # modules of patches, whose weight is [hidden, channels, height, width] in files
    # Modules of classes called …WithTeacher: a head each on the first tokens, whose outputs are averaged.
    averaged: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()  # regular expressions of other names of tensors, and those of the row
    endings: Mapping[str, str] = field(default_factory=dict)  # of classes of transformers: the usual one -> theirs
    # What an export has to know of transformers:
    language_model: str = "ForCausalLM"  # how the name of the class with that head ends
    left: Mapping[str, str] = field(default_factory=dict)  # module of a head that we do not have -> what it is
    drawn: tuple[str, ...] = ()  # modules of the class without a head that we do not compute: drawn at random there
    heads_divide: bool = False  # its config refuses a number of heads that does not divide the hidden size
    heads_fixed: bool = False  # its config refuses any other number of heads than the source's
    unlisted: tuple[str, ...] = ()  # keys that its layers read, though its config class does not list them
    aliases: Mapping[str, str] = field(default_factory=dict)  # other names of its keys, which win over these
    activations: Mapping[str, str] = field(default_factory=dict)  # names that mean another function than elsewhere
    # Of every so many layers one sees all tokens, the others a window: the key that says how many (or none), how many
    # where config.json is silent, and which one (0: the first, -1: the last).
    full_every: tuple[str | None, int, int] | None = None
    # Layers that turn nothing: the key that lists them (0: such a layer), the one that says every how many layers there
    # is one where that is silent, and how many by default.
    unturned: tuple[str, str, int] | None = None
    rotary_names: Mapping[str, str] = field(default_factory=dict)  # kinds of rotary scaling that mean another here
    published_code: tuple[str, ...] = ()  # patterns of classes in auto_map that transformers has itself, and takes
    shared_config: bool = False  # layers of the class read the number of heads from config.json: all have the same
    partly_turned: bool = False  # partial_rotary_factor says which share of a head's features is turned
    # Types of layers that turn at a base of their own: under which key config.json has it, and what it is by default.
    rotary_bases: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    scaled_types: tuple[str, ...] = ()  # those of them that rope_scaling is for
    language_classes: str | None = None  # how the name of the class with that head starts, where not as `classes`

    # What else the row says where a key of config.json has a value: the key, what it is where config.json is silent,
    # the value, and fields of this row.
    variant: tuple[str, Any, Any, Mapping[str, Any]] | None = None

    # What else it says where the rotary settings list factors, as LongRoPE's do.
    with_factors: Mapping[str, Any] = field(default_factory=dict)

    def as_said(self, config: Mapping[str, Any]) -> "Family":
        """The row for a model of `config`."""
        rotary = config.get("rope_scaling") or config.get("rope_parameters")
        listed = isinstance(rotary, Mapping) and any(rotary.get(f"{name}_factor") for name in ("short", "long"))
        row = replace(self, **self.with_factors) if listed else self
        if row.variant is None:
            return row
        key, default, value, fields = row.variant
        given = default if config.get(key) is None else config[key]
        return replace(row, **fields) if given == value and isinstance(given, type(value)) else row

    @property
    def reads_images(self) -> bool:
        """Whether its models read images, not texts."""
        return "image" in self.keys

    def can_say(self, heads: int, of: int, hidden: int) -> bool:
        """Whether a config.json of the family can describe layers with `heads` of originally `of` heads left."""
        widths = "head_width" in self.keys and not self.heads_fixed and not (self.heads_divide and hidden % heads)
        return heads == of or widths
