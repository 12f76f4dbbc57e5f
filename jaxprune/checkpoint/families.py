"""The families of Transformers that we read: one row each, names of tensors and switches, no code.

Names of tensors are those of the PyTorch files, without the encoder's prefix ("bert."), which a file may have or lack.
Flax files need no second table: `read` gives their tensors the same names and the same layout, [out, in].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Head:
    """One kind of task head: the modules that hold it, and what lies between them."""

    output: str  # the module that gives the logits
    pooler: str | None = None  # the dense layer on the pooled token before it
    activation: Literal["none", "tanh", "relu"] = "none"  # after the pooler


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one `model_type` names its tensors and its settings.

    `keys` says under which key of config.json a size lies; a size whose key is missing there and in `defaults` is an
    error. `pinned` are settings that would change the result, with the one value that we compute.
    """

    model_type: str
    classes: str  # how the names under "architectures" start: BertModel, BertForMaskedLM, …
    prefix: str  # before the names of the encoder's tensors, in files that hold a head as well
    switches: Mapping[str, Any] = field(default_factory=dict)  # fields of Architecture that the whole family shares
    keys: Mapping[str, str]
    defaults: Mapping[str, Any]  # what transformers takes where config.json is silent
    pinned: Mapping[str, Any]
    modules: Mapping[str, str]  # our module -> theirs; {} stands for the number of the layer
    heads: Mapping[str, Head]
    pretrained_pooler: bool = False  # the pooler is part of the encoder, so that a new head starts from it
    ignored: tuple[str, ...]  # patterns of tensors that no head of ours reads: language model heads, buffers


# What has to be off, in every family: a decoder, cut heads, weights that are not plain numbers, code from the hub.
_OFF = {
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "quantization_config": None,
    "auto_map": None,
}

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
            "classification": Head(output="classifier", pooler="pooler.dense", activation="tanh"),
            "question_answering": Head(output="qa_outputs"),
        },
        pretrained_pooler=True,
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
            "classification": Head(output="classifier.out_proj", pooler="classifier.dense", activation="tanh"),
            "question_answering": Head(output="qa_outputs"),
        },
        ignored=("lm_head.*", "pooler.dense.*", "embeddings.position_ids", "embeddings.token_type_ids"),
    ),
    Family(
        model_type="distilbert",
        classes="DistilBert",
        prefix="distilbert.",
        switches={"token_types": 0, "norm_eps": 1e-12},
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
            "classification": Head(output="classifier", pooler="pre_classifier", activation="relu"),
            "question_answering": Head(output="qa_outputs"),
        },
        ignored=("vocab_transform.*", "vocab_layer_norm.*", "vocab_projector.*", "embeddings.position_ids"),
    ),
)

FAMILIES: Mapping[str, Family] = MappingProxyType({row.model_type: row for row in _ROWS})

ACTIVATIONS: Mapping[str, str] = MappingProxyType(
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

# Keys of config.json that leave the logits as they are: bookkeeping, training, generation. A key that is neither here
# nor in a family's row is an error, for it may change the mathematics.
HARMLESS = frozenset(
    """
    architectures model_type transformers_version torch_dtype dtype name name_or_path finetuning_task
    task_specific_params language license tags tokenizer_class model_max_length max_seq_length do_lower_case revision
    n_gpu attn_implementation sentence_transformers sbert_ce_default_activation_function
    id2label label2id num_labels problem_type
    summary_type summary_use_proj summary_activation summary_first_dropout summary_proj_to_labels xla_device
    use_cache gradient_checkpointing initializer_range initializer_factor chunk_size_feed_forward torchscript
    use_bfloat16 tf_legacy_loss output_attentions output_hidden_states output_past return_dict use_return_dict
    attention_probs_dropout_prob attention_dropout classifier_dropout qa_dropout seq_classif_dropout
    hidden_dropout_prob dropout sinusoidal_pos_embds tie_word_embeddings tie_encoder_decoder tie_weights_
    cross_attention_hidden_size
    directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
    bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id unk_token_id decoder_start_token_id prefix
    min_length max_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    """.split()
)
