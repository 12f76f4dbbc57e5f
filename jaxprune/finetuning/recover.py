"""Recovery: a pruned model learns to say what the model it was made from says, from texts without labels.

The loss is T²·KL(dense ‖ pruned) at T = 1, for every head in its own measure, and the gap between the two residual
streams after every layer (Hinton, Vinyals, Dean 2015; Jiao et al., TinyBERT, 2020; Muralidharan et al., Compact
language models via pruning and knowledge distillation, 2024); of a causal language model the mean of that KL and of
the loss on the texts' own next tokens. The rate is found here: a few steps at each of several, from the same weights,
say which brings texts that are held back closest; then the whole run.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import jax
import numpy as np

from ..checks import check_counts, check_effect, check_given, check_types
from ..doubts import tell
from ..errors import DataError, NumericalError, SettingsError
from ..model import Model
from ..model.architecture import Architecture
from ..model.heads import head_of
from ..runtime.devices import Devices
from ..runtime.events import OnStep
from ..tasks.calibration import Calibration
from ..tokens.encoded import Encoded
from ..tokens.windows import encoded_for
from .apart import Apart
from .epochs import batches_for
from .finetune import chooser
from .lora import HEAD
from .masters import in_types, result_types
from .rates import lowest
from .recover_checks import check_pair, check_predicts, check_reading
from .recover_texts import check_single, no_targets, split_off, stretches, with_variants
from .settings import Train
from .train import Trained, train

TRIAL = 0.1  # share of the steps that each rate is tried for
CHECKS = 10  # times that the texts held back are looked at
PATIENCE = 3  # of these without an improvement end the run
ROWS, ROW_TOKENS = 32, 512  # texts a step; on a language model as many as come to so many tokens
HIDDEN = 1.0  # weight of the hidden states; 0 on a language model
NEXT_TOKENS = 0.5  # weight of a text's own next tokens, on a causal language model
TRAINABLE = "layers/*", "final_norm/*", "pooler/*", HEAD  # no embeddings: few texts say little of most tokens


@dataclass(frozen=True)
class Recover:
    """Bring a pruned model back towards the dense one, by so many steps on texts without labels.

    A call, `Recover(texts, steps=500)(pruned, dense)`, gives the recovered model; `jaxprune.prune(…, recover=…)` does
    it after the cut. More texts than pruning needs are worth it: thousands of sentences, 100,000 tokens of text.
    """

    texts: Calibration | None = None  # None: those that the pruning was calibrated on
    steps: int = field(
        default=500,
        metadata={
            "help": f"training steps of the recovery, trials of rates apart, rounded up to {CHECKS} equal stretches"
        },
    )
    batch_size: int | None = field(
        default=None,
        metadata={
            "help": f"texts a step of the recovery; {ROWS} by default, on a language model as many as come to "
            f"{ROW_TOKENS} tokens"
        },
    )
    variants: int = field(
        default=0,
        metadata={
            "help": "made-up texts beside every text of the recovery, pieces and mixtures of them: where texts are few"
        },
    )
    hidden: float | None = field(
        default=None,
        metadata={
            "help": f"weight of the hidden states beside the predictions; {HIDDEN:g} by default, 0 on a language model "
            "and with a model in host memory"
        },
    )
    next_tokens: float | None = field(
        default=None,
        metadata={
            "help": "weight of the texts' own next tokens beside the predictions of the dense model, in [0, 1), on a "
            f"causal language model; {NEXT_TOKENS:g} there by default"
        },
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "highest rate of the recovery; chosen on texts held back by default"}
    )
    trainable: tuple[str, ...] = field(default=TRAINABLE, metadata={"help": "patterns of the leaves that recover"})
    teacher_in: Literal["device", "host"] = field(
        default="device",
        metadata={
            "help": "where the dense model is while the pruned one recovers: on the device, or in host memory, from "
            "which one sublayer at a time comes to the device (without hidden states)"
        },
    )
    dtype: Literal["float32", "bfloat16"] = field(
        default="float32", metadata={"help": "type to compute in: float32 or bfloat16"}
    )
    accumulate: int = field(default=1, metadata={"help": "parts in which the texts of a step are computed"})
    seed: int = field(default=0, metadata={"help": "orders the texts, and says which are held back"})

    def __post_init__(self):
        check_types(self)
        check_counts(self, 1, "steps", "accumulate", *(["batch_size"] if self.batch_size is not None else []))
        check_counts(self, 0, "variants")
        check_calibration(self.texts)
        if self.hidden is not None and not 0 <= self.hidden < float("inf"):
            raise SettingsError(f"hidden must not be negative, got {self.hidden!r}.")
        if self.next_tokens is not None and not 0 <= self.next_tokens < 1:
            raise SettingsError(f"next_tokens must lie in [0, 1), got {self.next_tokens!r}.")
        if self.teacher_in == "host" and self.hidden:
            raise SettingsError(
                f"hidden {self.hidden:g} compares hidden states of every layer, which a model in host memory does not "
                "hand over; set hidden to 0, or teacher_in to 'device'."
            )
        self.training()  # checks the rest

    def training(self, softmax: bool = True) -> Train:
        """The same as settings of training, whose epochs are the stretches between two looks at the texts held back.

        `softmax`: whether the head says probabilities, at temperature 1 then.
        """
        return Train(
            epochs=min(CHECKS, self.steps), batch_size=self.batch_size or ROWS, learning_rate=self.learning_rate,
            dropout=0.0, distill=1.0 - (self.next_tokens or 0.0), temperature=1.0 if softmax else None,
            distill_hidden=self.hidden or 0.0, teacher_in=self.teacher_in, accumulate=self.accumulate, dtype=self.dtype,
            seed=self.seed,
        )  # fmt: skip

    def resolved(self, architecture: Architecture, encoded: Encoded) -> "Recover":
        """The same settings with a value in place of every None, for these texts.

        A language model says as much of every token as a classifier of a whole text: few rows a step, and more steps.
        Raises `SettingsError` for a setting without effect on such a model.
        """
        head = head_of(architecture)
        language = head.language is not None
        if not head.generates:
            check_effect(self, ("next_tokens",), f"on {head.name}: no token follows from those before")
        some = max(1, min(ROWS, round(ROW_TOKENS / float(encoded.lengths.mean())))) if language else ROWS
        weight = 0.0 if language or self.teacher_in == "host" else HIDDEN
        return replace(
            self,
            batch_size=some if self.batch_size is None else self.batch_size,
            hidden=weight if self.hidden is None else self.hidden,
            next_tokens=NEXT_TOKENS if self.next_tokens is None and head.generates else self.next_tokens,
        )

    def patterns(self, model: Model) -> tuple[str, ...]:
        """`trainable`; by default those of its patterns that the model has leaves for, and no vocabulary."""
        if self.trainable != TRAINABLE:
            return self.trainable
        there = [pattern for pattern in TRAINABLE if pattern.partition("/")[0] in model.params]
        language = head_of(model.architecture).language is not None
        return tuple(pattern for pattern in there if pattern != HEAD or not language)

    def __call__(
        self,
        pruned: Model,
        dense: Model,
        calibration: Calibration | None = None,
        on_step: OnStep | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ) -> Model:
        """`pruned` with the weights that come closest to `dense` on texts held back; `calibration` where no texts are
        set. `mesh` is that of `finetune`. Raises `DataError`, `SettingsError`, `NumericalError`.
        """
        check_given(pruned=(pruned, Model), dense=(dense, Model), calibration=(calibration, Calibration | None))
        return recover(pruned, dense, self._read(calibration), self, on_step, mesh)

    def check(self, dense: Model, calibration: Calibration | None = None) -> None:
        """Raise what a recovery from any model cut from `dense` would raise for settings and texts: before the cut."""
        check_predicts(dense.architecture)
        texts = self._read(calibration)
        encoded, _ = encoded_for(dense, texts)
        self.resolved(dense.architecture, encoded)
        split_off(encoded, dense.architecture, self.seed)
        if self.variants:
            check_single(texts, len(encoded))
        chooser(dense, self.patterns(dense))

    def _read(self, calibration: Calibration | None) -> Calibration:
        """The texts to recover on. Raises `DataError` for none."""
        texts = self.texts if self.texts is not None else calibration
        if texts is None:
            raise DataError("there are no texts to recover on; pass Recover(texts).")
        return texts


def recover(
    pruned: Model,
    dense: Model,
    texts: Calibration,
    settings: Recover,
    on_step: OnStep | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Model:
    """What `Recover` does. The record's "recovery" says which rate was chosen, and how far the two models were apart on
    the texts held back before, at every look, and in the end: the loss, in nats a text or token, of all its parts.
    """
    began = time.perf_counter()
    check_pair(pruned, dense)
    devices = Devices(mesh)
    if settings.teacher_in == "device":  # it teaches in every run
        dense = dense.replace(params=devices.fetch(dense.params))
    encoded, doubts = encoded_for(dense, texts, on_step)
    doubts += check_reading(pruned, dense, texts, encoded)
    settings = settings.resolved(dense.architecture, encoded)
    if settings.next_tokens and texts.windows is None and any(example.chat is not None for example in texts.examples):
        doubts += (
            "recovery learns every token of the conversations, also what the user says; set next_tokens to 0 to learn "
            "the dense model's predictions alone.",
        )
    numbers_back, numbers = split_off(encoded, dense.architecture, settings.seed)
    held_back, rest = encoded.picked(numbers_back), encoded.picked(numbers)
    if settings.variants:
        rest = with_variants(dense, texts, rest, numbers, settings.variants, settings.seed, len(encoded))
    architecture = pruned.architecture
    targets = no_targets(architecture, len(rest))
    training = settings.training(head_of(architecture).softmax)
    batches, scored = (batches_for(part, architecture, training, devices) for part in (rest, held_back))
    apart = Apart(dense, scored(0), training, no_targets(architecture, len(held_back)), devices)
    chosen, steps = chooser(pruned, settings.patterns(pruned)), settings.steps
    before = apart(pruned.params, architecture)
    said: Callable[[Any], None] = on_step or (lambda event: None)

    compiling: list[float] = []

    def run(rate: float, steps: int, looks: int, phase: str) -> Trained:
        stretch = -(-steps // looks)
        trained = train(
            pruned, stretches(batches, stretch), targets,
            replace(training, epochs=-(-steps // stretch), learning_rate=rate),
            trainable=chosen, teacher=dense, mesh=mesh, patience=PATIENCE,
            score=lambda model, _: {"score": apart(model.params, architecture), "metric": "gap"},
            on_step=lambda event: said({**event, "phase": phase}),
        )  # fmt: skip
        compiling.append(trained.compile_seconds)
        return trained

    def trial(rate: float) -> float:
        try:
            return run(rate, max(1, round(TRIAL * steps)), 1, "rate").epochs[-1]["score"]
        except NumericalError:  # too high a rate
            return float("inf")

    # Of a language model a few steps favour rates that are too low for many: at three times the best of them the gap
    # grows at first, and perplexity is better in the end. One that helps is not lowered.
    enough = before if head_of(architecture).language is not None else -np.inf
    tried = {} if settings.learning_rate is not None else lowest(trial, enough)
    rate = settings.learning_rate or min(tried, key=tried.__getitem__)
    trained = run(rate, steps, min(CHECKS, steps), "recover")
    records, done = trained.epochs, sum(record["steps"] for record in trained.epochs)
    after, warnings = records[trained.kept]["score"], [*texts.warnings, *doubts]
    result = trained.model
    if after >= before:
        result, after = pruned, before
        warnings.append("recovery brought the model no closer to the dense one on texts held back: it stays as it was.")
    result = pruned.replace(params=in_types(result.params, result_types(pruned.params, None)))
    tell(warnings)
    notes = {
        "settings": {name: value for name, value in asdict(replace(settings, texts=None)).items() if name != "texts"},
        "source": texts.source,
        "texts": len(numbers),
        "held_back": len(held_back),
        "rates": {f"{rate:g}": gap for rate, gap in tried.items()},
        "learning_rate": rate,
        "steps": done,
        "tokens": round(done / len(batches(0)) * rest.tokens),
        "gap": {"before": before, "after": after, "looks": [record["score"] for record in records]},
        "seconds": time.perf_counter() - began,
        "compile_seconds": sum(compiling),  # the first trial compiles for all
    }
    told = tuple(dict.fromkeys([*pruned.provenance.warnings, *warnings]))
    return result.replace(provenance=replace(pruned.provenance, warnings=told)).with_record(recovery=notes)


def check_calibration(texts: Any) -> None:
    """Raise `SettingsError` for what are no calibration texts."""
    if texts is not None and not isinstance(texts, Calibration):
        raise SettingsError(
            f"texts is a {type(texts).__name__}; pass task.calibration(4000), Calibration.of_texts(texts), "
            "Calibration.of_running_text(file, windows) or Calibration.of_ids(ids, mask)."
        )
