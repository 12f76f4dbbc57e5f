"""The sections as a table: what each measures, in which processes, with what share of the time, and how it reads.

A section is a function of a `Book`, named here and imported where it runs: one that does not import fails alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

# Columns of a table: heading -> (key of a line, format of its value)
Columns = Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """One measurement. Every part is a process of its own, so that allocator peaks are its own, unless `together`."""

    title: str
    function: str  # "module:function"
    parts: Mapping[str, float]  # name -> seconds it is thought to need; what matters most comes first
    columns: Columns
    notes: tuple[str, ...] = ()
    together: bool = False  # its parts look at no allocator: one process, which saves starting others


MB, SECONDS, COUNT = "{:,.0f}|1e-6", "{:.2f}", "{:,.0f}"
_SECONDS: Columns = {
    "seconds": ("seconds", SECONDS),
    "of it compiling": ("compile_seconds", SECONDS),
    **{phase: (phase, SECONDS) for phase in ("prepare", "measure", "search", "refit", "cut")},
    "dense forwards": ("dense_forwards", "{:.1f}"),
    "one dense forward": ("dense_forward_seconds", "{:.3f}"),
    "allocator's peak, MB": ("allocator_peak_bytes", MB),
    "counted peak, MB": ("counted_peak_bytes", MB),
    "programs from the cache": ("cache_hits", COUNT),
    "masked against cut": ("masked_vs_cut", "{:.0e}"),
}

SECTIONS: Mapping[str, Section] = MappingProxyType(
    {
        "kprune": Section(
            "K-prune on BERT-base's shape, 800 texts of 128 tokens",
            "pruning:measure_bert",
            {"float32": 110, "bfloat16": 75},
            _SECONDS,
            (
                "60 % of the FLOPs go, then 40 % as the second budget. bfloat16: products of the measurement are in "
                "that type, their sums in float32. Goal: 20 s with compilation.",
            ),
        ),
        "agreement": Section(
            "Agreement with a CPU",
            "agreement:measure",
            {"default": 40, "highest": 30, "bfloat16": 30},
            {
                "logits, largest difference": ("logits", "{:.1e}"),
                "other predictions": ("other_predictions", COUNT),
                "mean shift in the order": ("order_shift", "{:.4f}"),
                "largest": ("order_shift_most", "{:.3f}"),
                "other heads": ("heads", COUNT),
                "other neurons": ("neurons", COUNT),
                "of kept neurons": ("neurons_kept", COUNT),
                "score": ("score", "{:.4f}"),
                "stored score": ("stored_score", "{:.4f}"),
            },
            (
                "Products as written, all at the highest precision, and K-prune's measurement alone in bfloat16. "
                "Differences of logits are relative to the largest logit, those of orders to a sublayer's units.",
            ),
            together=True,
        ),
        "training": Section(
            "Training at BERT-base's shape, 32 x 128 tokens",
            "training:measure",
            {"full": 25, "recap": 35, "lora": 25, "full, remat": 25, "recap, remat": 35, "lora, remat": 25},
            {
                "ms a step": ("ms", "{:.1f}"),
                "seconds": ("seconds", SECONDS),
                "compiling, s": ("compile_seconds", SECONDS),
                "transfers, s": ("transfer_seconds", "{:.3f}"),
                "allocator's peak, MB": ("allocator_peak_bytes", MB),
                "predicted, MB": ("predicted_bytes", MB),
                "by its programs, MB": ("program_bytes", MB),
                "counted, MB": ("counted_bytes", MB),
            },
            ("Within a process the allocator's peak only grows: it belongs to the first line that has it.",),
        ),
        "language models": Section(
            "K-prune on language models",
            "pruning:measure_language_models",
            {"opt": 50, "llama resident": 75, "llama streamed": 65},
            _SECONDS,
            (
                "OPT-125M's shape, 32 windows of 512 tokens; Llama-3.2-1B's shape with 4 of its 16 layers, 16 windows. "
                "Weights in bfloat16. What is called extrapolated was not run: it lies on a line through two depths.",
            ),
        ),
        "speed": Section(
            "Speed of pruned models of BERT-base's shape",
            "speed:measure",
            {"float32": 45, "bfloat16": 45},
            {
                "ms": ("ms", "{:.3f}"),
                "tokens/s": ("tokens_per_second", COUNT),
                "speed-up": ("speedup", "{:.2f}"),
                "FLOPs ratio": ("flops_ratio", "{:.2f}"),
                "of it shows": ("of_flops", "{:.0%}"),
            },
            ("Rows x tokens. Models in turns; the speed-up is the median of the ratios within a turn.",),
            together=True,
        ),
        "ceilings": Section(
            "Ceilings",
            "ceilings:measure",
            {"": 30},
            {
                "ms": ("ms", "{:.3f}"),
                "GB/s": ("gb_per_s", "{:,.1f}"),
                "TFLOP/s": ("tflop_per_s", "{:.2f}"),
                "launch, waited for, µs": ("waited_for_us", "{:.1f}"),
                "launch, in a row, µs": ("in_a_row_us", "{:.1f}"),
                "memory, MB": ("bytes", MB),
            },
            ("A copy counts bytes read and bytes written. A Cholesky factor of n columns counts n³/3 operations.",),
        ),
        "trace": Section(
            "A trace of a warm K-prune run: BERT-base's shape with 4 layers, 128 texts of 128 tokens",
            "pruning:measure_trace",
            {"": 35},
            {"seconds": ("seconds", SECONDS), "trace, MB": ("bytes", "{:.2f}|1e-6"), "file": ("file", "{}")},
        ),
    }
)


@dataclass(frozen=True)
class Job:
    """A process: one part of a section, or all of them, and its weight in sharing out the time."""

    section: str
    parts: tuple[str, ...]
    weight: float

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.section, "; ".join(self.parts))))


def jobs_of(sections: Sequence[str], tiny: bool, only: Sequence[str] = ()) -> list[Job]:
    """A process a part, or one a section: with `tiny`, as where its parts go together. With `only`, of these parts."""
    found = []
    for name in sections:
        parts = {part: weight for part, weight in SECTIONS[name].parts.items() if not only or part in only}
        if not parts:
            continue
        if tiny or SECTIONS[name].together:
            found.append(Job(name, tuple(parts), sum(parts.values())))
        else:
            found += [Job(name, (part,), weight) for part, weight in parts.items()]
    return found
