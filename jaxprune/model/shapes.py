"""The shapes of a model's parameters, which follow from its architecture."""

from typing import Any

from .architecture import ATTENTION, LAST_LAYERS, Architecture, LayerSizes
from .attention_kinds import Disentangled, Relative


def parameter_shapes(architecture: Architecture) -> dict[str, Any]:
    """The parameter tree of `architecture`, with a tuple of integers (a shape) in place of every array.

    Kernels are [in, out] with the units spelled out: q [hidden, groups, queries, width], k and v [hidden, groups,
    width], o [groups, queries, width, hidden], up and gate [hidden, neurons], down [neurons, hidden]; a table of
    relative positions [buckets, groups], one of distances [rows, hidden]. A language model's head is [hidden,
    vocab]; where it is tied, the token table [vocab, hidden] serves; a masked one has a dense layer and a norm
    before the table, and a bias. That of an embedding model is a list of dense layers, where there are any.
    """
    a, hidden, width = architecture, architecture.hidden, architecture.head_width

    def dense(inputs: tuple[int, ...], outputs: tuple[int, ...], bias: bool = True) -> dict[str, Any]:
        return {"kernel": inputs + outputs} | ({"bias": outputs} if bias else {})

    def norm_over(width: int) -> dict[str, Any]:
        return {"scale": (width,)} | ({"bias": (width,)} if a.norm == "layer" and a.norm_bias else {})

    norm = norm_over(hidden)

    def norms() -> dict[str, Any]:
        own = {} if a.norm_position == "update" else {"norm": dict(norm)}
        return own | ({"update_norm": dict(norm)} if a.norms_update else {})

    def layer(size: LayerSizes) -> dict[str, Any]:
        keys = dense((hidden,), (size.groups, width), a.attention_bias)
        up = dense((hidden,), (size.neurons,), a.feed_forward_bias)
        inner: dict[str, Any] = {}
        if a.query_key_norm:
            of_keys = (size.groups,) if a.whole_query_key_norm else ()
            of_queries = (size.groups, size.queries) if a.whole_query_key_norm else ()
            inner = {"q_norm": {"scale": (*of_queries, width)}, "k_norm": {"scale": (*of_keys, width)}}
        if isinstance(a.attention, Relative):
            inner["relative"] = {"table": (a.attention.buckets, size.groups)}
        if isinstance(a.attention, Disentangled):
            kind = a.attention
            inner["distances"] = {"table": (2 * kind.span, hidden)} | ({"norm": dict(norm)} if kind.norm else {})
            own = [("distance_k", kind.keys), ("distance_q", kind.queries)]
            inner |= {name: dense((hidden,), (size.groups, width)) for name, there in own if there and not kind.shared}
        return {
            "attention": {
                "q": dense((hidden,), (size.groups, size.queries, width), a.attention_bias),
                "k": dict(keys),
                "v": dict(keys),
                **inner,
                "o": dense((size.groups, size.queries, width), (hidden,), a.output_bias),
                **norms(),
            },
            "feed_forward": {
                "up": up,
                **({"gate": dict(up)} if a.gated else {}),
                "down": dense((size.neurons,), (hidden,), a.down_bias),
                **norms(),
            },
        }

    narrow = a.embed_width if a.embed_width is not None else hidden
    whole = a.embed_projects != "tokens"
    summed = narrow if whole else hidden
    embed: dict[str, Any] = {"token": (a.vocab, narrow)}
    if a.patches is not None:
        embed["patch"] = dense((a.patches.numbers,), (hidden,))
    if a.embed_width is not None:
        embed["project"] = dense((narrow,), (hidden,), a.embed_projects == "sum")
    if a.positions == "learned":
        embed["position"] = (a.max_positions + a.position_offset, summed)
    if a.token_types:
        embed["type"] = (a.token_types, summed)
    if a.embed_norm:
        embed["norm"] = norm_over(hidden if a.embed_projects == "tables" else summed)
    tree: dict[str, Any] = {"embed": embed, "layers": [layer(size) for size in a.layers]}
    if not a.first_norm and a.layers:
        del tree["layers"][0][ATTENTION]["norm"]
    if a.final_norm:
        tree["final_norm"] = dict(norm)
    if a.embed_width is not None and not whole:
        tree["project_out"] = dense((hidden,), (narrow,), False)
    if a.pooler != "none":
        tree["pooler"] = dense((hidden,), (hidden,), a.pooler_bias) | ({"norm": norm} if a.pooler_norm else {})
    last = LAST_LAYERS[a.head]
    if outputs := last.outputs(a):
        tree["head"] = dense((a.output_width * a.pool_tokens,), (outputs,), last.bias and a.head_bias)
    if last.transformed:
        tree["head"] = {
            "transform": dense((a.output_width,), (narrow,), a.pooler_bias),
            "norm": norm_over(narrow),
            "bias": (a.vocab,),
        }
    if a.embedding is not None and a.embedding.dense:
        widths = a.embedding.widths(a.output_width)
        tree["head"] = [
            dense((inputs,), (step.outputs,), step.bias)
            for inputs, step in zip(widths[:-1], a.embedding.dense, strict=True)
        ]
    return tree
