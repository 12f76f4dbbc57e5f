"""What all tests share: the platform, and where real inputs lie when they are there.

Tests run on the CPU. `JAXPRUNE_TEST_PLATFORM=cuda,cpu` runs them on a GPU, host memory beside it, at full precision:
their tolerances are those of float32.

Strict dtype promotion is not set: optax mixes its int32 step count with floats.
"""

import gc
import os
from contextlib import contextmanager
from importlib.metadata import version

# Before JAX is imported. No test may depend on an accelerator, nor take one unasked.
os.environ["JAX_PLATFORMS"] = os.environ.get("JAXPRUNE_TEST_PLATFORM") or "cpu"
if os.environ["JAX_PLATFORMS"] == "cpu":
    # Most of the tests' time is XLA compiling tiny programs. Without these two parts of its work that takes a quarter.
    quick = ["--xla_backend_optimization_level=0"]
    # Later ones end the process at a flag that they do not have.
    if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
        quick.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([*os.environ.get("XLA_FLAGS", "").split(), *quick])
else:
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # tests start processes, which share the device

from pathlib import Path

import hypothesis
import jax
import pytest

jax.config.update("jax_enable_compilation_cache", False)  # compilations are counted in tests

# No deadline: the first example of a test compiles.
hypothesis.settings.register_profile("jaxprune", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("jaxprune")


ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    # Test files may have equal names. Said here too: `-o addopts=` is how to run where beartype is missing.
    config.option.importmode = "importlib"


def pytest_collection_finish():
    # What was imported stays: collecting garbage passes it by from here on, a million objects.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Each program of XLA's CPU compiler holds a dozen memory mappings, and Linux grants a process 65,530.

    A process that compiles more crashes inside the compiler; all tests together come close.
    """
    yield
    from jaxprune.runtime import programs  # not above: the hook that checks array types comes after this file

    programs.forget()
    jax.clear_caches()
    gc.collect()


def _existing(path: Path, hint: str) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} is missing: {hint}")
    return path


@pytest.fixture(scope="session")
def shared():
    """shared("data/glue/sst2") -> the path under ../shared; skips the test where it is missing."""
    return lambda name: _existing(ROOT.parent / "shared" / name, f"this test reads ../shared/{name}")


@pytest.fixture(scope="session")
def real_model():
    """real_model("minilm-sst2") -> the checkpoint's folder under build/models; skips the test where it is missing."""
    return lambda name: _existing(
        ROOT / "build" / "models" / name, "make it with ../shared/models/assemble.py --out build/models"
    )


_LISTENING: list[list[str]] = []


def _note(event: str, duration_secs: float, **_: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        for seen in _LISTENING:
            seen.append(event)


# One listener for good: the oldest JAX we support cannot take a listener back.
jax.monitoring.register_event_duration_secs_listener(_note)


@pytest.fixture
def compilations():
    """`with compilations() as seen:` lists the programs that XLA compiles inside the block: len(seen) counts them."""

    @contextmanager
    def listen():
        seen: list[str] = []
        _LISTENING.append(seen)
        try:
            yield seen
        finally:
            _LISTENING[:] = [other for other in _LISTENING if other is not seen]

    return listen
