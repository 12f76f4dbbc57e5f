"""What a training step of a decoder is predicted to take, held against its compiled program."""

from dataclasses import replace
from typing import Any

import pytest

import jaxprune as jp
from jaxprune.finetuning.finetune import chooser
from jaxprune.finetuning.lora import HALF_OF, Lora, adapted_share, adapters_of, plan_of
from jaxprune.finetuning.recap.phase_bytes import abstract
from jaxprune.finetuning.step import everything, select
from jaxprune.finetuning.training_bytes import compiled_step, training_bytes
from jaxprune.model import Architecture, LayerSizes, Model
from jaxprune.runtime.memory import temp_bytes

ROWS, LENGTH = 4, 128
LLAMA = Architecture(
    family="llama", vocab=6000, hidden=256, head_width=32, max_positions=LENGTH, tied=True,
    layers=(LayerSizes(groups=4, queries=2, neurons=768),) * 3, positions="rotary", rotary=(1.0,) * 16,
    embed_norm=False, norm="rms", norm_position="pre", activation="silu", gated=True, attention_bias=False,
    output_bias=False, feed_forward_bias=False, down_bias=False, causal=True, head="causal_lm", head_bias=False,
)  # fmt: skip


def of_step(
    settings: jp.Train,
    projections: tuple[str, ...] = (),
    architecture: Architecture = LLAMA,
    rows: int = ROWS,
    length: int = LENGTH,
) -> dict[str, int]:
    """Bytes of a step by kind; of adapters on `projections`, where any are given."""
    model, adapters, chosen = Model(architecture, abstract(architecture)), None, everything
    if projections:
        lora: Any = Lora(rank=4, projections=projections)
        adapters, chosen = adapters_of(plan_of(lora, architecture), architecture), chooser(model, ())
    parts = select(model.params, chosen)[0], [] if adapters is None else adapters.weights
    step = compiled_step(model, rows, length, settings, trainable=chosen, adapters=adapters)
    return training_bytes(model, parts, rows, length, settings, temp_bytes(step))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("projections", [(), ("q", "k", "v"), tuple(HALF_OF)])
def test_predicted_bytes_of_a_decoder_are_those_of_the_program(dtype, remat, projections):
    found = of_step(jp.Train(dropout=0.0, dtype=dtype, remat=remat), projections)
    assert abs(found["predicted"] / found["measured"] - 1) < 0.15  # activations are an estimate


@pytest.mark.parametrize("frozen", [None, "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_large_vocabulary_is_counted_in_the_type_that_is_computed_in(dtype, frozen):
    """Rounded where it rests, and copied where a product takes it in another type."""
    large = replace(LLAMA, vocab=128_256)
    step = of_step(jp.Train(dropout=0.0, dtype=dtype, remat=True, frozen_dtype=frozen), ("q", "v"), large)
    assert step["predicted"] == pytest.approx(step["measured"], rel=0.1)


def test_gradients_of_a_large_tied_vocabulary_are_there_twice():
    step = of_step(jp.Train(dropout=0.0, remat=True), (), replace(LLAMA, vocab=128_256))
    assert step["predicted"] == pytest.approx(step["measured"], rel=0.1)


@pytest.mark.parametrize("rows, length", [(8, 64), (1, 512)])
def test_bytes_of_adapters_follow_the_length_of_texts(rows, length):
    long = replace(LLAMA, max_positions=512)
    step = of_step(jp.Train(dropout=0.0, remat=True), ("q", "v"), long, rows, length)
    assert step["predicted"] == pytest.approx(step["measured"], rel=0.1)


def test_share_of_projections_with_adapters():
    weights = lambda *names: adapters_of(plan_of(Lora(rank=2, projections=names), LLAMA), LLAMA).weights  # noqa: E731
    assert adapted_share(LLAMA, weights("q", "v")) == 0 == adapted_share(LLAMA, [])
    assert adapted_share(LLAMA, weights("q", "up", "down")) == pytest.approx(2 / 3)
    assert adapted_share(LLAMA, weights("up", "gate", "down")) == 1
