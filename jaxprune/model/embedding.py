"""How a text becomes one vector: the settings of an embedding model, as sentence-transformers has them."""

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import SettingsError

# Of a text's last hidden states: those of its first or last token, or over all of its tokens the greatest numbers, the
# mean, the sum over the root of their number, or a mean that weighs the first token 1, the second 2 and so on.
PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
DenseActivation = Literal["identity", "tanh", "relu", "gelu", "silu", "sigmoid"]


@dataclass(frozen=True, kw_only=True)
class DenseStep:
    """One dense layer on the pooled vector."""

    outputs: int
    bias: bool = True
    activation: DenseActivation = "tanh"


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """From hidden states to a vector, and what a text is before it is tokens."""

    pooling: tuple[PoolingMode, ...] = ("mean",)  # several: one behind the other
    dense: tuple[DenseStep, ...] = ()  # applied in this order
    normalize: bool = False  # the vector is brought to length 1
    include_prompt: bool = True  # the tokens of a prompt are pooled too
    max_tokens: int | None = None  # of a text, where that is less than the model reads
    lower_case: bool = False  # texts are put in small letters first, whatever the tokenizer does
    prompts: tuple[tuple[str, str], ...] = ()  # by name: what is written before a text
    default_prompt: str | None = None  # the name of the one that is written before a text where none is asked for

    def __post_init__(self):
        known = get_args(PoolingMode)
        if not self.pooling or len(set(self.pooling)) < len(self.pooling) or not set(self.pooling) <= {*known}:
            raise SettingsError(
                f"pooling is {', '.join(self.pooling) or 'empty'}, expected each at most once of {', '.join(known)}."
            )
        if self.default_prompt is not None and self.default_prompt not in dict(self.prompts):
            raise SettingsError(
                f"the default prompt is {self.default_prompt!r}, the prompts are called "
                f"{', '.join(dict(self.prompts)) or 'nothing'}; name one of them."
            )

    def widths(self, hidden: int) -> tuple[int, ...]:
        """Of the pooled vector, and of that after every dense layer; the last one is the embedding's."""
        return (hidden * len(self.pooling), *(step.outputs for step in self.dense))
