"""What the machine can do at best: the figures that all others are to be read against."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_factor

from jaxprune.runtime.programs import compiler_options

from .book import Book
from .clock import seconds_of

HIGHEST, TF32 = jax.lax.Precision.HIGHEST, jax.lax.DotAlgorithmPreset.TF32_TF32_F32
PRODUCTS = {  # name -> type of the inputs, precision
    "product, float32 highest": ("float32", HIGHEST),
    "product, float32 as written": ("float32", None),  # what programs that say nothing get
    "product, TF32": ("float32", TF32),
    "product, bfloat16": ("bfloat16", None),
}


def measure(book: Book) -> None:
    numbers, n, sizes = (2**18, 256, (64,)) if book.tiny else (2**28, 8192, (768, 3072, 8192))
    repeats = 3 if book.tiny else 10
    book.case("memory", memory)
    book.case("copy on the device", copy, numbers, repeats)
    for name, (dtype, precision) in PRODUCTS.items():
        if precision is TF32 and jax.default_backend() != "gpu":
            book.write(name, skipped=f"no such product on {jax.default_backend()}")
        else:
            book.case(name, product, n, dtype, precision, repeats)
    for pinned in (False, True):
        for to in ("device", "host"):
            name = f"transfer to {to}, {'pinned' if pinned else 'pageable'}"
            book.case(name, transfer, numbers // 4, to, pinned, repeats)
    for size in sizes:
        for dtype in ("float32", "float64"):
            book.case(f"Cholesky {size}, {dtype}", cholesky, size, dtype, repeats, needs=0.1 * book.seconds)
        book.case(f"Cholesky {size}, float64, on the host", host_cholesky, size, needs=0.1 * book.seconds)
    book.case("launch", launch, 200 if book.tiny else 2000)


def memory() -> Mapping[str, Any]:
    stats = jax.local_devices()[0].memory_stats() or {}
    return {"bytes": stats.get("bytes_limit"), "devices": jax.local_device_count()}


def rate(seconds: float, moved: float = 0.0, flops: float = 0.0) -> dict[str, float]:
    rates = {"gb_per_s": moved / seconds / 1e9} if moved else {"tflop_per_s": flops / seconds / 1e12}
    return {"ms": 1e3 * seconds, **rates}


def copy(numbers: int, repeats: int) -> Mapping[str, Any]:
    """Bytes read and bytes written both count."""
    x = jnp.ones(numbers, jnp.float32)
    flip = jax.jit(lambda x: -x)
    return rate(seconds_of(lambda: flip(x), repeats), moved=2 * x.nbytes)


def product(n: int, dtype: str, precision: Any, repeats: int) -> Mapping[str, Any]:
    x, y = (jax.random.normal(jax.random.key(seed), (n, n), jnp.float32).astype(dtype) for seed in range(2))
    times = jax.jit(
        lambda x, y: jnp.matmul(x, y, precision=precision), compiler_options=compiler_options()
    )  # as programs here are
    return rate(seconds_of(lambda: times(x, y), repeats), flops=2 * n**3)


def transfer(numbers: int, to: str, pinned: bool, repeats: int) -> Mapping[str, Any]:
    """Pageable memory is NumPy's; copies that are views (a CPU's) would show as absurd rates."""
    device = jax.local_devices()[0]
    there = jax.sharding.SingleDeviceSharding(device)
    host = jax.sharding.SingleDeviceSharding(device, memory_kind="pinned_host") if pinned else None
    x = np.random.default_rng(0).standard_normal(numbers, np.float32)
    if to == "device":
        source = jax.block_until_ready(jax.device_put(x, host)) if host else x
        return rate(seconds_of(lambda: jax.device_put(source, there), repeats), moved=x.nbytes)
    seconds = []
    for _ in range(repeats):
        fresh = jax.block_until_ready(jax.device_put(x, there) + 1)  # an array remembers its copy on the host
        began = time.perf_counter()
        jax.block_until_ready(jax.device_put(fresh, host)) if host else np.array(fresh)
        seconds.append(time.perf_counter() - began)
    return rate(float(np.median(seconds)), moved=x.nbytes)


def positive(n: int) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((n, n), np.float32)
    return x @ x.T / n + np.eye(n, dtype=np.float32)


def cholesky(n: int, dtype: str, repeats: int) -> Mapping[str, Any]:
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(positive(n), dtype)
        return rate(seconds_of(lambda: jnp.linalg.cholesky(x), repeats), flops=n**3 / 3)


def host_cholesky(n: int) -> Mapping[str, Any]:
    x = positive(n).astype(np.float64)
    return rate(seconds_of(lambda: cho_factor(x, lower=True, check_finite=False)[0], 2), flops=n**3 / 3)


def launch(calls: int) -> Mapping[str, Any]:
    """Microseconds a call of the smallest program: each waited for, and many in a row."""
    x, add = jnp.zeros(8), jax.jit(lambda x: x + 1)
    alone = seconds_of(lambda: add(x), calls)
    y, began = x, time.perf_counter()
    for _ in range(calls):
        y = add(y)
    jax.block_until_ready(y)
    return {"waited_for_us": 1e6 * alone, "in_a_row_us": 1e6 * (time.perf_counter() - began) / calls}
