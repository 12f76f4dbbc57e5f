"""The rows of decoders: what says a text token by token."""

from .family import OFF, Family, HeadModules

_DECODER = {"causal": True, "norm_position": "pre", "embed_norm": False}
DECODER_HEADS = {
    "causal_lm": HeadModules(output="lm_head"),
    "classification": HeadModules(output="score", token="last", bias=False),
}

LLAMA_KEYS = {
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
LLAMA_SWITCHES = _DECODER | {"norm": "rms", "gated": True, "positions": "rotary", "dropout": 0.0}
LLAMA_DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
LLAMA_MODULES = {
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
ANGLES = ("*rotary_emb.inv_freq",)  # old files hold them; they follow from config.json
INNER_NORMS = {
    "layers.{}.attention.q_norm": "layers.{}.self_attn.q_norm",
    "layers.{}.attention.k_norm": "layers.{}.self_attn.k_norm",
}
# Layers from some number on see only so many tokens back, where that is switched on.
_LATE_WINDOW_KEYS = {"window": "sliding_window", "window_on": "use_sliding_window", "window_from": "max_window_layers"}
_LATE_WINDOW_KEYS |= {"layer_types": "layer_types"}
_LATE_WINDOW_DEFAULTS = {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28}

DECODERS = (
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
        pinned=OFF | {"enable_bias": True, "layer_norm_elementwise_affine": True, "_remove_final_layer_norm": False},
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
        heads=DECODER_HEADS,
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
        pinned=OFF | {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
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
        heads=DECODER_HEADS,
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
        switches=LLAMA_SWITCHES,
        keys=LLAMA_KEYS | {"attention_bias": "attention_bias", "feed_forward_bias": "mlp_bias"},
        defaults=LLAMA_DEFAULTS,
        pinned=OFF,
        modules=LLAMA_MODULES,
        heads=DECODER_HEADS,
        ignored=ANGLES,
        heads_divide=True,
    ),
    Family(
        model_type="mistral",
        classes="Mistral",
        prefix="model.",
        switches=LLAMA_SWITCHES
        | {"attention_bias": False, "output_bias": False}
        | {"feed_forward_bias": False, "down_bias": False},
        keys=LLAMA_KEYS | {"window": "sliding_window"},
        defaults=LLAMA_DEFAULTS | {"sliding_window": 4096},
        pinned=OFF,
        modules=LLAMA_MODULES,
        heads=DECODER_HEADS,
        ignored=ANGLES,
    ),
    Family(
        model_type="qwen2",
        classes="Qwen2",
        prefix="model.",
        switches=LLAMA_SWITCHES
        | {"attention_bias": True, "output_bias": False}
        | {"feed_forward_bias": False, "down_bias": False},
        keys=LLAMA_KEYS | _LATE_WINDOW_KEYS,
        defaults=LLAMA_DEFAULTS | _LATE_WINDOW_DEFAULTS,
        pinned=OFF,
        modules=LLAMA_MODULES,
        heads=DECODER_HEADS,
        ignored=ANGLES,
        unlisted=("head_dim",),
    ),
    Family(
        model_type="qwen3",
        classes="Qwen3",
        prefix="model.",
        switches=LLAMA_SWITCHES | {"query_key_norm": True, "feed_forward_bias": False, "down_bias": False},
        keys=LLAMA_KEYS | {"attention_bias": "attention_bias"} | _LATE_WINDOW_KEYS,
        defaults=LLAMA_DEFAULTS | {"head_dim": 128} | _LATE_WINDOW_DEFAULTS,
        pinned=OFF,
        modules=LLAMA_MODULES | INNER_NORMS,
        heads=DECODER_HEADS,
        ignored=ANGLES,
    ),
    Family(
        model_type="smollm3",
        classes="SmolLM3",
        prefix="model.",
        switches=LLAMA_SWITCHES,
        keys=LLAMA_KEYS
        | {"attention_bias": "attention_bias", "feed_forward_bias": "mlp_bias"}
        | {"window": "sliding_window", "window_on": "use_sliding_window", "layer_types": "layer_types"},
        defaults=LLAMA_DEFAULTS
        | {"num_key_value_heads": 4, "tie_word_embeddings": True, "pad_token_id": 128004, "rope_theta": 2_000_000.0}
        | {"sliding_window": None, "use_sliding_window": False},
        pinned=OFF,
        modules=LLAMA_MODULES,
        heads=DECODER_HEADS,
        ignored=ANGLES,
        unturned=("no_rope_layers", "no_rope_layer_interval", 4),
    ),
    Family(
        model_type="olmo2",
        classes="Olmo2",
        prefix="model.",
        switches=LLAMA_SWITCHES
        | {"norm_position": "update", "query_key_norm": True, "whole_query_key_norm": True}
        | {"feed_forward_bias": False, "down_bias": False},
        keys=LLAMA_KEYS | {"attention_bias": "attention_bias"},
        defaults=LLAMA_DEFAULTS | {"rms_norm_eps": 1e-5, "pad_token_id": 1},
        pinned=OFF,
        modules={name: module for name, module in LLAMA_MODULES.items() if not name.endswith("}.attention.norm")}
        | {
            "layers.{}.attention.update_norm": "layers.{}.post_attention_layernorm",
            "layers.{}.feed_forward.update_norm": "layers.{}.post_feedforward_layernorm",
        }
        | INNER_NORMS,
        heads=DECODER_HEADS,
        ignored=ANGLES,
        unlisted=("head_dim",),
    ),
    Family(
        model_type="phi3",
        classes="Phi3",
        prefix="model.",
        switches=LLAMA_SWITCHES
        | {"attention_bias": False, "output_bias": False}
        | {"feed_forward_bias": False, "down_bias": False},
        keys=LLAMA_KEYS | {"window": "sliding_window"},
        defaults=LLAMA_DEFAULTS
        | {"rms_norm_eps": 1e-5, "pad_token_id": 32000, "sliding_window": None}
        | {"original_max_position_embeddings": 4096},
        pinned=OFF,
        modules={
            **LLAMA_MODULES,
            **{f"layers.{{}}.attention.{name}": f"layers.{{}}.self_attn.qkv_proj.{name}" for name in "qkv"},
            **{f"layers.{{}}.feed_forward.{name}": f"layers.{{}}.mlp.gate_up_proj.{name}" for name in ("gate", "up")},
        },
        heads=DECODER_HEADS,
        ignored=ANGLES,
        fused={"layers.*.self_attn.qkv_proj": ("q", "k", "v"), "layers.*.mlp.gate_up_proj": ("gate", "up")},
        unlisted=("head_dim",),
        rotary_names={"su": "longrope", "yarn": "longrope"},  # what the first files call it, as transformers reads them
        published_code=("configuration_phi3.*", "modeling_phi3.*"),
        shared_config=True,
        # Phi3Config wants as many factors as hidden_size // num_attention_heads has pairs, whatever head_dim says.
        with_factors={"heads_fixed": True},
        partly_turned=True,
    ),
)
