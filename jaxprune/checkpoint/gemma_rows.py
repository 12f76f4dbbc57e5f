"""The rows of Gemma 1, 2 and 3: decoders that scale their embeddings, and norms that multiply by 1 + their weights."""

from .decoder_rows import ANGLES, DECODER_HEADS, INNER_NORMS, LLAMA_KEYS, LLAMA_MODULES, LLAMA_SWITCHES
from .family import OFF, Family
from .sliding import FULL, SLIDING

_SWITCHES = LLAMA_SWITCHES | {
    "norm_plus_one": True,
    "embed_scaled": True,
    "feed_forward_bias": False,
    "down_bias": False,
}
_KEYS = LLAMA_KEYS | {"attention_bias": "attention_bias"}
_DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "head_dim": 256,
    "attention_bias": False,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}
_OFF = OFF | {"use_bidirectional_attention": False}
# Norms before a half, and of what it adds to the stream.
_AROUND = {
    "layers.{}.attention.update_norm": "layers.{}.post_attention_layernorm",
    "layers.{}.feed_forward.norm": "layers.{}.pre_feedforward_layernorm",
    "layers.{}.feed_forward.update_norm": "layers.{}.post_feedforward_layernorm",
}
_WINDOWS = {
    "activation": "hidden_activation",
    "attention_scalar": "query_pre_attn_scalar",
    "logit_cap": "final_logit_softcapping",
    "window": "sliding_window",
    "layer_types": "layer_types",
}

GEMMAS = (
    Family(
        model_type="gemma",
        classes="Gemma",
        prefix="model.",
        switches=_SWITCHES,
        keys=_KEYS,
        defaults=_DEFAULTS | {"num_key_value_heads": 16, "hidden_act": "gelu_pytorch_tanh"},
        # A key of transformers 4; version 5 passes over it.
        pinned=_OFF | {"hidden_activation": "gelu_pytorch_tanh"},
        modules=LLAMA_MODULES,
        heads=DECODER_HEADS,
        ignored=ANGLES,
        activations={"gelu": "gelu_pytorch_tanh"},  # what the first files meant, as transformers reads them
    ),
    Family(
        model_type="gemma2",
        classes="Gemma2",
        prefix="model.",
        switches=_SWITCHES | {"norm_position": "around"},
        keys=_KEYS | _WINDOWS | {"score_cap": "attn_logit_softcapping"},
        defaults=_DEFAULTS
        | {"num_key_value_heads": 4, "query_pre_attn_scalar": 256, "sliding_window": 4096}
        | {"hidden_activation": "gelu_pytorch_tanh"}
        | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        pinned=_OFF | {"hidden_act": "gelu_pytorch_tanh", "sliding_window_pattern": 2},
        modules=LLAMA_MODULES | _AROUND,
        heads=DECODER_HEADS,
        ignored=ANGLES,
        heads_divide=True,
        full_every=(None, 2, -1),
    ),
    Family(
        model_type="gemma3_text",
        classes="Gemma3Text",
        language_classes="Gemma3",
        prefix="model.",
        switches=_SWITCHES | {"norm_position": "around", "query_key_norm": True},
        keys=_KEYS | _WINDOWS | {"both_ways": "use_bidirectional_attention"},
        defaults=_DEFAULTS
        | {"num_key_value_heads": 4, "query_pre_attn_scalar": 256, "sliding_window": 4096}
        | {"hidden_activation": "gelu_pytorch_tanh", "use_bidirectional_attention": False},
        # transformers has a key for capped scores, and caps none.
        pinned=OFF | {"hidden_act": "gelu_pytorch_tanh", "attn_logit_softcapping": None},
        modules=LLAMA_MODULES | _AROUND | INNER_NORMS,
        heads=DECODER_HEADS,
        ignored=ANGLES,
        heads_divide=True,
        full_every=("sliding_window_pattern", 6, -1),
        rotary_bases={FULL: ("rope_theta", 1_000_000.0), SLIDING: ("rope_local_base_freq", 10_000.0)},
        scaled_types=(FULL,),
    ),
)
