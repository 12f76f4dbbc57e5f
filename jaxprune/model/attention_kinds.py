"""Which tokens a token attends to: one tagged description for a whole model."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Full:
    """All tokens of the text; in a causal model, those before it and itself."""

    kind: Literal["full"] = "full"


@dataclass(frozen=True, kw_only=True)
class Window:
    """In some layer only the last `size` tokens, itself counted.

    Not computed: texts that fit are read as if it were open, which is the same, and longer ones are refused.
    """

    kind: Literal["window"] = "window"
    size: int


Attention = Full | Window
ATTENTION_KINDS: Mapping[str, type[Full | Window]] = MappingProxyType({"full": Full, "window": Window})
