"""A model as a value: a pytree of weights and an architecture, with notes that belong to the Python object alone."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.errors import DataError, SettingsError
from jaxprune.model import Model, Provenance, logits
from tests.helpers import tiny

BERT = tiny.config("bert")


def noted(source: str, seed: int = 0) -> Model:
    notes = Provenance(
        source, {"method": "none", "kept": [{"heads": [0]}]}, (f"of {source}",), {"head.bias": "float16"}
    )
    return tiny.random_model(BERT, seed).replace(provenance=notes)


def notes_of(model: Model) -> tuple:
    notes = model.provenance
    return notes.source, notes.record, notes.warnings, dict(notes.dtypes), notes.dropped


def test_a_compiled_function_never_returns_the_notes_of_another_model(compilations):
    one, other = noted("A"), noted("B", seed=1)
    double = jax.jit(lambda model: jax.tree.map(lambda leaf: 2 * leaf, model))
    first = double(one)
    with compilations() as seen:
        second = double(other)
    assert seen == []  # notes compile nothing anew
    for model in (first, second, jax.tree.map(jnp.array, one), jax.eval_shape(lambda: one)):
        assert notes_of(model) == (None, {}, (), {}, True)
    np.testing.assert_array_equal(second.params["head"]["bias"], 2 * other.params["head"]["bias"])
    assert jax.tree.structure(one) == jax.tree.structure(other) and "of A" not in str(jax.tree.structure(one))


def test_notes_come_back_from_the_model_that_had_them():
    model = noted("A")
    new = jax.tree.map(lambda leaf: leaf + 1, model)
    assert notes_of(new.with_notes_of(model)) == notes_of(model) == notes_of(model.replace(params=new.params))
    np.testing.assert_array_equal(new.with_notes_of(model).params["head"]["bias"], new.params["head"]["bias"])
    with pytest.raises(SettingsError, match="the other model has no notes either"):
        model.with_notes_of(new)
    with pytest.raises(SettingsError, match="notes are those of another model: its hidden is 24, this one's 12"):
        new.with_notes_of(tiny.random_model(tiny.config("bert", hidden_size=24)))


def test_models_share_no_record():
    record = {"kept": [{"heads": [0]}]}
    model = tiny.random_model(BERT).replace(provenance=Provenance("A", record))
    others = [model.replace(params=model.params), model.with_record(more=1), jax.tree.map(jnp.array, model)]
    others += [jax.tree.map(jnp.array, model).with_notes_of(model), tiny.random_model(BERT), tiny.random_model(BERT)]
    for other in others:
        other.provenance.record["mine"] = True
        for layer in other.provenance.record.get("kept", []):
            layer["heads"].append(1)
    record["kept"][0]["heads"].append(2)
    assert model.provenance.record == {"kept": [{"heads": [0]}]}
    assert tiny.random_model(BERT).provenance.record == {}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_keep_their_notes(copied):
    model = noted("A")
    again = copied(model)
    assert notes_of(again) == notes_of(model) and again.architecture == model.architecture
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_a_model_is_equal_to_itself_alone():
    model = noted("A")
    assert model == model and model != model.replace(params=model.params)
    assert len({model, noted("B")}) == 2


@pytest.mark.parametrize(
    "given, says",
    [
        (([["a", "text"]],), "input_ids is list of <U4, expected whole numbers"),
        (({"input_ids": [[5]]},), "input_ids is dict of object, expected whole numbers"),
        (([[5, 6], [7]],), "input_ids has rows of different lengths; pad them"),
        (([[5.5]],), "expected whole numbers"),
        (([[5], [-1]],), "input_ids has -1 in row 1, expected numbers from 0 to "),
        (([[10**6]],), "input_ids has 1000000 in row 0"),
        (([[5, 6]], [[0.0, -1e9]]), "attention_mask has -1000000000.0 in row 0, expected numbers from 0 to 1"),
        (([[5, 6]], None, [[0, 9]]), "token_type_ids has 9 in row 0"),
    ],
)
def test_what_are_no_token_ids_is_named(given, says):
    assert logits(tiny.random_model(BERT), [[5, -1]], [[1, 0]]).shape  # padding may be anything
    with pytest.raises(DataError, match=says):
        logits(tiny.random_model(BERT), *given)
