"""Model families as rows of a table: names of tensors, and what their `config.json` says of the architecture.

A new family is a new row. Patterns name a parameter of ours and the tensor of theirs; `{}` is the layer's number.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..errors import CheckpointError
from ..model.architecture import Architecture, LayerSizes

Config = Mapping[str, Any]

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "silu": "silu"}

# Keys of a configuration that change the mathematics, with the values under which our forward pass is right.
PLAIN: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
        "is_encoder_decoder": (False, None),
        "position_embedding_type": ("absolute", None),
        "embedding_size": (None,),  # a factorised embedding; equal to the hidden size it would be harmless
        "quantization_config": (None,),
        "auto_map": (None,),  # the model's code lives beside its weights; we run none
        "sinusoidal_pos_embds": (False, True, None),  # the table is in the file either way
    }
)

# What transformers writes into every configuration and what only training reads.
HARMLESS = frozenset(
    """architectures model_type transformers_version torch_dtype dtype _name_or_path name_or_path id2label label2id
    num_labels problem_type finetuning_task initializer_range use_cache gradient_checkpointing classifier_dropout
    hidden_dropout_prob attention_probs_dropout_prob attention_dropout dropout seq_classif_dropout qa_dropout
    output_attentions output_hidden_states output_past return_dict tie_word_embeddings tie_weights_
    pad_token_id bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id unk_token_id decoder_start_token_id
    pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type directionality
    chunk_size_feed_forward pruned_heads language max_length min_length do_sample num_beams temperature top_k top_p
    torchscript use_bfloat16 prefix task_specific_params tokenizer_class bad_words_ids cross_attention_hidden_size
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens forced_bos_token_id
    forced_eos_token_id diversity_penalty early_stopping encoder_no_repeat_ngram_size length_penalty
    no_repeat_ngram_size num_beam_groups num_return_sequences output_scores repetition_penalty
    return_dict_in_generate tf_legacy_loss typical_p attn_implementation _attn_implementation
    _attn_implementation_autoset sentence_transformers n_gpu""".split()
)


@dataclass(frozen=True)
class Family:
    """One row: everything that tells a family's checkpoints from another's."""

    model_type: str
    prefix: str  # before every tensor of the encoder; may be missing in a file
    layer: Mapping[str, str]  # our name inside a layer -> theirs, without the ending
    outer: Mapping[str, str]  # our name outside the layers -> theirs, with the ending
    classifier: Mapping[str, str]  # pooler and head of a sequence classifier (names without the ending)
    pooler: str  # its activation
    sizes: Mapping[str, str]  # our word -> their key of config.json
    switches: Callable[[Config], dict[str, Any]]  # fields of Architecture beyond the sizes
    ignored: tuple[str, ...] = ()  # beginnings of tensor names that other heads and buffers use

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(self.sizes.values()) | {"vocab_size", "type_vocab_size", "layer_norm_eps"}


BERT_LAYER = {
    "attention.q": "encoder.layer.{}.attention.self.query",
    "attention.k": "encoder.layer.{}.attention.self.key",
    "attention.v": "encoder.layer.{}.attention.self.value",
    "attention.o": "encoder.layer.{}.attention.output.dense",
    "attention.norm": "encoder.layer.{}.attention.output.LayerNorm",
    "feed_forward.up": "encoder.layer.{}.intermediate.dense",
    "feed_forward.down": "encoder.layer.{}.output.dense",
    "feed_forward.norm": "encoder.layer.{}.output.LayerNorm",
}
BERT_OUTER = {
    "embed.token": "embeddings.word_embeddings",
    "embed.position": "embeddings.position_embeddings",
    "embed.type": "embeddings.token_type_embeddings",
    "embed.norm": "embeddings.LayerNorm",
}
BERT_SIZES = {
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "layers": "num_hidden_layers",
    "neurons": "intermediate_size",
    "activation": "hidden_act",
    "positions": "max_position_embeddings",
    "dropout": "hidden_dropout_prob",
}


def _bert_switches(config: Config) -> dict[str, Any]:
    return {
        "token_types": config.get("type_vocab_size", 2),
        "norm_eps": config.get("layer_norm_eps", 1e-12),
        "pad_id": config.get("pad_token_id") or 0,
    }


def _roberta_switches(config: Config) -> dict[str, Any]:
    # Positions count real tokens and start after the padding id's row.
    pad = config.get("pad_token_id", 1)
    offset = pad + 1
    return _bert_switches(config) | {
        "pad_id": pad,
        "position_offset": offset,
        "positions_count": "tokens",
        "max_positions": config.get("max_position_embeddings", 514) - offset,
    }


def _distilbert_switches(config: Config) -> dict[str, Any]:
    return {"token_types": 0, "norm_eps": 1e-12, "pad_id": config.get("pad_token_id") or 0}


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        row.model_type: row
        for row in (
            Family(
                model_type="bert",
                prefix="bert.",
                layer=BERT_LAYER,
                outer=BERT_OUTER,
                classifier={"pooler": "bert.pooler.dense", "head": "classifier"},
                pooler="tanh",
                sizes=BERT_SIZES,
                switches=_bert_switches,
                ignored=("cls.", "embeddings.position_ids", "pooler.", "classifier.", "qa_outputs."),
            ),
            Family(
                model_type="roberta",
                prefix="roberta.",
                layer=BERT_LAYER,
                outer=BERT_OUTER,
                classifier={"pooler": "classifier.dense", "head": "classifier.out_proj"},
                pooler="tanh",
                sizes=BERT_SIZES,
                switches=_roberta_switches,
                ignored=("lm_head.", "embeddings.position_ids", "pooler.", "classifier.", "qa_outputs."),
            ),
            Family(
                model_type="distilbert",
                prefix="distilbert.",
                layer={
                    "attention.q": "transformer.layer.{}.attention.q_lin",
                    "attention.k": "transformer.layer.{}.attention.k_lin",
                    "attention.v": "transformer.layer.{}.attention.v_lin",
                    "attention.o": "transformer.layer.{}.attention.out_lin",
                    "attention.norm": "transformer.layer.{}.sa_layer_norm",
                    "feed_forward.up": "transformer.layer.{}.ffn.lin1",
                    "feed_forward.down": "transformer.layer.{}.ffn.lin2",
                    "feed_forward.norm": "transformer.layer.{}.output_layer_norm",
                },
                outer={name: tensor for name, tensor in BERT_OUTER.items() if name != "embed.type"},
                classifier={"pooler": "pre_classifier", "head": "classifier"},
                pooler="relu",
                sizes={
                    "hidden": "dim",
                    "heads": "n_heads",
                    "layers": "n_layers",
                    "neurons": "hidden_dim",
                    "activation": "activation",
                    "positions": "max_position_embeddings",
                    "dropout": "dropout",
                },
                switches=_distilbert_switches,
                ignored=("vocab_", "embeddings.position_ids", "pre_classifier.", "classifier.", "qa_outputs."),
            ),
        )
    }
)

HEADS = {
    "ForSequenceClassification": "classification",
    "ForQuestionAnswering": "question_answering",
}


def family_of(config: Config) -> Family:
    """The row for a configuration. Raises `CheckpointError` naming the families there are."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise CheckpointError(
            f"model type {kind!r} is not supported; supported are {', '.join(FAMILIES)}. A new family is a row in "
            "jaxprune/checkpoint/families.py."
        )
    return FAMILIES[kind]


def head_of(config: Config) -> str:
    """The task head that the configuration's `architectures` names: classification, question_answering or none."""
    for name in config.get("architectures") or ():
        for ending, head in HEADS.items():
            if name.endswith(ending):
                return head
    return "none"


def labels_of(config: Config) -> tuple[str, ...]:
    """Names of the labels in order; transformers' default is two."""
    names = config.get("id2label")
    if names:
        return tuple(str(names[key]) for key in sorted(names, key=int))
    return tuple(f"LABEL_{index}" for index in range(config.get("num_labels", 2)))


def architecture_of(
    config: Config, head: str | None = None, labels: tuple[str, ...] | None = None, problem: str | None = None
) -> Architecture:
    """The architecture a configuration describes; arguments that are not None win over it.

    Raises `CheckpointError` for a setting that is missing, or that our forward pass does not implement.
    """
    family = family_of(config)
    for key, value in config.items():
        if key in PLAIN:
            if value not in PLAIN[key]:
                raise CheckpointError(f"config.json sets {key} to {value!r}, which is not supported; expected {PLAIN[key][0]!r}.")
        elif key not in HARMLESS and key not in family.keys:
            raise CheckpointError(
                f"config.json has the key {key!r}, which {family.model_type} models here do not know; remove it if it "
                "does not change the mathematics."
            )
    size = {}
    for word, key in family.sizes.items():
        if key not in config and word != "dropout":
            raise CheckpointError(f"config.json has no {key}; a {family.model_type} checkpoint needs it.")
        size[word] = config.get(key)
    if size["activation"] not in ACTIVATIONS:
        raise CheckpointError(
            f"activation {size['activation']!r} is not supported; supported are {', '.join(ACTIVATIONS)}."
        )
    if size["hidden"] % size["heads"]:
        raise CheckpointError(f"hidden size {size['hidden']} is not a multiple of the {size['heads']} heads.")
    head = head or head_of(config)
    labels = labels if labels is not None else labels_of(config)
    if problem is None:
        named = {"multi_label_classification": "multi_label", "regression": "regression"}
        problem = named.get(config.get("problem_type") or "", "regression" if len(labels) == 1 else "single_label")
    fields: dict[str, Any] = {
        "family": family.model_type,
        "vocab": config["vocab_size"],
        "hidden": size["hidden"],
        "head_width": size["hidden"] // size["heads"],
        "layers": (LayerSizes(groups=size["heads"], neurons=size["neurons"]),) * size["layers"],
        "max_positions": size["positions"],
        "activation": ACTIVATIONS[size["activation"]],
        "head": head,
        "labels": labels if head == "classification" else (),
        "problem": problem,
        "pooler": family.pooler if head == "classification" else "none",
        "dropout": size["dropout"] if size["dropout"] is not None else 0.1,
    }
    return Architecture(**(fields | family.switches(config)))
