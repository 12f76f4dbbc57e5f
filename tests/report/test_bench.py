import itertools

import jax
import pytest

from jaxprune.errors import DataError, SettingsError
from jaxprune.model import forward
from jaxprune.report.bench import _verdict, bench, full_batch, generation_bench, generation_speed
from tests.helpers.tiny import config, random_model


def test_bench_reports_both_models_and_the_flops_ratio(tiny):
    result = bench(tiny(), tiny(heads=1, neurons=16), rows=2, length=8, repeats=3)
    assert result.flops_ratio == 2.0
    assert result.of_flops == pytest.approx(result.speedup / 2)
    low, high = result.speedup_quartiles
    assert 0 < low <= result.speedup <= high
    for name in ("dense", "pruned"):
        assert getattr(result, f"{name}_seconds") > 0
        assert getattr(result, f"{name}_tokens_per_second") == pytest.approx(16 / getattr(result, f"{name}_seconds"))


def test_bench_says_when_nothing_was_gained(monkeypatch, tiny):
    # A clock that gives every forward pass the same time.
    ticks = itertools.count(0.0)
    monkeypatch.setattr("jaxprune.report.bench.time.perf_counter", lambda: next(ticks))
    result = bench(tiny(), tiny(heads=1), rows=1, length=8, repeats=4)
    assert not result.gained
    assert "nothing was gained" in result.verdict


def test_compilation_is_timed_apart(monkeypatch, tiny):
    times = []
    monkeypatch.setattr("jaxprune.report.bench.time.perf_counter", lambda: times.append(0) or float(len(times)))
    bench(tiny(), tiny(), rows=1, length=8, repeats=5)
    assert len(times) == 2 * (2 + 2 * 5)  # two readings around each compilation and around each of five turns


def test_a_length_beyond_the_positions_is_refused(tiny):
    with pytest.raises(SettingsError, match="length 64 is more than the model's 32 positions"):
        bench(tiny(), tiny(), rows=1, length=64)


def test_full_batch_has_no_padding(tiny):
    model = tiny()
    batch = full_batch(model.architecture, 3, 8)
    assert bool(batch.real.all())
    logits = jax.eval_shape(lambda params: forward(params, batch, model.architecture).logits, model.params)
    assert logits.shape == (3, 1, 2)


def test_a_gain_within_the_noise_is_called_so():
    assert "turns differ too much" in _verdict(1, 32, 1.61, 2.5, gained=False)
    assert "nothing was gained" in _verdict(1, 32, 1.01, 2.5, gained=False)
    assert "1.61 times as fast; FLOPs fell 2.50 times, 64% of that shows" in _verdict(1, 32, 1.61, 2.5, gained=True)


def test_generation_speed_counts_new_tokens(tiny):
    speed = generation_speed(random_model(config("llama")), batch=2, prompt_length=4, new_tokens=6, repeats=3)
    low, high = speed.seconds_quartiles
    assert 0 < low <= speed.seconds <= high and speed.compile_seconds > 0 and speed.prefill_seconds > 0
    assert speed.tokens_per_second == pytest.approx(12 / speed.seconds)
    assert speed.decode_tokens_per_second > 0
    with pytest.raises(SettingsError, match="15 prompt tokens and 6 new ones exceed the model's 20 positions"):
        generation_speed(random_model(config("llama")), prompt_length=15, new_tokens=6)
    with pytest.raises(DataError, match="needs a causal_lm head, the model has classification"):
        generation_speed(tiny())


def test_generation_of_two_models_in_turns():
    sizes = {"batch": 2, "prompt_length": 4, "new_tokens": 6}
    found = generation_bench(random_model(config("llama")), random_model(config("llama", intermediate_size=3)), **sizes)
    assert found.batch == 2 and found.dense_tokens_per_second > 0 and found.pruned_compile_seconds > 0
    low, high = found.speedup_quartiles
    assert 0 < low <= found.speedup <= high
    with pytest.raises(SettingsError, match="repeats must be at least 1"):
        generation_bench(random_model(config("llama")), random_model(config("llama")), repeats=0)
