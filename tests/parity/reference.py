"""Tiny random models of transformers on torch, and the inputs on which we compare."""

from typing import Any

import numpy as np

HEADS = {"classification": "ForSequenceClassification", "question_answering": "ForQuestionAnswering", "none": "Model"}
CLASSES = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}
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
SIZES: dict[str, dict[str, Any]] = {"bert": _BERT, "roberta": _BERT, "distilbert": _DISTILBERT}


def random_reference(family: str, head: str, seed: int = 0, **changes: Any) -> Any:
    """A torch model in evaluation mode; every parameter is random, also biases and norms, so that none is left out."""
    import torch
    import transformers

    settings = {**SIZES[family], **({"num_labels": 3} if head == "classification" else {}), **changes}
    config = getattr(transformers, f"{CLASSES[family]}Config")(**settings)
    model = getattr(transformers, CLASSES[family] + HEADS[head])(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.4 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise + 1 if "norm" in name.lower() and name.endswith("weight") else noise)
    return model


def cases(family: str) -> dict[str, dict[str, np.ndarray]]:
    """Inputs by name: texts of full length, padded right and left, and with token types where the family has them."""
    random = np.random.RandomState(0)
    pad = 1 if family == "roberta" else 0
    ids = random.randint(2, VOCAB, (3, LENGTH))
    full = {"input_ids": ids}
    right, left = np.ones_like(ids), np.ones_like(ids)
    for row, length in enumerate((LENGTH, 5, 2)):
        right[row, length:] = 0
        left[row, : LENGTH - length] = 0
    out = {"full": full}
    for name, mask in (("right", right), ("left", left)):
        out[name] = {"input_ids": np.where(mask == 1, ids, pad), "attention_mask": mask}
    if family != "distilbert":
        types = random.randint(0, 2, ids.shape)
        out["types"] = {**out["right"], "token_type_ids": types * right}
    return out


def reference_logits(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """What transformers computes, laid out as `jaxprune.logits` has it."""
    import torch

    with torch.no_grad():
        out = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    if "start_logits" in out:
        return torch.stack([out.start_logits, out.end_logits], dim=-1).numpy()
    return (out.logits if "logits" in out else out.last_hidden_state).numpy()
