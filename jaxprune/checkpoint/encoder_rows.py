"""The rows of encoders: what reads a text from both sides."""

from dataclasses import replace

from ..model.attention_kinds import Relative
from .family import OFF, Family, HeadModules
from .sliding import FULL, SLIDING

BERT_KEYS = {
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
BERT_DEFAULTS = {
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "pad_token_id": 0,
}
BERT_MODULES = {
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

_ROBERTA = Family(
    model_type="roberta",
    classes="Roberta",
    prefix="roberta.",
    # The first pad_id + 1 rows of the position table come before position 0, and padding is told by its id.
    switches={"positions_count": "tokens"},
    keys=BERT_KEYS,
    defaults=BERT_DEFAULTS | {"pad_token_id": 1},
    pinned=OFF | {"position_embedding_type": "absolute"},
    modules=BERT_MODULES,
    heads={
        "classification": HeadModules(output="classifier.out_proj", pooler="classifier.dense", activation="tanh"),
        "token_classification": HeadModules(output="classifier"),
        "question_answering": HeadModules(output="qa_outputs"),
        "masked_lm": HeadModules(output="lm_head", transform="lm_head.dense", transform_norm="lm_head.layer_norm"),
    },
    drawn=("pooler.dense",),
    ignored=("lm_head.*", "pooler.dense.*", "embeddings.position_ids", "embeddings.token_type_ids"),
)

_PREDICTION_HEAD = HeadModules(
    output="classifier", pooler="head.dense", activation="gelu", pooler_norm="head.norm"
)  # of ModernBERT, whatever the task

WORDS_OF_BERT = HeadModules(
    output="cls.predictions",
    transform="cls.predictions.transform.dense",
    transform_norm="cls.predictions.transform.LayerNorm",
    transform_activation="own",
)
ENCODERS = (
    Family(
        model_type="bert",
        classes="Bert",
        prefix="bert.",
        keys=BERT_KEYS,
        defaults=BERT_DEFAULTS,
        pinned=OFF | {"position_embedding_type": "absolute"},
        modules=BERT_MODULES,
        heads={
            "classification": HeadModules(output="classifier", pooler="pooler.dense", activation="tanh"),
            "token_classification": HeadModules(output="classifier"),
            "question_answering": HeadModules(output="qa_outputs"),
            "masked_lm": WORDS_OF_BERT,
        },
        pretrained_pooler=True,
        drawn=("pooler.dense",),
        ignored=("cls.*", "embeddings.position_ids", "embeddings.token_type_ids"),
    ),
    _ROBERTA,
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
        pinned=OFF,
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
            "masked_lm": HeadModules(
                output="vocab_projector",
                transform="vocab_transform",
                transform_norm="vocab_layer_norm",
                transform_activation="own",
            ),
        },
        ignored=("vocab_transform.*", "vocab_layer_norm.*", "vocab_projector.*", "embeddings.position_ids"),
    ),
    replace(_ROBERTA, model_type="xlm-roberta", classes="XLMRoberta"),
    replace(_ROBERTA, model_type="camembert", classes="Camembert"),
    Family(
        model_type="electra",
        classes="Electra",
        prefix="electra.",
        switches={"embed_projects": "sum"},
        keys=BERT_KEYS | {"embed_width": "embedding_size"},
        defaults=BERT_DEFAULTS | {"embedding_size": 128},
        pinned=OFF | {"position_embedding_type": "absolute"},
        modules=BERT_MODULES | {"embed.project": "embeddings_project"},
        heads={
            "classification": HeadModules(output="classifier.out_proj", pooler="classifier.dense", activation="gelu"),
            "token_classification": HeadModules(output="classifier"),
            "question_answering": HeadModules(output="qa_outputs"),
            "masked_lm": HeadModules(
                output="generator_lm_head",
                transform="generator_predictions.dense",
                transform_norm="generator_predictions.LayerNorm",
            ),
        },
        left={"discriminator_predictions": "discriminator"},
        ignored=(
            *("discriminator_predictions.*", "generator_predictions.*", "generator_lm_head.*", "sequence_summary.*"),
            *("embeddings.position_ids", "embeddings.token_type_ids"),
        ),
    ),
    Family(
        model_type="mpnet",
        classes="MPNet",
        prefix="mpnet.",
        switches={"positions_count": "tokens", "token_types": 0, "attention": Relative()},
        keys={name: key for name, key in BERT_KEYS.items() if name != "token_types"},
        defaults={name: value for name, value in _ROBERTA.defaults.items() if name != "type_vocab_size"},
        # transformers counts positions from behind row 1, whatever padding's id, and 32 buckets, whatever the table.
        pinned=OFF | {"pad_token_id": 1, "relative_attention_num_buckets": 32},
        modules={
            **{name: module for name, module in BERT_MODULES.items() if name != "embed.type"},
            **{f"layers.{{}}.attention.{name}": f"encoder.layer.{{}}.attention.attn.{name}" for name in "qkvo"},
            "layers.{}.attention.norm": "encoder.layer.{}.attention.LayerNorm",
            "layers.{}.attention.relative": "encoder.relative_attention_bias",
        },
        heads=_ROBERTA.heads,
        drawn=("pooler.dense",),
        ignored=("lm_head.*", "pooler.dense.*", "embeddings.position_ids"),
    ),
    Family(
        model_type="modernbert",
        classes="ModernBert",
        prefix="model.",
        switches={"norm_position": "pre", "first_norm": False, "gated": True, "positions": "rotary", "token_types": 0}
        | {"dropout": 0.0},
        keys={
            "vocab": "vocab_size",
            "hidden": "hidden_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "neurons": "intermediate_size",
            "positions": "max_position_embeddings",
            "norm_eps": "norm_eps",
            "norm_bias": "norm_bias",
            "activation": "hidden_activation",
            "pad_id": "pad_token_id",
            "attention_bias": "attention_bias",
            "feed_forward_bias": "mlp_bias",
            "window": "local_attention",
            "layer_types": "layer_types",
            "pool": "classifier_pooling",
            "pooler_bias": "classifier_bias",
        },
        defaults={
            "norm_eps": 1e-5,
            "norm_bias": False,
            "hidden_activation": "gelu",
            "pad_token_id": 50283,
            "attention_bias": False,
            "mlp_bias": False,
            "local_attention": 128,
            "classifier_pooling": "cls",
            "classifier_bias": False,
        },
        # The epsilon is left over in published files, and read by nothing. transformers reads sliding_window as half of
        # local_attention, and never writes it.
        pinned=OFF | {"classifier_activation": "gelu", "layer_norm_eps": 1e-5, "sliding_window": None},
        modules={
            "embed.token": "embeddings.tok_embeddings",
            "embed.norm": "embeddings.norm",
            "layers.{}.attention.norm": "layers.{}.attn_norm",
            **{f"layers.{{}}.attention.{name}": f"layers.{{}}.attn.Wqkv.{name}" for name in "qkv"},
            "layers.{}.attention.o": "layers.{}.attn.Wo",
            "layers.{}.feed_forward.norm": "layers.{}.mlp_norm",
            **{f"layers.{{}}.feed_forward.{name}": f"layers.{{}}.mlp.Wi.{name}" for name in ("gate", "up")},
            "layers.{}.feed_forward.down": "layers.{}.mlp.Wo",
            "final_norm": "final_norm",
        },
        heads={
            **dict.fromkeys(("classification", "token_classification", "question_answering"), _PREDICTION_HEAD),
            "masked_lm": HeadModules(
                output="decoder", transform="head.dense", transform_norm="head.norm", told_by="decoder.bias"
            ),
        },
        shared_pooler=True,
        ignored=("head.*", "decoder.*"),
        fused={"layers.*.attn.Wqkv": ("q", "k", "v"), "layers.*.mlp.Wi": ("gate", "up")},
        full_every=("global_attn_every_n_layers", 3, 0),
        rotary_bases={FULL: ("global_rope_theta", 160_000.0), SLIDING: ("local_rope_theta", 10_000.0)},
        scaled_types=(FULL, SLIDING),
    ),
)
