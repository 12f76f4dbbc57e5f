"""What all rounds of a RECAP run share, and what goes from one to the next."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from ...model import Architecture, Batch, Model, Params
from ...pruning.cut import Mask, everything_kept
from ...runtime.devices import Devices
from ...runtime.events import OnStep
from ...runtime.placement import Books, Placement
from ...runtime.programs import Programs
from ...tasks.task import Task
from ...tokens.encoded import Encoded
from ..epochs import first_texts
from ..finetune import split_scored
from ..settings import Train
from ..step import merge, select
from .settings import Recap
from .tuning import AdamMoments, ever_trains, zeros

PHASES = ("importance", "masking", "tuning", "write back", "evaluation")  # and "teaching" before tuning, if asked


class HostState(NamedTuple):
    """All that goes from round to round; NumPy's, on the host."""

    params: Params  # of the full model; float32 but for leaves that never train
    moments: AdamMoments | None  # of the full model; None where they are dropped
    average: list[np.ndarray]  # importance over the rounds so far; empty where none is kept
    masks: list[Mask]  # of the last round
    best: list[Mask]  # of the best one
    coming: list[Mask]  # of the next round, where they are measured ahead; empty where they never are


def first_state(model: Model, settings: Recap) -> HostState:
    """The host's state before the first round."""
    trains, constant = select(jax.tree.map(np.asarray, model.params), ever_trains(settings, model.architecture))
    trains = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), trains)  # masters, which every round goes on from
    moments = None
    if settings.moments != "dropped":
        moments = zeros(trains, ml_dtypes.bfloat16 if settings.moments == "bfloat16" else np.float32)
    whole = everything_kept(model.architecture)
    average = [np.zeros(len(mask)) for mask in whole] if settings.average else []
    return HostState(merge(trains, constant), moments, average, whole, whole, whole if settings.prefetch else [])


@dataclass
class RecapRun:
    """What all rounds share."""

    model: Model  # for its architecture and provenance; its parameters are not read
    task: Task
    settings: Recap
    training: Train  # resolved; its epochs are those of the whole run
    encoded: Encoded  # the training texts
    batches: Callable[[int], Sequence[Batch]]
    targets: np.ndarray
    batch_count: int  # of an epoch
    tokens: np.ndarray | None  # true at the ids that occur in the training texts
    kept_types: Params  # of the full model's parameters on the host
    result_types: Params  # of those that are scored and handed back
    placement: Placement
    tell: OnStep  # once a phase
    on_step: OnStep  # once a batch
    stopped: Callable[[], bool] = lambda: False  # whether a signal came
    together: int = 1  # training texts that belong to one example
    doubts: tuple[str, ...] = ()
    new_head: bool = False  # whether the full model has nothing to teach before its first round
    # One set for all rounds: shapes stay. Where K-prune measures, layers come one by one as in the sweeps.
    sweeps: Programs = field(default_factory=lambda: Programs(own={}, devices=Devices(stream=True)))
    small: dict[str, tuple[Architecture, Programs]] = field(default_factory=dict)  # by phase: of the small model there
    teaching: Programs = field(default_factory=lambda: Programs(own={}, devices=Devices(stream=True)))

    @property
    def steps(self) -> int:
        return self.settings.epochs * self.batch_count

    def step(self, event: dict[str, Any]) -> None:
        """OnStep of a batch. Raises `KeyboardInterrupt` where a signal came."""
        self.on_step(event)
        if self.stopped():
            raise KeyboardInterrupt

    def sampled(self, number: int) -> Sequence[Batch]:
        """The texts that a round is measured on: those of its first batches, whose shape is that of all others."""
        batches = self.batches(number * self.settings.epochs_per_round)
        return first_texts(batches, self.settings.samples, self.together)

    def of_shape(self, phase: str, small: Architecture) -> Programs:
        """The programs of a phase in which the small model runs: those of the round before, where its shapes were the
        same.
        """
        if phase not in self.small or self.small[phase][0] != small:
            self.small[phase] = small, Programs(own={})
        return self.small[phase][1]

    @property
    def split_name(self) -> str:
        return split_scored(self.training)

    @contextmanager
    def phase(
        self, name: str, number: int, phases: dict[str, Any], on_device: bool, programs: Programs | None = None
    ) -> Iterator[Books]:
        with self.placement.phase(name, on_device, programs) as books:
            yield books
        phases[name] = books.as_json()
        self.tell({"phase": name, "round": number, "of": self.settings.rounds, **phases[name]})
