"""What every pruning method shares: batches in, a smaller model with its record out."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from threadpoolctl import ThreadpoolController

from ..doubts import tell
from ..errors import OutputError
from ..model.model import Batch, Model, Params
from ..model.transformer import scannable, whole_pass
from ..runtime.by_sublayer import last_stream
from ..runtime.devices import Devices, placed
from ..runtime.events import OnStep
from ..runtime.memory import host_peak_bytes
from ..runtime.programs import Programs
from ..tokens.packing import with_empty_rows
from .allocation import Curve, uniform_masks
from .budget import Budget
from .cost import part_costs, removed, sublayer_costs
from .cut import Mask, compose_kept, cut, kept_units
from .cut_check import TOLERANCE, check_model, masked_versus_cut_in_run
from .kept import KEEP_BYTES, KeptPasses
from .measured import Arrays, Measured, Parts, fingerprint
from .refit import follow, refit_warnings
from .refit_settings import Fit


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What is known of the texts in the calibration batches; the record says it."""

    tokens: int  # real ones
    count: int  # texts
    source: str = "given batches"
    seed: int | None = None  # None: not drawn, given
    hash: str | None = None  # SHA-256 of the texts, or of their token ids
    pairs: bool | None = None  # whether they have second texts; None: not known, of token ids
    warnings: tuple[str, ...] = ()

    @property
    def mean_length(self) -> int:
        """Tokens a text, rounded up."""
        return math.ceil(self.tokens / self.count)


@dataclass
class Run:
    """One pruning run: the dense model, its calibration batches, and the books."""

    model: Model  # as the method wants it (`Method.prepared`)
    params: Params  # the same parameters where the run keeps them: see `Devices.params`
    batches: list[Batch]
    calibrated: Calibrated
    on_step: OnStep
    writable_heads: Sequence[int] | None = None  # numbers of heads in a layer that an export can write; None: all
    programs: Programs = field(default_factory=Programs)
    kept: KeptPasses = field(default_factory=KeptPasses)
    measured: Measured | None = None  # where the measurement is kept until the result is saved
    parts: Parts | None = None  # of the pass over the texts that is at work, where it keeps any
    resumed: tuple[str, ...] = ()  # what came from there
    finished: list[tuple[Budget, dict[str, Any]]] = field(default_factory=list)  # what `finish` gave: its record
    phases: dict[str, float] = field(default_factory=dict)  # seconds by name, compilation included
    warnings: list[str] = field(default_factory=list)
    dense_forward_seconds: float = 0.0
    blas: ThreadpoolController = field(default_factory=ThreadpoolController)

    @staticmethod
    def start(
        model: Model,
        batches: Sequence[Batch],
        calibrated: Calibrated,
        *,
        on_step: OnStep | None = None,
        writable_heads: Sequence[int] | None = None,
        devices: Devices = Devices(),
        keep_bytes: int = KEEP_BYTES,
        measured: Measured | None = None,
    ) -> "Run":
        """Move the weights, and the batches with rows enough for every device, to the devices.

        `keep_bytes` is what may be kept of one pass for the next (`KeptPasses`), `measured` keeps the measurement on
        disk. Raises `NumericalError` for weights with NaN or Inf.
        """
        began = time.perf_counter()
        placed = [devices.rows(with_empty_rows(batch, devices.data)) for batch in batches]
        check_model(model)
        run = Run(
            model,
            devices.params(model.params),
            placed,
            calibrated,
            on_step or (lambda event: None),
            writable_heads,
            warnings=[*model.provenance.warnings, *calibrated.warnings],
            programs=Programs(devices=devices),
            kept=KeptPasses.within(keep_bytes, model.architecture, placed, devices),
            measured=measured,
        )
        run.phases["prepare"] = time.perf_counter() - began
        return run

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Book the seconds of a part of the run under `name`."""
        began = time.perf_counter()
        # Host solves come between compiled programs. After each, BLAS threads spin for a while and take the cores from
        # XLA's, where those are the same: that costs a tenth of a run, more than they save on matrices of this size.
        small = max(layer.neurons for layer in self.model.architecture.layers) <= 4096
        shared = all(device.platform == "cpu" for device in jax.local_devices())
        with self.blas.limit(limits=1 if small and shared else None, user_api="blas"):
            yield
        self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - began
        self.programs.meter.sample(name)

    def once(
        self,
        method: Any,
        measure: Callable[[], Arrays],
        reads: Sequence[str] | None = None,
        later: Sequence[str] = (),
    ) -> Arrays:
        """The arrays that `measure` gives; from the run's folder where a run that was stopped left them there.

        `method` is the `Method` whose measurement it is, `reads` are those of its settings that decide what comes out
        (None: all); a run with others may go on with it. `later` are those that are read when the last pass over the
        texts is done: where the pass is kept (`parts`), they may be others too. A folder that cannot be written costs
        a warning, not the run.
        """
        if self.measured is None:
            return measure()
        settings = dataclasses.asdict(method)
        names = settings if reads is None else [*reads, *later]
        batches, model = self.devices.read(self.batches), self.measured.model or self.model
        given = fingerprint(model, batches, method.name, {name: settings[name] for name in names})
        arrays = self.measured.read(given, later)
        if arrays is not None:
            self.resumed = ("measurement of a run that was stopped",)
            return arrays
        # Reading a sum is a joint act of all processes, and their clocks differ: there are parts for one process only.
        if jax.process_count() == 1:
            of_pass = {name: value for name, value in given.items() if name.removeprefix("setting ") not in later}
            self.parts = Parts(self.measured, of_pass, self.devices.read, whole=bool(later))
            self.resumed = ("part of the measurement of a run that was stopped",) if self.parts.resumed else ()
        arrays = measure()
        refused, self.parts = None if self.parts is None else self.parts.refused, None
        try:
            if jax.process_index() == 0:
                self.measured.write(given, arrays)
        except OutputError as error:
            refused = error
        if refused is not None:
            self.warnings.append(f"the measurement, or a part of it, is not kept to go on from: {refused}")
        return arrays

    def refit(
        self, masks: Sequence[Mask], weights: Sequence[Sequence[Any]], fit: Fit
    ) -> tuple[Model, list[dict[str, Any]]]:
        """The model with the units in `masks` fitted by `follow`, in full size, and what is known of every fit.

        `weights` are token weights, [batch][sublayer].
        """
        on_sublayer = lambda done: self.step("refit", done, len(masks))  # noqa: E731
        with self.phase("refit"):
            return follow(
                self.model, self.params, masks, self.batches, weights, fit, self.programs, on_sublayer, self.kept
            )

    @property
    def devices(self) -> Devices:
        return self.programs.devices

    def step(self, phase: str, done: int, of: int) -> None:
        self.on_step({"phase": phase, "done": done, "of": of})

    def length(self, budget: Budget) -> int:
        """The text length at which FLOPs are counted: the budget's, or the calibration's mean."""
        return budget.length or self.calibrated.mean_length

    def costs(self, budget: Budget) -> list[int]:
        """The cost of one unit of every sublayer, bottom up."""
        return sublayer_costs(self.model.architecture, budget.cost, self.length(budget))

    def step_costs(self, curves: Sequence[Curve], budget: Budget) -> list[np.ndarray]:
        """What every step of every curve saves, bottom up."""
        parts, costs = part_costs(self.model.architecture, budget.cost, self.length(budget)), []
        for entry, unit in zip(curves, self.costs(budget), strict=True):
            if entry.sizes is None or entry.groups is None:
                costs.append(np.full(len(entry.order), unit))
            else:
                costs.append(entry.sizes * parts.query_head + entry.groups * parts.key_value)
        return costs

    def allowed(self, budget: Budget) -> int:
        return budget.allowed(self.model.architecture, self.length(budget))

    def uniform(self, curves: Sequence[Curve], budget: Budget, allowed: int) -> list[Mask]:
        """The same sizes in every layer, with numbers of heads that an export can write wherever some of them fit."""
        a, costs = self.model.architecture, self.costs(budget)
        return uniform_masks(a, curves, costs, allowed, budget.round_to, budget.keep_heads, self.writable_heads)

    def time_dense_forward(self) -> float:
        """Seconds of one warm jitted forward pass of the dense model over the calibration set.

        The median of three batches (all have one shape), times their number. Not part of the method: booked nowhere.
        With streamed weights the pass streams them too, and ends before the head.
        """
        programs, architecture = Programs(devices=self.devices, booked=False), self.model.architecture  # its own books
        if self.devices.stream:
            forward = lambda batch: last_stream(self.params, batch, architecture, programs)  # noqa: E731
        else:
            params = scannable(self.params, self.model.architecture)
            whole = whole_pass(architecture)
            forward = lambda batch: programs(whole, params, batch, architecture=architecture)  # noqa: E731
        seconds = []
        for batch in self.batches[:1] + self.batches[:3]:  # the first one compiles and warms up
            began = time.perf_counter()
            jax.block_until_ready(forward(batch))
            seconds.append(time.perf_counter() - began)
        return float(np.median(seconds[1:])) * len(self.batches)

    def finish(
        self,
        method: Any,
        budget: Budget,
        fitted: Model,
        masks: Sequence[Mask],
        refit: Sequence[dict[str, Any]],
        reused: Sequence[str] = (),
        notes: dict[str, Any] | None = None,
    ) -> Model:
        """Cut `fitted` (full size) to `masks` and write the record, with `notes`. Checks that cutting changed nothing.

        `method` is the `Method` that chose them, settled; `refit` what is known of every sublayer's fit, `reused` what
        of an earlier budget served this one too.
        """
        with self.phase("cut"):
            small = cut(self.model.replace(params=fitted.params), masks)
            if not self.devices.stream and self.devices.mesh is None:
                small = small.replace(params=placed(small.params))
            check_model(small)
            error = masked_versus_cut_in_run(fitted, small, masks, self.batches[0], self.programs)
            if error > TOLERANCE:
                self.warnings.append(
                    f"masked and cut model differ by {error:.1e} relative; expected at most {TOLERANCE}."
                )
        self.step("cut", 1, 1)
        if not self.dense_forward_seconds:
            self.dense_forward_seconds = self.time_dense_forward()
        seconds = sum(self.phases.values())
        warnings = [*self.warnings, *refit_warnings(refit)]
        dense, length = self.model.architecture, self.length(budget)
        shares, before = removed(dense, small.architecture, length), self.model.provenance.record
        earlier = before.get("removed_in_all", before.get("removed"))
        record = {
            "method": method.name,
            "settings": dataclasses.asdict(method),
            "budget": {**dataclasses.asdict(budget), "length": length},
            "removed": shares,
            **({"removed_in_all": _in_all(earlier, shares)} if earlier else {}),
            "kept": compose_kept(before.get("kept"), kept_units(dense, masks), dense),
            "masked_vs_cut": error,
            "seconds": seconds,
            "phases": dict(self.phases),
            "compile_seconds": self.programs.compile_seconds,
            "compiled_programs": self.programs.compiled,
            "dense_forward_seconds": self.dense_forward_seconds,
            "dense_forwards": (seconds - self.programs.compile_seconds) / self.dense_forward_seconds,
            "peak_bytes": self.programs.meter.peak_bytes,
            "host_peak_bytes": host_peak_bytes(),
            "calibration": {
                "source": self.calibrated.source,
                "count": self.calibrated.count,
                "tokens": self.calibrated.tokens,
                "seed": self.calibrated.seed,
                "hash": self.calibrated.hash,
                "pairs": self.calibrated.pairs,
            },
            "refit": list(refit),
            "reused": list(reused or self.resumed),
            "warnings": list(dict.fromkeys(warnings)),
            **(notes or {}),
        }
        tell(record["warnings"])
        self.finished.append((budget, record))
        self.phases.clear()  # a second budget books its own time
        self.programs = Programs(devices=self.devices)
        provenance = dataclasses.replace(self.model.provenance, warnings=tuple(record["warnings"]))
        return small.replace(provenance=provenance).with_record(**record)


def _in_all(earlier: Mapping[str, float], shares: Mapping[str, float]) -> dict[str, float]:
    """What is gone of the first model where so much of what `earlier` runs left is removed now."""
    return {cost: 1 - (1 - earlier.get(cost, 0.0)) * (1 - share) for cost, share in shares.items()}
