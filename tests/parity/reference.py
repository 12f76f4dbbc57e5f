"""Tiny random models of transformers on torch, and the inputs on which we compare."""

import copy
from typing import Any

import numpy as np

from jaxprune.checkpoint.families import FAMILIES

CLOSE = {"rtol": 0, "atol": 2e-5}  # of logits; float32, two layers

HEADS = {
    "classification": "ForSequenceClassification",
    "token_classification": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
    "causal_lm": "ForCausalLM",
    "masked_lm": "ForMaskedLM",
    "none": "Model",
}
CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "electra": "Electra",
    "mpnet": "MPNet",
    "distilbert": "DistilBert",
    "opt": "OPT",
    "gpt2": "GPT2",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3_text": "Gemma3Text",
    "smollm3": "SmolLM3",
    "olmo2": "Olmo2",
    "phi3": "Phi3",
    "modernbert": "ModernBert",
    "deberta-v2": "DebertaV2",
}
# Classes that are not named as their family's others are.
_NAMED = {("gpt2", "causal_lm"): "GPT2LMHeadModel", ("gemma3_text", "causal_lm"): "Gemma3ForCausalLM"}
_ROBERTAS = ("roberta", "xlm-roberta", "camembert")
ENCODERS = ("bert", *_ROBERTAS, "electra", "mpnet", "distilbert", "modernbert", "deberta-v2")
DECODERS = ("opt", "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
DECODERS += ("smollm3", "olmo2", "phi3")
PAIRS = [(family, head) for family in ENCODERS for head in (*FAMILIES[family].heads, "none")] + [
    (family, head) for family in DECODERS for head in ("causal_lm", "classification", "none")
]
VOCAB, LENGTH = 30, 9

_BERT = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
}
_DISTILBERT = {
    "vocab_size": VOCAB,
    "dim": 12,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 10,
    "max_position_embeddings": 20,
}
_OPT = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "ffn_dim": 10,
    "max_position_embeddings": 20,
    "word_embed_proj_dim": 12,
}
_GPT2 = {"vocab_size": VOCAB, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_inner": 10, "n_positions": 20}
_LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 10,
    "max_position_embeddings": 20,
}
_QWEN2 = {**_LLAMA, "hidden_size": 16}
SIZES: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    **dict.fromkeys(_ROBERTAS, _BERT),
    "electra": {**_BERT, "embedding_size": 7},
    "mpnet": {name: size for name, size in _BERT.items() if name != "type_vocab_size"},
    "distilbert": _DISTILBERT,
    "opt": _OPT,
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "sliding_window": None},
    "qwen2": _QWEN2,
    "qwen3": _LLAMA,
    "gemma": {**_LLAMA, "head_dim": 6},
    "gemma2": {
        **_LLAMA,
        "query_pre_attn_scalar": 5,
        "sliding_window": 4,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        **_LLAMA,
        "head_dim": 6,
        "query_pre_attn_scalar": 5,
        "sliding_window": 4,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "smollm3": {
        **_LLAMA,
        "no_rope_layers": [0, 1],
        "use_sliding_window": True,
        "sliding_window": 4,
        "pad_token_id": 0,
    },
    "olmo2": {**_LLAMA, "head_dim": 6, "pad_token_id": 0},
    "phi3": {**_QWEN2, "partial_rotary_factor": 0.5, "sliding_window": 4, "pad_token_id": 0},
    "deberta-v2": {
        **_BERT,
        "type_vocab_size": 0,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 4,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
        "embedding_size": 7,
    },
    "modernbert": {
        **{name: size for name, size in _BERT.items() if name != "type_vocab_size"},
        "local_attention": 6,
        "classifier_pooling": "mean",
        "pad_token_id": 0,
    },
}


def random_reference(family: str, head: str, seed: int = 0, **changes: Any) -> Any:
    """A torch model in evaluation mode; every parameter is random, also biases and norms, so that none is left out."""
    import torch
    import transformers

    settings = {**SIZES[family], **({"num_labels": 3} if head.endswith("classification") else {})}
    if family in DECODERS and head == "classification":
        settings["pad_token_id"] = 0  # of `cases`; without one, transformers takes one text at a time
    settings |= changes
    config = getattr(transformers, f"{CLASSES[family]}Config")(**settings)
    name = _NAMED.get((family, head), CLASSES[family] + HEADS[head])
    model = getattr(transformers, name)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.4 * torch.randn(parameter.shape, generator=generator)
            norm = ("norm" in name.lower() or ".ln_" in name) and not family.startswith("gemma")  # whose norms add 1
            parameter.copy_(noise + 1 if norm and name.endswith("weight") else noise)
    return model


def cases(family: str) -> dict[str, dict[str, np.ndarray]]:
    """Inputs by name: texts of full length, padded right and left, and with token types where the family has them."""
    random = np.random.RandomState(0)
    pad = 1 if family in (*_ROBERTAS, "mpnet") else 0
    ids = random.randint(2, VOCAB, (3, LENGTH))
    full = {"input_ids": ids}
    right, left = np.ones_like(ids), np.ones_like(ids)
    for row, length in enumerate((LENGTH, 5, 2)):
        right[row, length:] = 0
        left[row, : LENGTH - length] = 0
    out = {"full": full}
    for name, mask in (("right", right), ("left", left)):
        out[name] = {"input_ids": np.where(mask == 1, ids, pad), "attention_mask": mask}
    if family in ("bert", *_ROBERTAS, "electra"):
        types = random.randint(0, 2, ids.shape)
        out["types"] = {**out["right"], "token_type_ids": types * right}
    return out


def reference_logits(model: Any, inputs: dict[str, np.ndarray], exact: bool = False) -> np.ndarray:
    """What transformers computes, laid out as `jaxprune.logits` has it.

    `exact`: in float64, where its own rounding in float32 comes near to the tolerance and differs by CPU. Not for
    padded rows, which float64 makes NaN in some families.
    """
    import torch

    if exact:
        model = copy.deepcopy(model).double()
    with torch.no_grad():
        out = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    if "start_logits" in out:
        return torch.stack([out.start_logits, out.end_logits], dim=-1).numpy()
    return (out.logits if "logits" in out else out.last_hidden_state).numpy().astype(np.float32)


def compared(inputs: dict[str, np.ndarray], family: str) -> np.ndarray:
    """Which slots' outputs are compared, [rows, length]: a decoder's padding sees nothing, and nothing sees it.

    Nor that of ModernBERT, where no token is near.
    """
    mask = inputs.get("attention_mask", np.ones_like(inputs["input_ids"]))
    return np.ones_like(mask, bool) if family in ENCODERS and family != "modernbert" else mask == 1


# --- models of images

IMAGE_CLASSES = {"vit": "ViT", "deit": "DeiT"}
IMAGE_SIZES = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "image_size": 12,
    "patch_size": 4,
}


def image_reference(family: str, ending: str = "ForImageClassification", seed: int = 0, **changes: Any) -> Any:
    """A torch model of images in evaluation mode whose parameters are all random."""
    import torch
    import transformers

    config = getattr(transformers, f"{IMAGE_CLASSES[family]}Config")(**{**IMAGE_SIZES, "num_labels": 5, **changes})
    model = getattr(transformers, IMAGE_CLASSES[family] + ending)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.4 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise + 1 if "norm" in name and name.endswith("weight") else noise)
    return model


def image_pixels(config: Any, rows: int = 3) -> np.ndarray:
    """What an image processor could give for the model of a config."""
    size = config.image_size if isinstance(config.image_size, list | tuple) else (config.image_size,) * 2
    return np.random.RandomState(0).normal(size=(rows, config.num_channels, *size)).astype(np.float32)
