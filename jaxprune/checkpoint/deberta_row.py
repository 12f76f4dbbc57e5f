"""The row of DeBERTa v2 and v3: BERT whose attention scores distances, too."""

from .encoder_rows import BERT_DEFAULTS, BERT_KEYS, BERT_MODULES, WORDS_OF_BERT
from .family import OFF, Family, HeadModules

_HEADS = {
    "classification": HeadModules(output="classifier", pooler="pooler.dense", activation="gelu"),
    "token_classification": HeadModules(output="classifier"),
    "question_answering": HeadModules(output="qa_outputs"),
    "masked_lm": WORDS_OF_BERT,
}
# With "legacy": false in config.json; the published files have this one, though theirs do not say so.
_NEW_WORDS = HeadModules(
    output="lm_predictions.lm_head",
    transform="lm_predictions.lm_head.dense",
    transform_norm="lm_predictions.lm_head.LayerNorm",
    transform_activation="own",
)
_PROJECTIONS = {"q": "query_proj", "k": "key_proj", "v": "value_proj"}
_PROJECTIONS |= {"distance_k": "pos_key_proj", "distance_q": "pos_query_proj"}

DEBERTA = Family(
    model_type="deberta-v2",  # v3, too
    classes="DebertaV2",
    prefix="deberta.",
    switches={"embed_projects": "tables", "padding_blank": True},
    keys=BERT_KEYS
    | {
        "embed_width": "embedding_size",
        "distances_on": "relative_attention",
        "distance_types": "pos_att_type",
        "distance_shared": "share_att_key",
        "distance_norm": "norm_rel_ebd",
        "distance_buckets": "position_buckets",
        "distance_reach": "max_relative_positions",
        "positions_added": "position_biased_input",
        "head_size": "attention_head_size",
        "pooler": "pooler_hidden_act",
        "pooler_width": "pooler_hidden_size",
        "legacy": "legacy",
    },
    defaults=BERT_DEFAULTS
    | {
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        "relative_attention": False,
        "share_att_key": False,
        "norm_rel_ebd": "none",
        "position_buckets": -1,
        "max_relative_positions": -1,
        "position_biased_input": True,
        "pooler_hidden_act": "gelu",
    },
    pinned=OFF | {"conv_kernel_size": 0},
    modules={
        **BERT_MODULES,
        "embed.project": "embeddings.embed_proj",
        **{
            f"layers.{{}}.attention.{name}": f"encoder.layer.{{}}.attention.self.{module}"
            for name, module in _PROJECTIONS.items()
        },
        "layers.{}.attention.distances": "encoder.rel_embeddings",
        "layers.{}.attention.distances.norm": "encoder.LayerNorm",
    },
    heads=_HEADS,
    variant=(
        *("legacy", True, False),
        {
            "heads": _HEADS | {"masked_lm": _NEW_WORDS},
            "left": {"mask_predictions": "discriminator"},
        },
    ),
    left={
        "mask_predictions": "discriminator",
        "lm_predictions": 'masked language model\'s head ("legacy": false reads it)',
    },
    ignored=(
        *("cls.*", "lm_predictions.*", "mask_predictions.*"),
        *("embeddings.position_ids", "embeddings.position_embeddings.*"),
    ),
)
