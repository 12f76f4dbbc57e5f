"""What every pruning method shares: batches in, a smaller model with its record out."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import ThreadpoolController

from ..doubts import tell
from ..errors import NumericalError, OutputError
from ..model.architecture import FEED_FORWARD, Architecture
from ..model.heads import head_of
from ..model.model import Batch, Model, Params
from ..model.transformer import scannable, whole_forward, whole_pass
from ..runtime.by_sublayer import finish, last_outputs, last_stream, outer_params
from ..runtime.devices import Devices
from ..runtime.events import OnStep
from ..runtime.memory import host_peak_bytes
from ..runtime.programs import Programs
from ..tokens.packing import logits_difference, with_empty_rows
from .allocation import Curve, uniform_masks
from .budget import Budget
from .cost import part_costs, removed, sublayer_costs
from .cut import Mask, compose_kept, cut, kept_units, silenced
from .kept import KEEP_BYTES, KeptPasses
from .measured import Arrays, Measured, fingerprint

FIRST = 64  # tokens of a row on which a language model's logits are compared: all would be as wide as the vocabulary


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
    resumed: bool = False  # the measurement came from there
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

    def once(self, method: Any, measure: Callable[[], Arrays]) -> Arrays:
        """The arrays that `measure` gives; from the run's folder where a run that was stopped left them there.

        `method` is the `Method` whose measurement it is. A folder that cannot be written costs a warning, not the run.
        """
        if self.measured is None:
            return measure()
        given = fingerprint(self.model, self.devices.read(self.batches), method.name, dataclasses.asdict(method))
        arrays = self.measured.read(given)
        self.resumed = arrays is not None
        if arrays is None:
            arrays = measure()
            try:
                if jax.process_index() == 0:
                    self.measured.write(given, arrays)
            except OutputError as error:
                self.warnings.append(f"the measurement is not kept to go on from: {error}")
        return arrays

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
            params = scannable(self.params)
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
                small = small.replace(params=jax.tree.map(jnp.asarray, small.params))
            check_model(small)
            error = self._masked_versus_cut(fitted, small, masks)
        self.step("cut", 1, 1)
        if not self.dense_forward_seconds:
            self.dense_forward_seconds = self.time_dense_forward()
        seconds = sum(self.phases.values())
        warnings = [*self.warnings, *_refit_warnings(refit)]
        dense, length = self.model.architecture, self.length(budget)
        record = {
            "method": method.name,
            "settings": dataclasses.asdict(method),
            "budget": {**dataclasses.asdict(budget), "length": length},
            "removed": removed(dense, small.architecture, length),
            "kept": compose_kept(self.model.provenance.record.get("kept"), kept_units(dense, masks), dense),
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
            "reused": list(reused) or (["measurement of a run that was stopped"] if self.resumed else []),
            "warnings": list(dict.fromkeys(warnings)),
            **(notes or {}),
        }
        tell(record["warnings"])
        self.phases.clear()  # a second budget books its own time
        self.programs = Programs(devices=self.devices)
        provenance = dataclasses.replace(self.model.provenance, warnings=tuple(record["warnings"]))
        return small.replace(provenance=provenance).with_record(**record)

    def _masked_versus_cut(self, fitted: Model, small: Model, masks: Sequence[Mask]) -> float:
        """Largest difference of logits, units silenced against units cut away, relative to the largest logit."""
        devices, batch = self.devices, self.batches[0]
        params = devices.params(silenced(fitted, masks).params)
        last = last_stream(params, batch, fitted.architecture, self.programs)  # by programs compiled before
        # From here on few rows, on one device.
        last, batch, outer = jax.tree.map(jnp.asarray, devices.read((last, batch, outer_params(fitted.params))))
        if head_of(fitted.architecture).language is not None:
            last, batch = last[:2, :FIRST], first_tokens(batch)
        masked = self.programs(finish, outer, last, batch, architecture=fitted.architecture)
        batch, masked = jax.tree.map(lambda leaf: leaf[:2], (batch, masked))
        if devices.stream:
            without = last_outputs(small.params, [batch], small.architecture, self.programs, logits=True)
            without = next(without)
        else:
            on_device = jax.tree.map(jnp.asarray, small.params)
            without = self.programs.once(whole_forward, on_device, batch, architecture=small.architecture)
        error = logits_difference(masked, without, batch)
        if not math.isfinite(error):
            raise NumericalError(
                "the pruned model's outputs are NaN or Inf; raise the ridge, or calibrate on more texts."
            )
        if error > 1e-5:
            self.warnings.append(f"masked and cut model differ by {error:.1e} relative; expected at most 1e-5.")
        return error


def first_tokens(batch: Batch) -> Batch:
    """The first tokens of the first two rows: what a causal model says of them does not depend on the rest."""
    short = {name: getattr(batch, name)[:2, :FIRST] for name in ("ids", "segments", "positions", "types")}
    return batch._replace(**short, pool=batch.pool[:2], index=batch.index[:2])


def masked_versus_cut(model: Model, small: Model, masks: Sequence[Mask], batch: Batch) -> float:
    """Largest difference of logits, units silenced against units cut away, relative to the largest logit."""
    batch = batch if head_of(model.architecture).language is None else first_tokens(batch)
    batch, programs = jax.tree.map(lambda leaf: jnp.asarray(leaf[:2]), batch), Programs()
    params = jax.tree.map(jnp.asarray, silenced(model, masks).params)
    masked = programs.once(whole_forward, params, batch, architecture=model.architecture)
    without = programs.once(whole_forward, small.params, batch, architecture=small.architecture)
    error = logits_difference(masked, without, batch)
    if not np.isfinite(error):
        raise NumericalError("the pruned model's outputs are NaN or Inf; check the checkpoint's weights.")
    return error


def check_model(model: Model) -> None:
    """Raise `NumericalError` naming the first parameter that holds NaN or Inf."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(model.params)[0]:
        if not np.isfinite(np.asarray(leaf)).all():
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise NumericalError(f"parameter {name} holds NaN or Inf; the checkpoint is damaged, use another copy.")


def round_masks(
    architecture: Architecture, masks: Sequence[Mask], order: Sequence[np.ndarray], round_to: int
) -> list[Mask]:
    """Masks whose neurons come in multiples of `round_to`: the cheapest kept ones (first in `order`) go too."""
    out = []
    for at, mask, units in zip(architecture.sublayers(), masks, order, strict=True):
        mask = mask.copy()
        extra = int(mask.sum()) % round_to if at.half == FEED_FORWARD else 0
        mask[[unit for unit in units if mask[unit]][:extra]] = False
        out.append(mask)
    return out


def _refit_warnings(refit: Sequence[dict[str, Any]]) -> list[str]:
    """One warning for all sublayers whose kept features the calibration texts do not determine."""
    short = [entry for entry in refit if entry.get("rank", 0) < entry.get("features", 0)]
    if not short:
        return []
    first = short[0]
    return [
        f"refit: the calibration texts leave directions undetermined in {len(short)} sublayers (sublayer "
        f"{first['sublayer']}: rank {first['rank']} of {first['features']}); calibrate on more texts."
    ]
