"""The end of an ONNX graph: one function a kind of head, from the last hidden states to what comes out."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from ..model.architecture import Architecture, HeadKind
from ..model.model import Params
from ..runtime.onnx import VECTORS
from .onnx_parts import (
    ACTIVATIONS,
    ROWS,
    TOKENS,
    Graph,
    last_token,
    onnx_capped,
    onnx_dense,
    onnx_norm,
    output,
)
from .onnx_vectors import mean_of, vectors_of

_POOLERS = {**ACTIVATIONS, "tanh": lambda g, x: g.add("Tanh", x)}


def _text_logits(g: Graph, params: Params, x: str, a: Architecture) -> None:
    if a.pool == "mean":
        pooled = mean_of(g, x, a)
    else:
        first = [g.add("Gather", x, g.index(place), axis=1) for place in range(a.pool_tokens)]
        first = first[0] if a.pool_tokens == 1 else g.add("Concat", *first, axis=-1)
        pooled = last_token(g, x, a) if a.pool == "last" else first
    output(g, onnx_dense(g, params["head"], _pooler(g, params, pooled, a), "head"), "logits", ROWS, len(a.labels))


def _pooler(g: Graph, params: Params, x: str, a: Architecture) -> str:
    if a.pooler == "none":
        return x
    p = params["pooler"]
    y = _POOLERS[a.pooler](g, onnx_dense(g, p, x, "pooler"))
    return onnx_norm(g, p["norm"], y, a, "pooler.norm") if "norm" in p else y


def _token_logits(g: Graph, params: Params, x: str, a: Architecture) -> None:
    x = _pooler(g, params, x, a)
    output(g, onnx_dense(g, params["head"], x, "head"), "logits", ROWS, TOKENS, len(a.labels))


def _span_logits(g: Graph, params: Params, x: str, a: Architecture) -> None:
    x = _pooler(g, params, x, a)
    both = g.several("Split", 2, onnx_dense(g, params["head"], x, "head"), axis=-1)
    for name, part in zip(("start_logits", "end_logits"), both, strict=True):
        output(g, g.add("Squeeze", part, g.whole(-1)), name, ROWS, TOKENS)


def _masked_word_logits(g: Graph, params: Params, x: str, a: Architecture) -> None:
    p = params["head"]
    x = ACTIVATIONS[a.activation if a.transform == "own" else "gelu"](
        g, onnx_dense(g, p["transform"], x, "head.transform")
    )
    _word_logits(g, params, onnx_norm(g, p["norm"], x, a, "head.norm"), a)


def _word_logits(g: Graph, params: Params, x: str, a: Architecture) -> None:
    if not a.tied:
        logits = onnx_capped(g, onnx_dense(g, params["head"], x, "head"), a.logit_cap)
        return output(g, logits, "logits", ROWS, TOKENS, a.vocab)
    flat = g.add("Reshape", x, g.whole(-1, np.shape(params["embed"]["token"])[1]))
    bias = [g.weight("head.bias", params["head"]["bias"])] if a.transform != "none" else []
    logits = g.add("Gemm", flat, "embed.token", *bias, transB=1)  # the very table that tokens are looked up in
    logits = onnx_capped(g, logits, a.logit_cap)
    shape = g.add("Concat", g.add("Shape", "input_ids"), g.whole(a.vocab), axis=0)
    return output(g, g.add("Reshape", logits, shape), "logits", ROWS, TOKENS, a.vocab)


def _vectors(g: Graph, params: Params, x: str, a: Architecture) -> None:
    """The hidden states too: programs that pool on their own read them."""
    assert a.embedding is not None
    width = a.output_width
    output(g, vectors_of(g, params.get("head", ()), x, a), VECTORS, ROWS, a.embedding.widths(width)[-1])
    output(g, x, "last_hidden_state", ROWS, TOKENS, width)


def _hidden_states(g: Graph, params: Params, x: str, a: Architecture) -> None:
    output(g, x, "last_hidden_state", ROWS, TOKENS, a.output_width)


# What every kind of head gives.
OUTPUTS: Mapping[HeadKind, Callable[[Graph, Params, str, Architecture], None]] = MappingProxyType(
    {
        "classification": _text_logits,
        "token_classification": _token_logits,
        "question_answering": _span_logits,
        "causal_lm": _word_logits,
        "masked_lm": _masked_word_logits,
        "embedding": _vectors,
        "none": _hidden_states,
    }
)
