import jax
import jax.numpy as jnp

from jaxprune.runtime.memory import PeakMeter, live_bytes, program_bytes, temp_bytes


def test_a_shared_buffer_counts_once():
    before = live_bytes()
    x = jnp.arange(1000, dtype=jnp.float32).block_until_ready()
    assert live_bytes() - before == 4000
    alias = jax.device_put(x, x.devices().pop())  # a second array over the same buffer
    assert alias is not x
    assert live_bytes() - before == 4000
    copy = jnp.array(x, copy=True).block_until_ready()
    assert live_bytes() - before == 8000
    copy.delete()
    assert live_bytes() - before == 4000


def test_program_bytes_include_temporaries():
    # x @ x is needed whole before it can be reduced along its other axis with itself.
    compiled = jax.jit(lambda x: jnp.sort((x @ x).T @ x).sum()).lower(jnp.ones((256, 256))).compile()
    assert temp_bytes(compiled) >= 256 * 256 * 4
    assert program_bytes(compiled) == 256 * 256 * 4 + 4 + temp_bytes(compiled)


def test_peak_is_the_largest_sample_and_the_largest_program():
    meter = PeakMeter()
    base = meter.sample("start")
    x = jnp.ones(5000).block_until_ready()
    meter.sample("middle")
    x.delete()
    meter.sample("end")
    small = jax.jit(lambda x: x + 1).lower(jnp.ones(3)).compile()
    large = jax.jit(lambda x: jnp.sort((x @ x).T @ x).sum()).lower(jnp.ones((64, 64))).compile()
    assert meter.register(large) is large
    meter.register(small)
    assert meter.samples["middle"] == base + 20_000
    assert meter.peak_bytes == base + 20_000 + temp_bytes(large)
