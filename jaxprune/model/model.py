"""`Model`: an architecture and its parameters, as one pytree; and `Batch`, what a forward pass reads."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Int

from .architecture import Architecture

Params = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Provenance:
    """Where a model came from and what was done to it: notes that travel with it and never change a result.

    All provenances compare equal, so that two models that differ only here share one compiled program.
    """

    source: str | None = None  # the folder it was read from (of a hub id, its snapshot): tokenizer files are there
    record: dict[str, Any] = field(default_factory=dict)  # what `jaxprune.json` will say: plain JSON values
    warnings: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Provenance)

    def __hash__(self) -> int:
        return hash(Provenance)


@dataclass(frozen=True)
class Model:
    """A Transformer: a description (static) and a nested dict of arrays (the pytree's leaves)."""

    architecture: Architecture
    params: Params
    provenance: Provenance = Provenance()

    def __repr__(self) -> str:  # that of a dataclass would print every weight
        numbers = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(self.params))
        return f"Model({self.architecture.family}, {len(self.architecture.layers)} layers, {numbers:,} parameters)"

    def replace(self, **changes: Any) -> "Model":
        return replace(self, **changes)

    def with_record(self, **entries: Any) -> "Model":
        """The same model with `entries` added to its record."""
        record = {**self.provenance.record, **entries}
        return replace(self, provenance=replace(self.provenance, record=record))


def _flatten(model: Model) -> tuple[Any, Any]:
    return ((jax.tree_util.GetAttrKey("params"), model.params),), (model.architecture, model.provenance)


def _unflatten(static: Any, children: Any) -> Model:
    (params,) = children
    return Model(static[0], params, static[1])


jax.tree_util.register_pytree_with_keys(Model, _flatten, _unflatten)


class Batch(NamedTuple):
    """Rows of equal length that hold one or more texts each.

    `segments` is 0 on padding and 1, 2, … on the texts of a row; a text attends only to itself. `index` says which
    example of the data set a slot holds (-1: none).
    """

    ids: Int[Array, "rows length"]
    segments: Int[Array, "rows length"]
    positions: Int[Array, "rows length"]  # within the text, from 0
    types: Int[Array, "rows length"]
    pool: Int[Array, "rows texts"]  # the slot of the token that stands for each text
    index: Int[Array, "rows texts"]

    @property
    def real(self) -> Bool[Array, "rows length"]:
        """True on tokens, False on padding."""
        return self.segments > 0
