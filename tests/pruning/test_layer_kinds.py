"""Models whose layers differ in what they attend to: every method sees each layer as it is."""

from dataclasses import replace

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.model.attention_kinds import Full, Mixed
from jaxprune.model.padded import plain_batch
from jaxprune.model.transformer import forward
from jaxprune.runtime.by_sublayer import last_stream
from jaxprune.runtime.programs import Programs
from tests.finetuning.conftest import WORDS
from tests.helpers.decoders import language_model

LATE = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
METHODS = {"kprune": jp.KPrune(), "flap": jp.Flap(), "taylor": jp.Taylor()}
TEXTS = jp.Calibration.of_ids(np.random.RandomState(0).randint(4, 4 + len(WORDS), size=(16, 12)), None)
IDS = np.random.RandomState(1).randint(4, 4 + len(WORDS), size=(2, 12))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    model = language_model(tmp_path_factory.mktemp("base") / "model", "qwen2", **LATE)
    assert isinstance(model.architecture.attention, Mixed)
    return model


@pytest.mark.parametrize("name", METHODS)
def test_a_method_prunes_windows_as_they_are(name, model, tmp_path):
    small = jp.prune(model, TEXTS, jp.Budget(0.4, cost="params"), METHODS[name])
    assert small.report.masked_vs_cut < 1e-5
    assert small.architecture.attention == model.architecture.attention
    again = jp.load(jp.save(small, tmp_path / "small"))
    np.testing.assert_array_equal(jp.logits(again, IDS), jp.logits(small, IDS))


def test_streamed_layers_are_the_same(model):
    whole, streamed = (jp.prune(model, TEXTS, jp.Budget(0.4), stream=stream) for stream in (False, True))
    np.testing.assert_array_equal(jp.logits(streamed, IDS), jp.logits(whole, IDS))


def test_layer_by_layer_is_the_whole_pass(model):
    a, batch = model.architecture, plain_batch(model.architecture, IDS)
    hidden = last_stream(model.params, batch, a, Programs())
    np.testing.assert_allclose(hidden, forward(model.params, batch, a).hidden, rtol=0, atol=1e-5)
    opened = forward(model.params, batch, replace(a, attention=Full())).hidden
    assert np.abs(np.asarray(hidden) - np.asarray(opened)).max() > 1e-3
