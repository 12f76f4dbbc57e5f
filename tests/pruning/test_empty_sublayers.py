"""Models that lost whole sublayers are pruned, fitted and tuned like others."""

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.pruning.cut import cut, unit_counts
from tests.finetuning.conftest import WORDS, folder, task  # noqa: F401  (fixtures)
from tests.helpers.decoders import language_model

PUBLISHED = jp.KPrune.presets()["published"]
METHODS = {
    "kprune": (jp.kprune, jp.KPrune()),
    "gates": (jp.kprune, jp.KPrune(search="gates", refit=False)),
    "fisher": (jp.fisher, jp.Fisher()),
    "magnitude": (jp.magnitude, jp.Magnitude()),
    "random": (jp.random_prune, jp.Random(refit="weights")),
}
ENCODER = METHODS | {"published": (jp.kprune, PUBLISHED)}
DECODER = METHODS | {
    "query heads": (jp.kprune, jp.KPrune(query_heads=True)),
    "flap": (jp.flap, jp.Flap()),
    "taylor": (jp.taylor, jp.Taylor()),
}


def emptied(model):
    """The first layer without neurons, the second without heads."""
    masks = [np.full(count, index not in (1, 2)) for index, count in enumerate(unit_counts(model.architecture))]
    return cut(model, masks)


@pytest.fixture
def encoder(folder):  # noqa: F811
    return emptied(jp.load(folder))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    base = tmp_path_factory.mktemp("speaker")
    model = emptied(language_model(base / "model", "llama"))
    (base / "text.txt").write_text(" ".join(np.random.RandomState(0).choice(WORDS, 600)))
    text = jp.tasks.text(base / "text.txt", calibration=base / "text.txt", length=32)
    return model, text.calibration(8, seed=0)


def check(small):
    (first, second), record = small.architecture.layers, small.provenance.record
    assert first.neurons == 0 == second.heads
    assert record["removed"]["params"] >= 0.3 and record["masked_vs_cut"] < 1e-5


@pytest.mark.parametrize("name", ENCODER)
def test_encoders(name, encoder, task):  # noqa: F811
    method, settings = ENCODER[name]
    check(method(encoder, task.calibration(16), jp.Budget(0.3, cost="params"), settings))


@pytest.mark.parametrize(
    ("name", "stream"), [*((name, False) for name in DECODER), ("kprune", True), ("magnitude", True)]
)
def test_decoders(name, stream, decoder):
    method, settings = DECODER[name]
    model, calibration = decoder
    check(method(model, calibration, jp.Budget(0.3, cost="params"), settings, stream=stream))


@pytest.mark.parametrize(
    "tune",
    [
        lambda base, texts: jp.finetune(base, texts, jp.Train(epochs=1)),
        lambda base, texts: jp.finetune(base, texts, jp.Train(epochs=1), lora=jp.Lora(rank=2)),
        lambda base, texts: jp.prune_lora(base, texts, jp.PruneLora(remove_neurons=0.3), jp.Train(epochs=1)),
        lambda base, texts: jp.recap(base, texts, jp.Recap(rounds=1, remove=0.3, freeze=0.5), jp.Train(epochs=1)),
    ],
    ids=["full", "lora", "prune-lora", "recap"],
)
def test_tuning(tune, encoder, task):  # noqa: F811
    first, second = tune(encoder, task).architecture.layers
    assert first.neurons == 0 == second.heads and first.heads and second.neurons
