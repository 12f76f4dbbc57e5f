"""What a training step keeps of a batch on its way, in bytes: estimates from sizes, fitted to compiled programs."""

from collections.abc import Sequence
from typing import NamedTuple

from ..model import Architecture, LayerSizes, Params
from ..model.heads import head_of
from ..model.slices import slice_tokens
from ..pruning.cost import parameters
from .lora import count
from .settings import Train

FLOAT = 4  # bytes; what trains and its gradients are float32


def activation_bytes(
    architecture: Architecture,
    rows: int,
    length: int,
    settings: Train,
    trained: float,
    chosen: Params | None = None,
    sizes: Sequence[LayerSizes] | None = None,
    adapted: float = 0.0,
    narrow: bool = False,
) -> int:
    """What a step needs beside weights, gradients and moments, for `rows` rows of `length` tokens: an estimate.

    `trained` is the share of the layers' weights that train, `chosen` the leaves that do, `sizes` the layers' where a
    device computes a part of them, `adapted` the share of the feed-forwards' projections that have adapters. `narrow`:
    whether a vocabulary that does not train is kept in bfloat16 or float16.

    Fitted to compiled steps (CPU). Of BERT with its depth (3 to 14), width, heads and neurons varied, trained in full,
    in part and by adapters, 8 to 64 rows of 64 to 256 tokens: what a step needs in all is then met within 11 %, with
    `remat` (depth 3 to 12) within 8 %. And of Llama with 2 to 8 layers of width 256 to 1,024 and vocabularies of 4,096
    and 32,768, tied or not, 2 to 16 rows of 256 and 512 tokens: within 7 %; of adapters with `remat`, 2 to 16 rows of
    64 to 1,024 tokens, within 4 %. `experiments/recap_glue.py memory --shrink` and `experiments/memory_lm.py` compare
    at other sizes.
    """
    step = _Step(
        architecture, rows * length // settings.accumulate, length, settings, trained, chosen or {},
        architecture.layers if sizes is None else sizes, adapted / (1 + architecture.gated), narrow,
    )  # fmt: skip
    return int(_decoder_bytes(step) if architecture.causal else _encoder_bytes(step))


class _Step(NamedTuple):
    """What `activation_bytes` is told of a step, and what follows from it."""

    architecture: Architecture
    tokens: int
    length: int
    settings: Train
    trained: float
    chosen: Params
    sizes: Sequence[LayerSizes]
    adapted: float  # likewise, but of gated neurons half of that: they count twice
    narrow: bool

    @property
    def half(self) -> bool:
        """Whether products are in bfloat16."""
        return self.settings.dtype != "float32"

    @property
    def wide(self) -> int:
        """Bytes of a number that is kept in the type of products."""
        return FLOAT // 2 if self.half else FLOAT

    @property
    def stream(self) -> int:
        """Numbers in one residual stream."""
        return self.tokens * self.architecture.hidden

    @property
    def gradients(self) -> int:
        """Bytes of all gradients, which the caller counts apart."""
        return FLOAT * count(self.chosen)

    @property
    def table(self) -> int:
        """Bytes of the gradient of the token embeddings, 0 where they do not train."""
        return FLOAT * count(self.chosen.get("embed", {}).get("token"))

    def kept(self, size: LayerSizes, wide: int, hidden: float, mixed: float, neurons: float, pairs: float) -> float:
        """Bytes that a layer keeps: so many numbers of `wide` bytes a hidden unit; a head and width, half of them for
        queries and half for keys and values; a neuron, gated ones counted twice; and of float32 for every pair of
        tokens of a head (attention weights).
        """
        a = self.architecture
        heads = mixed * (size.queries + 1) / 2 * size.groups * a.head_width
        numbers = hidden * a.hidden + heads + neurons * (1 + a.gated) * size.neurons
        return self.tokens * (wide * numbers + FLOAT * pairs * self.length * size.heads)

    def all_kept(self, hidden: float, mixed: float, neurons: float, pairs: float) -> float:
        """The same of all layers, in the type of products."""
        return sum(self.kept(size, self.wide, hidden, mixed, neurons, pairs) for size in self.sizes)

    def most_kept(self, hidden: float, mixed: float, neurons: float, pairs: float) -> float:
        """The same of the layer that keeps most, in float32: CPUs compute in it also where products are not."""
        return max((self.kept(size, FLOAT, hidden, mixed, neurons, pairs) for size in self.sizes), default=0.0)


def _encoder_bytes(step: _Step) -> float:
    """With `remat` the larger of two moments: one layer at a time (0.85 of the bytes where products are in bfloat16),
    and the residual stream at every layer, in whose place comes the gradient of the layers above; or all gradients,
    when the embeddings' come last. Where these train, 3 and 6 numbers a hidden unit more. Adapters of a feed-forward
    get their gradients late: 5.8 numbers a neuron more, 3 where products are in bfloat16.
    """
    if step.settings.remat:
        one = step.most_kept(5.1, 4.1, 3.3 + (0.0 if step.half else 7.5 * step.adapted), 3.1)
        one *= 0.85 if step.half else 1.0
        streams = max(len(step.sizes) * step.wide * step.stream, FLOAT * count(step.chosen.get("layers", [])))
        embeds = FLOAT * step.stream if step.table else 0
        return max(one + streams + 3 * embeds - step.gradients, 6 * embeds)
    pairs = 3.7 if step.half else 3.0 if step.settings.dropout else 1.9
    more = 0.5 * step.trained + (3.0 if step.half else 5.8) * step.adapted
    return step.all_kept(5.4 + 1.4 * step.trained, 3.2, 1.35 + more, pairs) + 8.5 * step.wide * step.stream


def _decoder_bytes(step: _Step) -> float:
    """What is there when the loss is known, or when the last gradient is.

    With the loss: all that layers keep (with `remat` the residual streams), the gradient of the vocabulary, twice while
    slices of tokens add to it, and that of the embeddings; copies of the weights in bfloat16, which XLA makes at the
    beginning. At the end: all gradients, and what one layer keeps; that of an embedding of its own comes after.
    Adapters of a feed-forward as on encoders.
    """
    a, settings = step.architecture, step.settings
    language = head_of(a).language is not None
    head = FLOAT * count(step.chosen.get("head")) + (step.table if a.tied else 0) if language else 0
    words = FLOAT * min(step.tokens, slice_tokens(a.vocab)) * a.vocab if language else 0
    late = 0 if language and a.tied else step.table
    if settings.remat:
        streams = len(step.sizes) * step.wide * step.stream
        if not step.trained:  # adapters: there are no gradients that could take the streams' place
            loss = 2.0 * words + _vocabulary_copy(step) + 3 * FLOAT * step.stream
            return streams + max(_of_frozen(step), loss)
        one = step.most_kept(6.75, 2.0, 1.3, 3.4) if step.half else step.most_kept(8.1, 4.6, 3.9, 3.1)
        twice = 2.0 * head if a.tied else 0.0  # as vocabulary and as embeddings, beside their sum
        return max(streams + 2.0 * head + words - step.gradients, one - late, twice)
    if step.half:
        kept = step.all_kept(10.9, 5.4, 0.5 + 1.55 * step.trained + 3.0 * step.adapted, 3.2) + 16 * step.stream
        weights = parameters(a) + (a.vocab * a.hidden if language else 0)
        copies = step.wide * weights * (1.0 if settings.frozen_dtype is None else step.trained)
    else:
        pairs = 3.8 if settings.dropout else 3.3
        kept = step.all_kept(4.8, 2.5, 1.0 + 1.75 * step.trained + 5.8 * step.adapted, pairs) + 24 * step.stream
        copies = 0 if head else _vocabulary_copy(step)
    return max(kept + 2 * head + late + words + copies - step.gradients, 0.0)


def _of_frozen(step: _Step) -> float:
    """Bytes of one layer of a decoder with `remat` whose weights do not train: of all of it, or of long texts of its
    attention.
    """
    more = step.adapted
    if step.half:
        return max(step.most_kept(2.5, 6.5, 0.0, 4.5), step.most_kept(4.6 + 3.6 * more, 3.5, 1.6 + 2.0 * more, 2.9))
    return max(
        step.most_kept(2.5, 6.5, 0.0, 4.1), step.most_kept(4.1 + 1.6 * more, 1.8 + 4.0 * more, 2.5 + 9.0 * more, 3.1)
    )


def _vocabulary_copy(step: _Step) -> int:
    """What a language model's vocabulary that does not train takes in the type of products, where it is another."""
    if head_of(step.architecture).language is None or step.narrow == step.half:
        return 0
    return step.wide * step.architecture.vocab * step.architecture.hidden
