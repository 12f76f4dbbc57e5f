"""Importance and Fisher information, layer by layer, are what whole gradients give."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.errors import NumericalError
from jaxprune.finetuning.losses import mean_loss, summed_losses
from jaxprune.finetuning.recap.sweep import sweep
from jaxprune.model import Sites
from jaxprune.model.architecture import HALVES
from jaxprune.pruning.cut import cut, everything_kept, gates_of, map_units
from jaxprune.runtime.programs import Programs
from tests.finetuning.test_train import APART, CLASSES, PACKED, TINY, model_of

PROGRAMS = Programs()
HALF = [np.array([True, False]), np.arange(24) % 2 == 0]  # of TINY's units


def swept(model, form, batches=(PACKED,), kept=None, place=jnp.asarray, **more):
    return sweep(
        model.params, model.architecture, batches, CLASSES, kept or everything_kept(model.architecture),
        form=form, place=lambda tree: jax.tree.map(place, tree), programs=PROGRAMS, **more,
    )  # fmt: skip


def whole_gradient(model, batch, masks=None):
    """The gradient of the mean loss of a batch, by one backward pass; removed units gated."""
    goal, batch = jnp.asarray(CLASSES[np.maximum(batch.index, 0)]), jax.tree.map(jnp.asarray, batch)
    if masks is None:
        return jax.jit(jax.grad(partial(mean_loss, architecture=model.architecture)))(model.params, batch, goal)
    sites = Sites(gates=jax.tree.map(jnp.asarray, gates_of(model.architecture, masks)))
    total = lambda params: summed_losses(params, batch, goal, TINY, sites=sites) / len(CLASSES)  # noqa: E731
    return jax.jit(jax.grad(total))(model.params)


def test_weights_form_is_the_sum_of_squared_products():
    model = model_of(TINY)
    batches = (PACKED, APART)
    expected = [np.zeros(2), np.zeros(24)]
    for batch in batches:
        slopes = whole_gradient(model, batch)
        for number, half in enumerate(HALVES):

            def add(axis, weight, slope, number=number):
                product = np.moveaxis(np.asarray(weight * slope) ** 2, axis, 0)
                expected[number] += product.reshape(len(product), -1).sum(1) / len(batches)
                return weight

            map_units(half, add, model.params["layers"][0][half], slopes["layers"][0][half])
    for ours, theirs in zip(swept(model, "weights", batches), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)  # squares of float32 gradients


def test_gates_form_is_the_square_of_the_summed_products_over_output_weights():
    """With one text a batch, Σ w·g over a unit's output weights is the gradient to its gate."""
    model, one = model_of(TINY), jax.tree.map(lambda leaf: leaf[1:2], APART)
    slopes = whole_gradient(model, one)["layers"][0]
    for half, name, ours in zip(HALVES, ("o", "down"), swept(model, "gates", (one,)), strict=True):
        product = np.asarray(model.params["layers"][0][half][name]["kernel"] * slopes[half][name]["kernel"])
        np.testing.assert_allclose(ours, product.reshape(len(product), -1).sum(1) ** 2, rtol=1e-3, atol=1e-12)


def test_gates_form_does_not_depend_on_packing():
    model = model_of(TINY)
    for ours, theirs in zip(swept(model, "gates"), swept(model, "gates", (APART,)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-12)


def test_fisher_of_masked_units_is_that_of_the_cut_model():
    model = model_of(TINY)
    masked = swept(model, "fisher", kept=HALF)[0]
    small = cut(model, HALF)
    ours = swept(small, "fisher")[0]
    slopes = whole_gradient(model, PACKED, HALF)["layers"][0]
    for half, mask in zip(HALVES, HALF, strict=True):
        for name, values in masked[half].items():
            kept = values[mask]
            np.testing.assert_allclose(kept, ours[half][name], rtol=1e-3, atol=1e-12)
            axis = -1 if name in ("o", "down") else 0
            square = np.sum(np.asarray(slopes[half][name]["kernel"]) ** 2, axis=axis)[mask]
            np.testing.assert_allclose(kept, square, rtol=1e-3, atol=1e-12)
    assert set(masked["attention"]) == set("qkvo") and set(masked["feed_forward"]) == {"up", "down"}


def test_removed_units_have_no_importance():
    for mask, scores in zip(HALF, swept(model_of(TINY), "weights", kept=HALF), strict=True):
        assert np.all(scores[~mask] == 0) and np.all(scores[mask] > 0)


def three_layers():
    model = model_of(TINY)
    return model.replace(
        architecture=TINY.with_layers(TINY.layers * 3),
        params={**model.params, "layers": model.params["layers"] * 3},
    )


@pytest.mark.parametrize("form", ["weights", "gates", "fisher"])
def test_a_device_gets_each_layer_twice_for_all_batches_and_the_same_numbers_come(form):
    """Once on the way up, once down: one batch after another asks for it twice each. Streams wait as NumPy arrays."""
    model, batches = three_layers(), (APART, APART, APART)
    asked, waited, parts = [], [], []

    def place(leaf):
        asked.append((np.shape(leaf), type(leaf)))
        return jnp.array(leaf)

    def keep(stream):
        waited.append(np.array(stream))
        stream.delete()
        return waited[-1]

    apart = swept(model, form, batches, place=place)
    assert sum(shape == (16, 24) for shape, _ in asked) == 2 * 3 * 3
    asked.clear()
    together = swept(model, form, batches, place=place, keep=keep, on_part=lambda *part: parts.append(part))
    assert sum(shape == (16, 24) for shape, _ in asked) == 2 * 3  # a layer's `up` kernel
    assert sum(shape == (TINY.vocab, 16) for shape, _ in asked) == 2  # what is outside the layers: before and after
    stream = (*APART.ids.shape, 16)
    assert len(waited) == 3 * (4 + 1 + 3)  # of each batch four streams, and gradients to all of them
    assert {leaf.shape for leaf in waited} == {stream} and {kind for shape, kind in asked if shape == stream} == {
        np.ndarray
    }
    assert parts == [(done, 6) for done in range(1, 7)]
    jax.tree.map(np.testing.assert_array_equal, together, apart)


@pytest.mark.parametrize("form", ["weights", "gates", "fisher"])
def test_gradients_that_are_not_finite_name_the_layer(form):
    model = model_of(TINY)
    layer = jax.tree.map(lambda leaf: leaf, model.params["layers"][0])
    layer["feed_forward"]["down"]["bias"] = jnp.full(16, np.nan)
    with pytest.raises(NumericalError, match="gradient in layer 0 is NaN or Inf"):
        swept(model.replace(params={**model.params, "layers": [layer]}), form)
