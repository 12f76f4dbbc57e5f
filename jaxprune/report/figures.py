"""What `bench`, `generation_speed` and `plan` found: figures with names, and as plain JSON values."""

import warnings
from dataclasses import asdict, dataclass
from typing import Any

from ..settings import FormerName


class AsJson:
    """Results of which `as_json` gives plain values."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]  # every class below is a dataclass

    def __getitem__(self, name: str) -> Any:
        """A figure by its name, as results were read up to 0.1: for one release, with a warning."""
        told = f"{type(self).__name__}[{name!r}] is .{name} now; the next release will not know the brackets."
        warnings.warn(told, FormerName, stacklevel=2)
        return self.as_json()[name]


@dataclass(frozen=True, kw_only=True)
class Bench(AsJson):
    """A dense and a pruned model's forward pass, timed in turns; medians."""

    rows: int  # of a batch
    length: int  # tokens a row
    repeats: int  # turns
    device: str
    runtime: str = "jax"  # what ran them; compile seconds of others are those of loading a file
    dense_seconds: float
    pruned_seconds: float
    dense_compile_seconds: float
    pruned_compile_seconds: float
    dense_tokens_per_second: float
    pruned_tokens_per_second: float
    speedup: float  # the median of the ratios within a turn
    speedup_quartiles: list[float]  # lower and upper
    flops_ratio: float  # FLOPs dense over pruned, at this length
    of_flops: float  # the speed-up as a share of that ratio; 1: all of the saving shows
    gained: bool  # beyond the noise of this very run
    verdict: str  # in words


@dataclass(frozen=True, kw_only=True)
class GenerationSpeed(AsJson):
    """How fast one model generates; medians of several turns."""

    batch: int  # prompts
    prompt_length: int  # tokens of each
    new_tokens: int  # after each
    repeats: int
    dtype: str
    device: str
    compile_seconds: float  # 0 where this process has the program already
    prefill_seconds: float  # reading the prompts, and the first token
    seconds: float
    seconds_quartiles: list[float]
    tokens_per_second: float  # new ones, reading the prompts counted in
    decode_tokens_per_second: float  # the same without it


@dataclass(frozen=True, kw_only=True)
class GenerationBench(AsJson):
    """How fast a dense and a pruned model generate, in turns; medians."""

    batch: int
    prompt_length: int
    new_tokens: int
    repeats: int
    device: str
    dense_tokens_per_second: float
    pruned_tokens_per_second: float
    dense_compile_seconds: float
    pruned_compile_seconds: float
    speedup: float
    speedup_quartiles: list[float]


@dataclass(frozen=True, kw_only=True)
class PlannedSize:
    """A model's size, whole and of that what pruning can remove; FLOPs of one text."""

    flops: int
    prunable_flops: int
    parameters: int
    prunable_parameters: int
    bytes: int  # in float32


@dataclass(frozen=True, kw_only=True)
class PlannedTexts:
    """The calibration texts of a planned run."""

    texts: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class PlannedForwards:
    """What budgets cost, in dense forward passes over the calibration texts, compilation apart."""

    first: float
    further: float  # each; 0 where there is one budget


@dataclass(frozen=True, kw_only=True)
class Plan(AsJson):
    """What a pruning run is predicted to give and cost."""

    method: str
    length: int  # tokens a text at which FLOPs are counted
    calibration: PlannedTexts
    dense: PlannedSize
    pruned: tuple[PlannedSize, ...]  # a budget each
    tokens_per_second: float  # of the dense model's forward pass, here
    dense_forward_seconds: float  # one warm pass over the calibration texts
    dense_forwards: PlannedForwards
    compile_seconds: float
    seconds: float  # of the whole run, compilation included
    peak_bytes: dict[str, int] | None  # by part, and "total"; None: not predicted
    assumptions: list[str]  # what the estimates rest on, in words
    host_peak_bytes: int | None  # of the whole process so far
    warnings: list[str]
    several: bool  # whether budgets came as a sequence

    def as_json(self) -> dict[str, Any]:
        """Plain values; "pruned" is a list where budgets came as a sequence, else what the one budget leaves."""
        values = asdict(self)
        several, pruned = values.pop("several"), list(values["pruned"])
        return {**values, "pruned": pruned if several else pruned[0]}
