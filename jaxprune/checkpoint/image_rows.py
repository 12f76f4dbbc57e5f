"""The rows of families that read images."""

from dataclasses import replace

from .family import OFF, Family, HeadModules

_VIT = Family(
    model_type="vit",
    classes="ViT",
    prefix="vit.",
    switches={"norm_position": "pre", "embed_norm": False},
    keys={
        "hidden": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "neurons": "intermediate_size",
        "image": "image_size",
        "patch": "patch_size",
        "channels": "num_channels",
        "input_bias": "qkv_bias",
        "norm_eps": "layer_norm_eps",
        "activation": "hidden_act",
        "dropout": "hidden_dropout_prob",
    },
    defaults={
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "qkv_bias": True,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
    },
    pinned=OFF,
    modules={
        "embed.token": "embeddings.cls_token",
        "embed.position": "embeddings.position_embeddings",
        "embed.patch": "embeddings.patch_embeddings.projection",
        "layers.{}.attention.norm": "encoder.layer.{}.layernorm_before",
        "layers.{}.attention.q": "encoder.layer.{}.attention.attention.query",
        "layers.{}.attention.k": "encoder.layer.{}.attention.attention.key",
        "layers.{}.attention.v": "encoder.layer.{}.attention.attention.value",
        "layers.{}.attention.o": "encoder.layer.{}.attention.output.dense",
        "layers.{}.feed_forward.norm": "encoder.layer.{}.layernorm_after",
        "layers.{}.feed_forward.up": "encoder.layer.{}.intermediate.dense",
        "layers.{}.feed_forward.down": "encoder.layer.{}.output.dense",
        "final_norm": "layernorm",
    },
    heads={"classification": HeadModules(output="classifier")},
    stacked={
        "embeddings.cls_token": ("embeddings.cls_token",),
        "embeddings.position_embeddings": ("embeddings.position_embeddings",),
    },
    convolutions=("embeddings.patch_embeddings.projection",),
    # The modules of transformers 5.20 and later, which reads and writes the names above, too.
    renamed=(
        (r"(^|\.)layers\.(\d+)\.attention\.o_proj\.", r"\1encoder.layer.\2.attention.output.dense."),
        (r"(^|\.)layers\.(\d+)\.attention\.q_proj\.", r"\1encoder.layer.\2.attention.attention.query."),
        (r"(^|\.)layers\.(\d+)\.attention\.k_proj\.", r"\1encoder.layer.\2.attention.attention.key."),
        (r"(^|\.)layers\.(\d+)\.attention\.v_proj\.", r"\1encoder.layer.\2.attention.attention.value."),
        (r"(^|\.)layers\.(\d+)\.mlp\.fc1\.", r"\1encoder.layer.\2.intermediate.dense."),
        (r"(^|\.)layers\.(\d+)\.mlp\.fc2\.", r"\1encoder.layer.\2.output.dense."),
        (r"(^|\.)layers\.(\d+)\.layernorm_", r"\1encoder.layer.\2.layernorm_"),
    ),
    endings={"ForSequenceClassification": "ForImageClassification"},
    drawn=("pooler.dense",),
    ignored=("pooler.dense.*", "embeddings.mask_token", "decoder.*"),
)

IMAGES = (
    _VIT,
    replace(
        _VIT,
        model_type="deit",
        classes="DeiT",
        prefix="deit.",
        modules=dict(_VIT.modules) | {"embed.token": "embeddings.cls_token+distillation_token"},
        stacked={
            "embeddings.cls_token+distillation_token": ("embeddings.cls_token", "embeddings.distillation_token"),
            "embeddings.position_embeddings": ("embeddings.position_embeddings",),
        },
        averaged=("cls_classifier", "distillation_classifier"),
    ),
)
