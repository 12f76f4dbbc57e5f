"""Is smaller faster? The dense and the pruned model timed in turns, in one run, compilation apart."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..checks import checked
from ..errors import DataError, SettingsError
from ..exports.onnx import check_onnx_installed
from ..exports.onnx_file import write_int8, write_onnx
from ..exports.onnx_graph import graph_of
from ..model import Batch, Model
from ..model.architecture import Architecture
from ..model.heads import head_of
from ..model.padded import image_batch
from ..model.pooling import pool_slots
from ..model.transformer import whole_forward
from ..pruning.cost import flops
from ..runtime.decode import continue_rows
from ..runtime.devices import placed
from ..runtime.onnx import open_onnx, plain_inputs
from ..runtime.programs import Programs
from .figures import Bench, GenerationBench, GenerationSpeed

SHAPES = ((32, 128), (1, 32))  # rows x length: a batch, and one short text


@checked
def bench(
    dense: Model,
    pruned: Model,
    *,
    rows: int = 32,
    length: int = 128,
    repeats: int = 20,
    seed: int = 0,
    runtime: str = "jax",
) -> Bench:
    """Median seconds of a forward pass of `rows` texts of `length` tokens each, of both models in turns.

    Turns change their order, and the speed-up is the median of the ratios within a turn, so that a machine that slows
    down in between does not decide. `Bench` says what the figures are; its `verdict` is in words. `runtime` is what
    runs them: "jax" (jitted), "onnxruntime" or "onnxruntime-int8" (the CPU; exported for this, and deleted).

    Raises `SettingsError` for a length that a model cannot take, and for a runtime that is none or is not installed.
    """
    if min(rows, length, repeats) < 1:
        raise SettingsError(f"rows, length and repeats must be at least 1, got {rows}, {length}, {repeats}.")
    if runtime not in RUNTIMES:
        raise SettingsError(f"runtime is {runtime!r}, expected one of {', '.join(RUNTIMES)}.")
    make_ready = RUNTIMES[runtime]
    compiled = {
        "dense": make_ready(dense, rows, length, seed),
        "pruned": make_ready(pruned, rows, length, seed),
    }
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for _, _, run in compiled.values():
        run()  # warm-up
    for turn in range(repeats):
        for name in sorted(compiled, reverse=turn % 2 == 1):
            start = time.perf_counter()
            compiled[name][2]()
            seconds[name].append(time.perf_counter() - start)
    ratios = np.array(seconds["dense"]) / np.array(seconds["pruned"])
    low, speedup, high = (float(value) for value in np.percentile(ratios, (25, 50, 75)))
    left = flops(pruned.architecture, length)
    ratio = flops(dense.architecture, length) / left if left else float("inf")
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    gained = low > 1.0 and speedup >= 1.02  # beyond the noise of this very run
    return Bench(
        rows=rows,
        length=length,
        repeats=repeats,
        device=jax.devices()[0].device_kind if runtime == "jax" else "cpu",
        runtime=runtime,
        dense_seconds=medians["dense"],
        pruned_seconds=medians["pruned"],
        dense_compile_seconds=compiled["dense"][0],
        pruned_compile_seconds=compiled["pruned"][0],
        dense_tokens_per_second=rows * length / medians["dense"],
        pruned_tokens_per_second=rows * length / medians["pruned"],
        speedup=speedup,
        speedup_quartiles=[low, high],
        flops_ratio=ratio,
        of_flops=speedup / ratio,  # 1: all of the saving shows
        gained=gained,
        verdict=_verdict(rows, length, speedup, ratio, gained),
    )


def compile_forward(model: Model, rows: int, length: int, seed: int = 0) -> tuple[float, Any, Callable[[], jax.Array]]:
    """Seconds of tracing and compilation, the program, and a function that runs it once and waits."""
    params = placed(model.params)
    batch = full_batch(model.architecture, rows, length, seed)
    start = time.perf_counter()
    program = whole_forward.lower(params, batch, architecture=model.architecture).compile()
    seconds = time.perf_counter() - start
    return seconds, program, lambda: jax.block_until_ready(program(params, batch))


def load_onnx_forward(
    model: Model, rows: int, length: int, seed: int = 0, int8: bool = False
) -> tuple[float, Any, Callable[[], np.ndarray]]:
    """The same by onnxruntime: seconds of loading the file, the program, and a function that runs it once."""
    check_onnx_installed(int8=True)  # which is onnxruntime too
    batch = full_batch(model.architecture, rows, length, seed)
    with TemporaryDirectory() as folder:
        file, graph = Path(folder) / "model.onnx", graph_of(model.architecture, model.params)
        (write_int8 if int8 else write_onnx)(graph, file)
        start = time.perf_counter()
        program = open_onnx(file)
        seconds = time.perf_counter() - start
    inputs = plain_inputs(batch, model.architecture)
    return seconds, program, lambda: program(*inputs)


# Who makes a model ready to be timed.
RUNTIMES: Mapping[str, Callable[..., tuple[float, Any, Callable[[], Any]]]] = MappingProxyType(
    {
        "jax": compile_forward,
        "onnxruntime": load_onnx_forward,
        "onnxruntime-int8": partial(load_onnx_forward, int8=True),
    }
)


@checked
def generation_speed(
    model: Model,
    *,
    batch: int = 1,
    prompt_length: int = 32,
    new_tokens: int = 64,
    repeats: int = 5,
    seed: int = 0,
    dtype: Any = jnp.float32,
) -> GenerationSpeed:
    """New tokens per second of greedy generation: `batch` prompts of random tokens, none of which ends early.

    The median of `repeats` turns, compilation apart, with its quartiles; reading the prompts is `prefill_seconds` and
    counts in `tokens_per_second`, not in `decode_tokens_per_second`. To compare models, call this for them in turns.
    Raises `DataError` for a model that is no language model, `SettingsError` for sizes that do not fit it.
    """
    if repeats < 1:
        raise SettingsError(f"repeats must be at least 1, got {repeats}.")
    programs = Programs()
    seconds = ready_to_generate(model, batch, prompt_length, new_tokens, seed, dtype, programs)
    turns = np.array([(seconds(1), seconds(new_tokens)) for _ in range(repeats)])
    low, median, high = (float(value) for value in np.percentile(turns[:, 1], (25, 50, 75)))
    steps = float(np.median(np.maximum(turns[:, 1] - turns[:, 0], 1e-9)))
    return GenerationSpeed(
        batch=batch,
        prompt_length=prompt_length,
        new_tokens=new_tokens,
        repeats=repeats,
        dtype=jnp.dtype(dtype).name,
        device=jax.devices()[0].device_kind,
        compile_seconds=programs.compile_seconds,  # 0 where this process has the program already
        prefill_seconds=float(np.median(turns[:, 0])),  # and the first token
        seconds=median,
        seconds_quartiles=[low, high],
        tokens_per_second=batch * new_tokens / median,
        decode_tokens_per_second=batch * (new_tokens - 1) / steps,
    )


def ready_to_generate(
    model: Model, batch: int, prompt_length: int, new_tokens: int, seed: int, dtype: Any, programs: Programs
) -> Callable[[int], float]:
    """A function that generates so many tokens and says how many seconds that took; compiled and warm."""
    a = model.architecture
    if not head_of(a).generates:
        raise DataError(f"generating needs a causal_lm head, the model has {a.head}; load a language model.")
    if min(batch, prompt_length) < 1 or new_tokens < 2:
        raise SettingsError(
            f"batch and prompt_length must be at least 1 and new_tokens 2, got {batch}, {prompt_length}, {new_tokens}."
        )
    if a.positions != "none" and prompt_length + new_tokens > a.max_positions:
        raise SettingsError(f"{prompt_length} prompt tokens and {new_tokens} new ones exceed the model's {a.limit}.")
    params, rows = jax.device_put(model.params), np.arange(batch, dtype=np.int32)
    ids = np.random.RandomState(seed).randint(0, a.vocab, (batch, prompt_length)).astype(np.int32)
    lengths, ends = np.full(batch, prompt_length, np.int32), np.zeros(0, np.int32)

    def seconds(limit: int) -> float:
        began = time.perf_counter()
        inputs = (params, ids, lengths, rows, jax.random.key(0), None, ends, np.int32(limit))
        jax.block_until_ready(programs(continue_rows, *inputs, architecture=a, room=new_tokens, dtype=jnp.dtype(dtype)))
        return time.perf_counter() - began

    seconds(1)  # compiles, and warms up
    return seconds


@checked
def generation_bench(
    dense: Model,
    pruned: Model,
    *,
    batch: int = 1,
    prompt_length: int = 32,
    new_tokens: int = 64,
    repeats: int = 5,
    seed: int = 0,
) -> GenerationBench:
    """New tokens per second of greedy generation by both models in turns; see `bench` and `generation_speed`."""
    if repeats < 1:
        raise SettingsError(f"repeats must be at least 1, got {repeats}.")
    books = {"dense": Programs(), "pruned": Programs()}
    run = {
        name: ready_to_generate(model, batch, prompt_length, new_tokens, seed, jnp.float32, books[name])
        for name, model in (("dense", dense), ("pruned", pruned))
    }
    seconds: dict[str, list[float]] = {name: [] for name in run}
    for turn in range(repeats):
        for name in sorted(run, reverse=turn % 2 == 1):
            seconds[name].append(run[name](new_tokens))
    low, speedup, high = np.percentile(np.array(seconds["dense"]) / np.array(seconds["pruned"]), (25, 50, 75))
    speeds = {name: batch * new_tokens / float(np.median(times)) for name, times in seconds.items()}
    return GenerationBench(
        batch=batch,
        prompt_length=prompt_length,
        new_tokens=new_tokens,
        repeats=repeats,
        device=jax.devices()[0].device_kind,
        **{f"{name}_tokens_per_second": speed for name, speed in speeds.items()},
        **{f"{name}_compile_seconds": programs.compile_seconds for name, programs in books.items()},
        speedup=float(speedup),
        speedup_quartiles=[float(low), float(high)],
    )


def full_batch(architecture: Architecture, rows: int, length: int, seed: int = 0) -> Batch:
    """One text of random tokens a row, no padding."""
    if architecture.patches is not None:
        p = architecture.patches
        if length != p.tokens:
            raise SettingsError(
                f"images are {p.tokens} tokens to the model, and length is {length}; ask for {p.tokens}."
            )
        pixels = np.random.RandomState(seed).normal(size=(rows, p.channels, p.height, p.width))
        return image_batch(architecture, pixels)
    if architecture.positions != "none" and length > architecture.max_positions:
        raise SettingsError(f"length {length} is more than the model's {architecture.limit}.")
    ids = np.random.RandomState(seed).randint(0, architecture.vocab, (rows, length))
    whole = np.ones((rows, length), np.int32)
    return Batch(
        ids=jnp.asarray(ids, jnp.int32),
        segments=jnp.asarray(whole),
        positions=jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length)),
        types=jnp.zeros((rows, length), jnp.int32),
        pool=jnp.asarray(pool_slots(architecture, ids, whole, 1)),
        index=jnp.arange(rows, dtype=jnp.int32)[:, None],
    )


def _verdict(rows: int, length: int, speedup: float, ratio: float, gained: bool) -> str:
    shape = f"{rows} x {length} tokens"
    if not gained and speedup >= 1.02:
        return f"{shape}: {speedup:.2f} times as fast in the median, but turns differ too much to be sure; repeat more."
    if not gained:
        return f"{shape}: nothing was gained ({speedup:.2f} times the dense speed; FLOPs fell {ratio:.2f} times)."
    share = f", {speedup / ratio:.0%} of that shows" if speedup < ratio else ""
    return f"{shape}: {speedup:.2f} times as fast; FLOPs fell {ratio:.2f} times{share}."
