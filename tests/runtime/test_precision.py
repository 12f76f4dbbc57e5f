"""Where a device rounds what it multiplies: checks ask for full products, and programs of two precisions are two."""

from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.errors import NumericalError
from jaxprune.exports import stablehlo
from jaxprune.pruning import cut_check
from jaxprune.pruning.refit import widths
from jaxprune.runtime import precision, programs
from jaxprune.runtime.precision import full_precision
from jaxprune.runtime.programs import ON_GPU, Programs, compiler_options
from jaxprune.tokens.encoded import Encoded
from jaxprune.tokens.packing import pack
from tests.helpers.tiny import config, random_model


@jax.jit
def squared(x):
    return x @ x


@pytest.fixture
def accelerator(monkeypatch):
    """As if an accelerator was there, for what asks."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    before = precision.default_precision()
    jax.config.update("jax_default_matmul_precision", None)
    yield
    jax.config.update("jax_default_matmul_precision", before)


def made(x):
    """How many programs a call makes, and the precision that its products have."""
    run = Programs()
    text = str(squared.lower(x).as_text())
    run(squared, x)
    return run.compiled, "HIGHEST" in text


def test_a_program_made_at_one_precision_is_not_taken_for_another(accelerator, monkeypatch):
    monkeypatch.setattr(programs, "ON_GPU", {})  # a CPU compiles here
    programs.forget()
    x = jnp.ones((3, 3))
    assert made(x) == (1, False)
    assert made(x) == (0, False)
    with full_precision():
        assert made(x) == (1, True)
    assert made(x) == (0, False)


def test_on_a_cpu_full_precision_makes_no_other_programs():
    programs.forget()
    x = jnp.ones((3, 3))
    first = made(x)
    with full_precision():
        assert made(x) == (0, first[1])


def test_products_are_rounded_on_accelerators_only_and_not_where_highest_is_asked(accelerator):
    assert precision.rounds_products()
    with full_precision():
        assert not precision.rounds_products()


def test_on_a_gpu_few_kernels_are_tried_unless_xla_flags_speaks_of_them(accelerator, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    assert compiler_options() == dict(ON_GPU)
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=true")
    assert compiler_options().keys() == ON_GPU.keys() - {"xla_gpu_enable_triton_gemm"}


def test_the_options_for_a_gpu_are_names_that_this_xla_knows():
    squared.lower(jnp.ones((2, 2))).compile(dict(ON_GPU))


def test_an_option_that_this_xla_does_not_know_is_left_out(accelerator, monkeypatch):
    monkeypatch.setattr(programs, "ON_GPU", {"xla_gpu_of_another_year": False})
    programs.forget()
    assert float(Programs()(squared, jnp.full((1, 1), 3.0))[0, 0]) == 9.0


def test_a_cpu_gets_no_options():
    assert compiler_options() == {}


# --- what compares two programs


@pytest.fixture
def seen(monkeypatch):
    """Precisions at which functions were called that `watch` was told of."""
    found = []

    def watch(module, name):
        plain = getattr(module, name)

        def call(*inputs, **named):
            found.append(precision.default_precision())
            return plain(*inputs, **named)

        monkeypatch.setattr(module, name, call)

    found_by = watch, found
    return found_by


def test_masked_and_cut_models_are_compared_in_full(accelerator, monkeypatch, seen):
    watch, found = seen
    monkeypatch.setattr(programs, "ON_GPU", {})
    monkeypatch.setattr(Programs, "once", lambda self, function, *arrays, **static: function(*arrays, **static))
    watch(cut_check, "whole_forward")
    model = random_model(config("bert"))
    masks = [np.ones(size.units[half], bool) for size in model.architecture.layers for half in size.units]
    ids = [np.arange(1, 6), np.arange(4, 7)]
    (batch,) = pack(Encoded(ids, [0 * row for row in ids]), model.architecture)
    assert cut_check.masked_versus_cut(model, model, masks, batch) == 0.0
    assert found == ["highest"] * 2


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="ONNX files are run by onnxruntime")
def test_an_onnx_file_is_held_against_products_in_full(accelerator, seen, tmp_path):
    from jaxprune.exports import onnx
    from jaxprune.exports.onnx_file import write_onnx
    from jaxprune.exports.onnx_graph import graph_of

    watch, found = seen
    watch(onnx, "logits")
    model = random_model(config("bert"))
    write_onnx(graph_of(model.architecture, model.params), tmp_path / "model.onnx")
    assert onnx.file_error(model, tmp_path / "model.onnx", [], exact=True) < 1e-4
    assert found == ["highest"] * len(onnx.PROBES)


def test_a_stablehlo_program_may_round_where_the_device_does(accelerator):
    assert stablehlo._checked(5e-3, 1.0) == 5e-3
    with full_precision(), pytest.raises(NumericalError, match="differ by 0.005"):
        stablehlo._checked(5e-3, 1.0)


def test_an_accelerator_compiles_fewer_widths(accelerator, monkeypatch):
    work = 10**13  # BERT-base, 100,000 tokens
    assert widths(work) == 4
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert widths(work) == 16
