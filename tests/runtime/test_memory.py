import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxprune.runtime.memory import PeakMeter, live_bytes, program_bytes, temp_bytes
from jaxprune.runtime.programs import Programs


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


@pytest.fixture
def cache_on_disk(tmp_path):
    """JAX's cache of programs, as its two variables turn it on; gives what it holds."""
    names = "jax_enable_compilation_cache", "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (True, str(tmp_path), 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield lambda: sorted(path.name for path in tmp_path.glob("*-cache"))
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_a_program_from_the_disk_says_its_bytes_too(cache_on_disk):
    """A peak without temporaries would look right, and be of nothing but weights."""
    function, x = jax.jit(lambda x: jnp.sort((x @ x).T @ x).sum()), jnp.ones((128, 128))
    seen, heard = [], []
    jax.monitoring.register_event_listener(lambda event, **_: heard.append(event))
    for _ in range(2):
        jax.clear_caches()  # as in another process
        programs = Programs(own={})
        seen.append((np.asarray(programs(function, x)), programs.meter.temp, cache_on_disk()))
    assert "/jax/compilation_cache/cache_hits" in heard
    assert seen[0] == seen[1]  # and nothing new was written
    assert seen[0][1] >= 128 * 128 * 4 and seen[0][2]
