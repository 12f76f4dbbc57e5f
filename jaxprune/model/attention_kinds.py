"""Which tokens a token attends to, and what distance does to its scores: one tagged description for a whole model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from ..errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Full:
    """All tokens of the text; in a causal model, those before it and itself."""

    kind: Literal["full"] = "full"


@dataclass(frozen=True, kw_only=True)
class Window:
    """Tokens less than `size` away, in slots: in a causal model the last `size`, itself counted."""

    kind: Literal["window"] = "window"
    size: int


@dataclass(frozen=True, kw_only=True)
class Relative:
    """All tokens; each score has a number added, by head and distance: [buckets, heads], one table for all layers.

    Every layer holds the columns of its own heads, equal copies of what the others have. Half of the buckets are for
    tokens before, half for those after; of each half, one half for a single distance each, the rest for ranges that
    grow up to `reach` tokens (Raffel et al., T5, 2020; Song et al., MPNet, 2020).
    """

    kind: Literal["relative"] = "relative"
    buckets: int = 32
    reach: int = 128
    # For every layer, the columns of the whole table that its heads have: of a pruned model. Empty: all, in order.
    columns: tuple[tuple[int, ...], ...] = ()

    def check(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Raise `SettingsError` unless layers of these (groups, queries of each) can have such tables."""
        if self.buckets < 4 or self.buckets % 4 or self.reach <= self.buckets // 4:
            raise SettingsError(
                f"relative attention has {self.buckets} buckets and reaches {self.reach} tokens, expected a multiple "
                "of 4, and more tokens than a fourth of that."
            )
        if any(queries > 1 for _, queries in sizes):
            raise SettingsError(
                "in relative attention every head has its own keys and values, expected no queries that share them."
            )
        have, groups = [len(numbers) for numbers in self.columns], [groups for groups, _ in sizes]
        if self.columns and have != groups:
            raise SettingsError(f"relative attention names columns for {have} heads in turn, expected {groups}.")

    def of_groups(self, kept: Sequence[Sequence[int]], total: Sequence[int]) -> "Relative":
        """The same for layers that keep these of their `total` groups."""
        if not self.columns and [len(units) for units in kept] == list(total):
            return self
        before = self.columns or tuple(tuple(range(count)) for count in total)
        columns = (tuple(old[unit] for unit in units) for old, units in zip(before, kept, strict=True))
        return replace(self, columns=tuple(columns))


@dataclass(frozen=True, kw_only=True)
class Disentangled:
    """All tokens; each score also compares what one token says with how far the other is from it.

    One table of distances, [2 * span, hidden], serves all layers: rows before `span` are of tokens that come later, row
    `span` of the token itself. Every layer holds an equal copy. Heads project it, as far as `keys` to what queries are
    compared with ("content to position"), and as far as `queries` to what keys are compared with ("position to
    content") (He et al., DeBERTa, 2021).
    """

    kind: Literal["disentangled"] = "disentangled"
    reach: int  # tokens; what is farther away lies in the last row of its side
    # Rows a side: half of them for a single distance each, the rest for ranges that grow up to `reach`. 0: one for
    # every distance up to `reach`.
    buckets: int = 0
    keys: bool = True
    queries: bool = True
    shared: bool = False  # by the projections of tokens; else by projections of their own
    norm: bool = False  # the table is normed first

    @property
    def span(self) -> int:
        """Rows of the table for one side."""
        return self.buckets or self.reach

    def check(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Raise `SettingsError` unless layers of these (groups, queries of each) can have such tables."""
        if self.buckets % 2 or self.reach < 1 or (self.buckets and self.reach - 1 <= self.buckets // 2):
            raise SettingsError(
                f"disentangled attention has {self.buckets} buckets a side and reaches {self.reach} tokens, expected "
                "an even number, and at least two tokens more than half of it."
            )
        if any(queries > 1 for _, queries in sizes):
            raise SettingsError(
                "in disentangled attention every head has its own keys and values, expected no queries that share them."
            )


@dataclass(frozen=True, kw_only=True)
class LayerKind:
    """What the attention of some layers is, where not all are alike."""

    attention: Full | Window = Full()
    # Radians a position in these layers; (): they turn nothing. None: what the architecture says.
    rotary: tuple[float, ...] | None = None
    rotary_scale: float = 1.0  # beside such a `rotary`: times sine and cosine


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Layers of several kinds: `layers` has for each of them its place among `kinds`."""

    kind: Literal["mixed"] = "mixed"
    kinds: tuple[LayerKind, ...]
    layers: tuple[int, ...]

    def check(self, layers: int) -> None:
        """Raise `SettingsError` unless these are the kinds of so many layers."""
        if len(self.layers) != layers or not all(0 <= number < len(self.kinds) for number in self.layers):
            raise SettingsError(
                f"mixed attention has {len(self.kinds)} kinds and layers of kind {list(self.layers)}, expected one of "
                f"these for each of {layers} layers."
            )


Attention = Full | Window | Relative | Disentangled | Mixed
ATTENTION_KINDS: Mapping[str, type[Full | Window | Relative | Disentangled | Mixed]] = MappingProxyType(
    {"full": Full, "window": Window, "relative": Relative, "disentangled": Disentangled, "mixed": Mixed}
)


def shortest_window(attention: Attention) -> int | None:
    """How many tokens the layers that see least attend to; None where all see all."""
    kinds = [kind.attention for kind in attention.kinds] if isinstance(attention, Mixed) else [attention]
    return min((kind.size for kind in kinds if isinstance(kind, Window)), default=None)


def alike(one: Attention, other: Attention, tolerance: float) -> bool:
    """True where two are the same but for what another machine makes of the last bits of angles, relative."""
    if not (isinstance(one, Mixed) and isinstance(other, Mixed)):
        return one == other
    bare = [replace(kind, kinds=tuple(replace(entry, rotary=None) for entry in kind.kinds)) for kind in (one, other)]
    if bare[0] != bare[1]:
        return False
    pairs = [(entry.rotary or (), there.rotary or ()) for entry, there in zip(one.kinds, other.kinds, strict=True)]
    return all(
        len(here) == len(there) and all(math.isclose(a, b, rel_tol=tolerance) for a, b in zip(here, there, strict=True))
        for here, there in pairs
    )


def by_layer(kinds: Sequence[LayerKind]) -> Attention:
    """The attention of layers of these kinds, in turn; the plain one where they are all alike."""
    different = tuple(dict.fromkeys(kinds))
    if len(different) == 1 and different[0].rotary is None:
        return different[0].attention
    return Mixed(kinds=different, layers=tuple(different.index(kind) for kind in kinds))
