"""The families of Transformers that we read: one row each, names of tensors and switches, no code.

Names of tensors are those of the PyTorch files, without the encoder's prefix ("bert."), which a file may have or lack.
Flax files need no second table: `read` gives their tensors the same names and the same layout, [out, in].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

# What has to be off, in every family: a decoder, cut heads, weights that are not plain numbers, code from the hub.
_OFF = {
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
    activation: Literal["none", "tanh", "relu"] = "none"  # after the pooler
    token: Literal["first", "last"] = "first"  # which of a text it reads, where it reads one
    bias: bool = True  # of the output


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one `model_type` names its tensors and its settings; one of your own goes to `jaxprune.load(…, family=row)`.

    `keys` says under which key of config.json a size lies; a size whose key is missing there and in `defaults` is an
    error. Every row has those of vocab, hidden, layers, heads, neurons, positions and activation; groups, head_width,
    token_types, norm_eps, dropout, pad_id, embed_width, tied (of a language model), attention_bias, feed_forward_bias,
    pre_norm, window, window_on and window_from where config.json has them. `pinned` are settings that would change the
    result, with the one value that we compute. `modules` names embed.token, .position, .type, .norm, .project;
    layers.{}.attention.q, .k, .v, .o, .norm, .q_norm, .k_norm; layers.{}.feed_forward.up, .gate, .down, .norm;
    final_norm and project_out, as far as an architecture with these switches has them. The rows of `jaxprune.FAMILIES`
    are examples, and `dataclasses.replace` makes a relative of one.
    """

    model_type: str
    classes: str  # how the names under "architectures" start: BertModel, BertForMaskedLM, …
    prefix: str  # before the names of the encoder's tensors, in files that hold a head as well
    switches: Mapping[str, Any] = field(default_factory=dict)  # fields of Architecture that the whole family shares
    keys: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)  # what transformers takes where config.json is silent
    pinned: Mapping[str, Any] = field(default_factory=lambda: dict(_OFF))
    modules: Mapping[str, str]  # our module -> theirs; {} stands for the number of the layer
    heads: Mapping[str, HeadModules]  # by kind: classification, question_answering, causal_lm
    pretrained_pooler: bool = False  # the pooler is part of the encoder, so that a new head starts from it
    ignored: tuple[str, ...] = ()  # patterns of tensors that no head of ours reads: language model heads, buffers
    neurons_per_hidden: int | None = None  # where config.json may leave the number of neurons out
    transposed: tuple[str, ...] = ()  # patterns of modules whose files hold weights [in, out]
    fused: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # patterns of modules that hold several, in order
    # What an export has to know of transformers:
    language_model: str = "ForCausalLM"  # how the name of the class with that head ends
    drawn: tuple[str, ...] = ()  # modules of the class without a head that we do not compute: drawn at random there
    heads_divide: bool = False  # its config refuses a number of heads that does not divide the hidden size
    unlisted: tuple[str, ...] = ()  # keys that its layers read, though its config class does not list them
    aliases: Mapping[str, str] = field(default_factory=dict)  # other names of its keys, which win over these

    def can_say(self, heads: int, of: int, hidden: int) -> bool:
        """Whether a config.json of the family can describe layers with `heads` of originally `of` heads left."""
        widths = "head_width" in self.keys and not (self.heads_divide and hidden % heads)
        return heads == of or widths


_BERT_KEYS = {
    "vocab": "vocab_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "neurons": "intermediate_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "norm_eps": "layer_norm_eps",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "pad_id": "pad_token_id",
}
_BERT_DEFAULTS = {
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "pad_token_id": 0,
}
_BERT_MODULES = {
    "embed.token": "embeddings.word_embeddings",
    "embed.position": "embeddings.position_embeddings",
    "embed.type": "embeddings.token_type_embeddings",
    "embed.norm": "embeddings.LayerNorm",
    "layers.{}.attention.q": "encoder.layer.{}.attention.self.query",
    "layers.{}.attention.k": "encoder.layer.{}.attention.self.key",
    "layers.{}.attention.v": "encoder.layer.{}.attention.self.value",
    "layers.{}.attention.o": "encoder.layer.{}.attention.output.dense",
    "layers.{}.attention.norm": "encoder.layer.{}.attention.output.LayerNorm",
    "layers.{}.feed_forward.up": "encoder.layer.{}.intermediate.dense",
    "layers.{}.feed_forward.down": "encoder.layer.{}.output.dense",
    "layers.{}.feed_forward.norm": "encoder.layer.{}.output.LayerNorm",
}

_ROWS = (
    Family(
        model_type="bert",
        classes="Bert",
        prefix="bert.",
        keys=_BERT_KEYS,
        defaults=_BERT_DEFAULTS,
        pinned=_OFF | {"position_embedding_type": "absolute"},
        modules=_BERT_MODULES,
        heads={
            "classification": HeadModules(output="classifier", pooler="pooler.dense", activation="tanh"),
            "token_classification": HeadModules(output="classifier"),
            "question_answering": HeadModules(output="qa_outputs"),
        },
        pretrained_pooler=True,
        drawn=("pooler.dense",),
        ignored=("cls.*", "embeddings.position_ids", "embeddings.token_type_ids"),
    ),
    Family(
        model_type="roberta",
        classes="Roberta",
        prefix="roberta.",
        # The first pad_id + 1 rows of the position table come before position 0, and padding is told by its id.
        switches={"positions_count": "tokens"},
        keys=_BERT_KEYS,
        defaults=_BERT_DEFAULTS | {"pad_token_id": 1},
        pinned=_OFF | {"position_embedding_type": "absolute"},
        modules=_BERT_MODULES,
        heads={
            "classification": HeadModules(output="classifier.out_proj", pooler="classifier.dense", activation="tanh"),
            "token_classification": HeadModules(output="classifier"),
            "question_answering": HeadModules(output="qa_outputs"),
        },
        drawn=("pooler.dense",),
        ignored=("lm_head.*", "pooler.dense.*", "embeddings.position_ids", "embeddings.token_type_ids"),
    ),
    Family(
        model_type="distilbert",
        classes="DistilBert",
        prefix="distilbert.",
        switches={"token_types": 0, "norm_eps": 1e-12},
        aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
        keys={
            "vocab": "vocab_size",
            "hidden": "dim",
            "layers": "n_layers",
            "heads": "n_heads",
            "neurons": "hidden_dim",
            "positions": "max_position_embeddings",
            "activation": "activation",
            "dropout": "dropout",
            "pad_id": "pad_token_id",
        },
        defaults={"activation": "gelu", "dropout": 0.1, "pad_token_id": 0},
        pinned=_OFF,
        modules={
            "embed.token": "embeddings.word_embeddings",
            "embed.position": "embeddings.position_embeddings",
            "embed.norm": "embeddings.LayerNorm",
            "layers.{}.attention.q": "transformer.layer.{}.attention.q_lin",
            "layers.{}.attention.k": "transformer.layer.{}.attention.k_lin",
            "layers.{}.attention.v": "transformer.layer.{}.attention.v_lin",
            "layers.{}.attention.o": "transformer.layer.{}.attention.out_lin",
            "layers.{}.attention.norm": "transformer.layer.{}.sa_layer_norm",
            "layers.{}.feed_forward.up": "transformer.layer.{}.ffn.lin1",
            "layers.{}.feed_forward.down": "transformer.layer.{}.ffn.lin2",
            "layers.{}.feed_forward.norm": "transformer.layer.{}.output_layer_norm",
        },
        heads={
            "classification": HeadModules(output="classifier", pooler="pre_classifier", activation="relu"),
            "token_classification": HeadModules(output="classifier"),
            "question_answering": HeadModules(output="qa_outputs"),
        },
        ignored=("vocab_transform.*", "vocab_layer_norm.*", "vocab_projector.*", "embeddings.position_ids"),
    ),
)

_DECODER = {"causal": True, "norm_position": "pre", "embed_norm": False}
_DECODER_HEADS = {
    "causal_lm": HeadModules(output="lm_head"),
    "classification": HeadModules(output="score", token="last", bias=False),
}

_LLAMA_KEYS = {
    "vocab": "vocab_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "groups": "num_key_value_heads",
    "head_width": "head_dim",
    "neurons": "intermediate_size",
    "positions": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "activation": "hidden_act",
    "tied": "tie_word_embeddings",
}
_LLAMA_SWITCHES = _DECODER | {"norm": "rms", "gated": True, "positions": "rotary", "dropout": 0.0}
_LLAMA_DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
_LLAMA_MODULES = {
    "embed.token": "embed_tokens",
    "final_norm": "norm",
    "layers.{}.attention.norm": "layers.{}.input_layernorm",
    "layers.{}.attention.q": "layers.{}.self_attn.q_proj",
    "layers.{}.attention.k": "layers.{}.self_attn.k_proj",
    "layers.{}.attention.v": "layers.{}.self_attn.v_proj",
    "layers.{}.attention.o": "layers.{}.self_attn.o_proj",
    "layers.{}.feed_forward.norm": "layers.{}.post_attention_layernorm",
    "layers.{}.feed_forward.gate": "layers.{}.mlp.gate_proj",
    "layers.{}.feed_forward.up": "layers.{}.mlp.up_proj",
    "layers.{}.feed_forward.down": "layers.{}.mlp.down_proj",
}
_ANGLES = ("*rotary_emb.inv_freq",)  # old files hold them; they follow from config.json
_INNER_NORMS = {
    "layers.{}.attention.q_norm": "layers.{}.self_attn.q_norm",
    "layers.{}.attention.k_norm": "layers.{}.self_attn.k_norm",
}
# Layers from some number on see only so many tokens back, where that is switched on.
_LATE_WINDOW_KEYS = {"window": "sliding_window", "window_on": "use_sliding_window", "window_from": "max_window_layers"}
_LATE_WINDOW_DEFAULTS = {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28}

_ROWS += (
    Family(
        model_type="opt",
        classes="OPT",
        prefix="model.",
        switches={"causal": True, "embed_norm": False, "positions_count": "mask", "position_offset": 2}
        | {"norm_eps": 1e-5},
        keys={
            "vocab": "vocab_size",
            "hidden": "hidden_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "neurons": "ffn_dim",
            "positions": "max_position_embeddings",
            "activation": "activation_function",
            "dropout": "dropout",
            "embed_width": "word_embed_proj_dim",
            "pre_norm": "do_layer_norm_before",
            "tied": "tie_word_embeddings",
        },
        defaults={
            "activation_function": "relu",
            "dropout": 0.1,
            "do_layer_norm_before": True,
            "tie_word_embeddings": True,
            "pad_token_id": 1,
        },
        pinned=_OFF | {"enable_bias": True, "layer_norm_elementwise_affine": True, "_remove_final_layer_norm": False},
        modules={
            "embed.token": "decoder.embed_tokens",
            "embed.position": "decoder.embed_positions",
            "embed.project": "decoder.project_in",
            "project_out": "decoder.project_out",
            "final_norm": "decoder.final_layer_norm",
            "layers.{}.attention.norm": "decoder.layers.{}.self_attn_layer_norm",
            "layers.{}.attention.q": "decoder.layers.{}.self_attn.q_proj",
            "layers.{}.attention.k": "decoder.layers.{}.self_attn.k_proj",
            "layers.{}.attention.v": "decoder.layers.{}.self_attn.v_proj",
            "layers.{}.attention.o": "decoder.layers.{}.self_attn.out_proj",
            "layers.{}.feed_forward.norm": "decoder.layers.{}.final_layer_norm",
            "layers.{}.feed_forward.up": "decoder.layers.{}.fc1",
            "layers.{}.feed_forward.down": "decoder.layers.{}.fc2",
        },
        heads=_DECODER_HEADS,
        ignored=(),
    ),
    Family(
        model_type="gpt2",
        classes="GPT2",
        prefix="transformer.",
        switches=_DECODER,
        aliases={
            "hidden_size": "n_embd",
            "max_position_embeddings": "n_positions",
            "num_attention_heads": "n_head",
            "num_hidden_layers": "n_layer",
        },
        keys={
            "vocab": "vocab_size",
            "hidden": "n_embd",
            "layers": "n_layer",
            "heads": "n_head",
            "neurons": "n_inner",
            "positions": "n_positions",
            "norm_eps": "layer_norm_epsilon",
            "activation": "activation_function",
            "dropout": "resid_pdrop",
            "tied": "tie_word_embeddings",
        },
        defaults={
            "layer_norm_epsilon": 1e-5,
            "activation_function": "gelu_new",
            "resid_pdrop": 0.1,
            "tie_word_embeddings": True,
        },
        pinned=_OFF | {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
        modules={
            "embed.token": "wte",
            "embed.position": "wpe",
            "final_norm": "ln_f",
            "layers.{}.attention.norm": "h.{}.ln_1",
            "layers.{}.attention.q": "h.{}.attn.c_attn.q",
            "layers.{}.attention.k": "h.{}.attn.c_attn.k",
            "layers.{}.attention.v": "h.{}.attn.c_attn.v",
            "layers.{}.attention.o": "h.{}.attn.c_proj",
            "layers.{}.feed_forward.norm": "h.{}.ln_2",
            "layers.{}.feed_forward.up": "h.{}.mlp.c_fc",
            "layers.{}.feed_forward.down": "h.{}.mlp.c_proj",
        },
        heads=_DECODER_HEADS,
        ignored=("h.*.attn.bias", "h.*.attn.masked_bias"),
        neurons_per_hidden=4,
        transposed=("h.*.attn.c_*", "h.*.mlp.c_*"),
        fused={"h.*.attn.c_attn": ("q", "k", "v")},
        language_model="LMHeadModel",
    ),
    Family(
        model_type="llama",
        classes="Llama",
        prefix="model.",
        switches=_LLAMA_SWITCHES,
        keys=_LLAMA_KEYS | {"attention_bias": "attention_bias", "feed_forward_bias": "mlp_bias"},
        defaults=_LLAMA_DEFAULTS,
        pinned=_OFF,
        modules=_LLAMA_MODULES,
        heads=_DECODER_HEADS,
        ignored=_ANGLES,
        heads_divide=True,
    ),
    Family(
        model_type="mistral",
        classes="Mistral",
        prefix="model.",
        switches=_LLAMA_SWITCHES
        | {"attention_bias": False, "output_bias": False}
        | {"feed_forward_bias": False, "down_bias": False},
        keys=_LLAMA_KEYS | {"window": "sliding_window"},
        defaults=_LLAMA_DEFAULTS | {"sliding_window": 4096},
        pinned=_OFF,
        modules=_LLAMA_MODULES,
        heads=_DECODER_HEADS,
        ignored=_ANGLES,
    ),
    Family(
        model_type="qwen2",
        classes="Qwen2",
        prefix="model.",
        switches=_LLAMA_SWITCHES
        | {"attention_bias": True, "output_bias": False}
        | {"feed_forward_bias": False, "down_bias": False},
        keys=_LLAMA_KEYS | _LATE_WINDOW_KEYS,
        defaults=_LLAMA_DEFAULTS | _LATE_WINDOW_DEFAULTS,
        pinned=_OFF,
        modules=_LLAMA_MODULES,
        heads=_DECODER_HEADS,
        ignored=_ANGLES,
        unlisted=("head_dim",),
    ),
    Family(
        model_type="qwen3",
        classes="Qwen3",
        prefix="model.",
        switches=_LLAMA_SWITCHES | {"query_key_norm": True, "feed_forward_bias": False, "down_bias": False},
        keys=_LLAMA_KEYS | {"attention_bias": "attention_bias"} | _LATE_WINDOW_KEYS,
        defaults=_LLAMA_DEFAULTS | {"head_dim": 128} | _LATE_WINDOW_DEFAULTS,
        pinned=_OFF,
        modules=_LLAMA_MODULES | _INNER_NORMS,
        heads=_DECODER_HEADS,
        ignored=_ANGLES,
    ),
)

FAMILIES: Mapping[str, Family] = MappingProxyType({row.model_type: row for row in _ROWS})
"""Our rows by their model_type."""

ACTIVATION_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "gelu": "gelu",
        "gelu_python": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "relu": "relu",
        "silu": "silu",
        "swish": "silu",
    }
)
