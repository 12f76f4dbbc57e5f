"""What a family of Transformers is to us: one row of names of tensors and switches, no code.

Names of tensors are those of the PyTorch files, without the encoder's prefix ("bert."), which a file may have or lack.
Flax files need no second table: `read` gives their tensors the same names and the same layout, [out, in].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    token: Literal["first", "last"] = "first"  # which of a text it reads, where it reads one
    bias: bool = True  # of the output
    # Of a masked language model: the dense layer and the norm before the token table; the output holds a bias alone.
    transform: str | None = None
    transform_norm: str | None = None
    transform_activation: Literal["own", "gelu"] = "gelu"  # between them; the layers' own

    @property
    def modules(self) -> tuple[str, ...]:
        """All that hold its tensors."""
        every = (self.output, self.pooler, self.transform, self.transform_norm)
        return tuple(module for module in every if module)

    @property
    def sign(self) -> str:
        """A tensor that files have where they have this head."""
        return f"{self.transform or self.output}.weight"


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one `model_type` names its tensors and its settings; one of your own goes to `jaxprune.load(…, family=row)`.

    `keys` says under which key of config.json a size lies; a size whose key is missing there and in `defaults` is an
    error. Every row has those of vocab, hidden, layers, heads, neurons, positions and activation; groups, head_width,
    token_types, norm_eps, dropout, pad_id, embed_width, tied (of a language model), attention_bias, feed_forward_bias,
    pre_norm, window, window_on and window_from where config.json has them. `pinned` are settings that would change the
    result, with the one value that we compute. `modules` names embed.token, .position, .type, .norm, .project;
    layers.{}.attention.q, .k, .v, .o, .norm, .q_norm, .k_norm, .relative (one for all layers);
    layers.{}.feed_forward.up, .gate, .down, .norm; final_norm and project_out, as far as an architecture with these
    switches has them. The rows of `jaxprune.FAMILIES` are examples, and `dataclasses.replace` makes a relative of one.
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
    ignored: tuple[str, ...] = ()  # patterns of tensors that no head of ours reads: language model heads, buffers
    neurons_per_hidden: int | None = None  # where config.json may leave the number of neurons out
    transposed: tuple[str, ...] = ()  # patterns of modules whose files hold weights [in, out]
    fused: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # patterns of modules that hold several, in order
    # What an export has to know of transformers:
    language_model: str = "ForCausalLM"  # how the name of the class with that head ends
    left: Mapping[str, str] = field(default_factory=dict)  # module of a head that we do not have -> what it is
    drawn: tuple[str, ...] = ()  # modules of the class without a head that we do not compute: drawn at random there
    heads_divide: bool = False  # its config refuses a number of heads that does not divide the hidden size
    unlisted: tuple[str, ...] = ()  # keys that its layers read, though its config class does not list them
    aliases: Mapping[str, str] = field(default_factory=dict)  # other names of its keys, which win over these

    def can_say(self, heads: int, of: int, hidden: int) -> bool:
        """Whether a config.json of the family can describe layers with `heads` of originally `of` heads left."""
        widths = "head_width" in self.keys and not (self.heads_divide and hidden % heads)
        return heads == of or widths
