"""A run on one and two layers says how often every program of a whole run is called, and gives whole numbers for it."""

from dataclasses import replace

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.pruning.by_name import method_of
from jaxprune.report import forecast as module
from jaxprune.report.forecast import forecast
from jaxprune.runtime.programs import watched

TEXTS, LENGTH, LAYERS = 144, 16, 3  # three batches of 768 slots


@pytest.fixture
def model(tiny):
    small = tiny()
    architecture = replace(small.architecture, layers=small.architecture.layers[:1] * LAYERS)
    return jp.Model(architecture, {**small.params, "layers": small.params["layers"][:1] * LAYERS})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kprune", "fisher"])
def test_calls_are_counted_as_they_come(model, name, monkeypatch):
    chosen, budgets, counted = method_of(name), [jp.Budget(0.3), jp.Budget(0.6)], []
    plain = module._calls
    monkeypatch.setattr(module, "_calls", lambda *given: counted.append(plain(*given)) or counted[-1])
    found = forecast(model, chosen, budgets, [LENGTH] * TEXTS)
    assert found.seconds > found.compile_seconds > 0 and found.dense_forward_seconds > 0
    assert found.first_forwards > 0 and found.further_forwards >= 0
    heard: list[str] = []
    texts = jp.Calibration.of_ids(np.random.default_rng(0).integers(40, size=(TEXTS, LENGTH)), None)
    with watched(lambda called, seconds: heard.append(called)):
        jp.prune(model, texts, budgets, chosen)
    assert counted[-1] == {called: heard.count(called) for called in heard}


def test_what_is_kept_in_part_counts_in_part(model, monkeypatch):
    """Between keeping nothing and everything: what the bytes allow."""
    kept = []
    monkeypatch.setattr(module, "_probes", lambda *given: kept.append(given[5]) or {})
    monkeypatch.setattr(module, "_seconds", lambda *given: [10.0, 20.0][len(kept) % 2])
    monkeypatch.setattr(module, "_compiling", lambda *given: 1.0)
    monkeypatch.setattr(module, "_line", lambda *given: 1.0)
    monkeypatch.setattr(module, "_kept", lambda *given: (0.25, True))

    class Probes(dict):
        def __missing__(self, key):
            return module._Probe()

    monkeypatch.setattr(module, "_probes", lambda *given: kept.append(given[5]) or Probes())
    found = forecast(model, jp.KPrune(), [jp.Budget(0.5)], [LENGTH] * TEXTS)
    assert len(kept) == 2 and kept[0][1] == 2 * kept[0][0] > 0 and kept[1] == [module.KEEP_BYTES] * 2
    assert found.seconds == 0.75 * 20.0 + 0.25 * 10.0 + 1.0
