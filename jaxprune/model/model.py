"""`Model`: an architecture and its parameters, as one pytree; and `Batch`, what a forward pass reads."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..errors import SettingsError
from .architecture import Architecture
from .record import PruningReport, report_of

Params = dict[str, Any]


# What to do about a model that JAX has rebuilt; the end of an error.
REGAIN = (
    "jax.tree.map, jax.jit and their like give back weights alone; new.with_notes_of(old) takes the notes along, as "
    "does old.replace(params=new.params)"
)


@dataclass(frozen=True, eq=False)
class Provenance:
    """Where a model came from and what was done to it: notes that never change a result.

    They stay with the Python object and are no part of the pytree: a compiled function would give back those of the
    model it was compiled for. Nothing is shared: a provenance keeps a copy of the record it is given.
    """

    source: str | None = None  # the folder it was read from (of a hub id, its snapshot): tokenizer files are there
    record: dict[str, Any] = field(default_factory=dict)  # what `jaxprune.json` will say: plain JSON values
    warnings: tuple[str, ...] = ()
    dtypes: Mapping[str, str] = field(
        default_factory=dict
    )  # "float16" and the like, by parameter, in the source's files
    tokenizer: Any = None  # one that was handed in, in place of the source's: a folder, or a loaded one
    dropped: bool = False  # true where JAX made the model anew from its weights, so that there were notes and are none

    def __post_init__(self):
        object.__setattr__(self, "record", deepcopy(self.record))
        object.__setattr__(self, "dtypes", dict(self.dtypes))


@dataclass(frozen=True, eq=False)
class Model:
    """A Transformer: a description (static) and a nested dict of arrays (the pytree's leaves); notes beside them."""

    architecture: Architecture
    params: Params
    provenance: Provenance = field(default_factory=Provenance)

    def __repr__(self) -> str:  # that of a dataclass would print every weight
        numbers = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(self.params))
        return f"Model({self.architecture.family}, {len(self.architecture.layers)} layers, {numbers:,} parameters)"

    @property
    def report(self) -> PruningReport:
        """What the run that pruned this model did and cost: its record, typed. It is saved and loaded with the model.

        Raises `SettingsError` for a model that was not pruned.
        """
        return report_of(self.provenance.record)

    def replace(self, **changes: Any) -> "Model":
        """The same model with other fields, and notes of its own."""
        if "provenance" not in changes:
            changes["provenance"] = replace(self.provenance)
        return replace(self, **changes)

    def with_record(self, **entries: Any) -> "Model":
        """The same model with `entries` added to its record."""
        record = {**self.provenance.record, **entries}
        return replace(self, provenance=replace(self.provenance, record=record))

    def with_tokenizer(self, tokenizer: Any) -> "Model":
        """The same model, read and saved with `tokenizer`: a folder, or a loaded one. None: with the one it has."""
        if tokenizer is None:
            return self
        return replace(self, provenance=replace(self.provenance, tokenizer=tokenizer))

    def with_notes_of(self, other: "Model") -> "Model":
        """This model with the notes (source, record, warnings) of the one that it was made from by a JAX function.

        Raises `SettingsError` where `other` has none, or is no model that this one can have been made from.
        """
        if other.provenance.dropped:
            raise SettingsError("the other model has no notes either; take those of the model that was loaded.")
        for name in ("family", "hidden", "vocab"):
            ours, theirs = getattr(self.architecture, name), getattr(other.architecture, name)
            if ours != theirs:
                raise SettingsError(
                    f"the notes are those of another model: its {name} is {theirs}, this one's {ours}; take those of "
                    "the model that this one was made from."
                )
        return self.replace(provenance=replace(other.provenance))


def _flatten(model: Model) -> tuple[Any, Any]:
    return ((jax.tree_util.GetAttrKey("params"), model.params),), model.architecture


def _unflatten(architecture: Any, children: Any) -> Model:
    (params,) = children
    return Model(architecture, params, Provenance(dropped=True))


jax.tree_util.register_pytree_with_keys(Model, _flatten, _unflatten)


class Batch(NamedTuple):
    """Rows of equal length that hold one or more texts each, or images.

    `segments` is 0 on padding and 1, 2, … on the texts of a row; a text attends only to itself. `index` says which
    example of the data set a slot holds (-1: none). An image's tokens are its special ones, whose `ids` are their
    numbers, and its `patches`; what `ids` says of those is not read.
    """

    ids: Int[Array, "rows length"]
    segments: Int[Array, "rows length"]
    positions: Int[Array, "rows length"]  # within the text, from 0
    types: Int[Array, "rows length"]
    pool: Int[Array, "rows texts"]  # the slot of the token that stands for each text
    index: Int[Array, "rows texts"]
    patches: Float[Array, "rows length numbers"] | None = None  # of images; zeros at special tokens
    # Where words are masked to be learnt: which token stood there; below 0 at all other slots.
    words: Int[Array, "rows length"] | None = None

    @property
    def real(self) -> Bool[Array, "rows length"]:
        """True on tokens, False on padding."""
        return self.segments > 0
