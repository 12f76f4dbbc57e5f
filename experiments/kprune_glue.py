"""Pruned accuracy on GLUE without retraining: methods × budgets × seeds, one JSON line a model.

    python experiments/kprune_glue.py --model build/models/minilm-sst2 --task sst2 --data ../shared/data/glue \
        --length 25 --methods kprune fisher magnitude random --seeds 0 1 2 --out experiments/results/kprune_sst2.jsonl

Every line carries the method, its settings, the budget asked and obtained, scores dense and pruned on the validation
set, how the model compares with the dense one on texts held out (by which settings are chosen), what the run cost, and
the machine. A method "kprune, depth_ratio=3, ridge=500" is K-prune with these settings. Lines are appended, so that
runs can be split; `--table FILE…` prints the mean and spread over seeds, of scores or (`--value kl`) of held-out KL.
"""

import argparse
import json
import os
import platform
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np


def variants():
    """Methods by the name they have in the tables: (function's name, settings)."""
    import jaxprune as jp

    default = jp.KPrune()
    return {
        "kprune": ("kprune", default),
        "kprune published": ("kprune", jp.KPrune.preset("published")),
        "kprune, gate scores": ("kprune", replace(default, search="gates")),
        "kprune, no sensitivity": ("kprune", replace(default, sensitivity=False)),
        "kprune, all tokens alike": ("kprune", replace(default, token_floor=1.0)),
        "kprune, no depth ratio": ("kprune", replace(default, depth_ratio=1.0)),
        "kprune, no input fit": ("kprune", replace(default, refit_inputs=False)),
        "kprune, no intercept": ("kprune", replace(default, intercept=False)),
        "kprune, shrink to zero": ("kprune", replace(default, pull=0.0, ridge=10.0)),
        "kprune, no refit": ("kprune", replace(default, refit=False)),
        "fisher": ("fisher", jp.Fisher()),
        "fisher + our refit": ("fisher", jp.Fisher(refit="weights")),
        "magnitude": ("magnitude", jp.Magnitude()),
        "magnitude + our refit": ("magnitude", jp.Magnitude(refit="weights")),
        "random": ("random_prune", jp.Random()),
        "random + our refit": ("random_prune", jp.Random(refit="weights")),
    }


def variant(name: str):
    """The function's name and the settings of a method: a row of `variants`, or K-prune with "field=value" changed."""
    table = variants()
    if name in table:
        return table[name]
    function, settings = table["kprune"]
    changes = dict(part.strip().split("=") for part in name.split(",")[1:])
    known: dict[Any, Any] = {bool: lambda text: {"True": True, "False": False}[text], type(None): float}
    kinds = {key: type(getattr(settings, key)) for key in changes}
    return function, replace(settings, **{key: known.get(kinds[key], kinds[key])(v) for key, v in changes.items()})


def held_out(model, task, seeds, count):
    """Texts on which settings are compared: mrpc's test file, or training texts that no seed calibrates on."""
    if task.others.get("test") and task.others["test"][0].label is not None:
        return task.others["test"]
    used = {row for seed in seeds for row in np.random.RandomState(seed).choice(len(task.train), 512, replace=False)}
    rows = [row for row in np.random.RandomState(1234).permutation(len(task.train)) if row not in used]
    return tuple(task.train[row] for row in rows[:count])


def compared(dense: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Mean KL divergence from the dense model's prediction, agreement with it, and accuracy."""
    p, q = (values - np.logaddexp.reduce(values, axis=1, keepdims=True) for values in (dense, logits))
    said, says = dense.argmax(axis=1), logits.argmax(axis=1)
    kl = float(np.mean(np.sum(np.exp(p) * (p - q), axis=1)))
    return {"kl": kl, "agreement": float(np.mean(said == says)), "accuracy": float(np.mean(says == labels))}


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} CPU cores"


def measure(args: argparse.Namespace) -> None:
    import jax

    import jaxprune as jp
    from jaxprune.evaluation.outputs import text_outputs
    from jaxprune.tokens.tokenizer import Tokenizer

    model = jp.load(args.model)
    task = jp.tasks.load(args.task, args.data)
    dense = jp.evaluate(model, task)
    print(f"dense {dense.score:.4f} on {dense.examples}", flush=True)
    held, tokenizer = held_out(model, task, range(3), args.held_out), Tokenizer.of(model)
    encoded, labels = tokenizer.encode(held, task.max_length), np.array([example.label for example in held])
    said = text_outputs(model, encoded)
    budgets = [jp.Budget(remove, cost="flops", length=args.length) for remove in args.remove]
    for name in args.methods:
        function, settings = variant(name)
        for seed in args.seeds:
            settings = replace(settings, seed=seed) if hasattr(settings, "seed") else settings
            calibration = task.calibration(args.samples, seed=seed)
            for small in getattr(jp, function)(model, calibration, budgets, settings):
                record = small.provenance.record
                after = jp.evaluate(small, task)  # reported, and never looked at to choose a setting
                line = {
                    "task": args.task,
                    "model": Path(args.model).name,
                    "method": name,
                    "seed": seed,
                    "remove": record["budget"]["remove"],
                    "length": args.length,
                    "removed": record["removed"],
                    "dense": dense.metrics,
                    "metrics": after.metrics,
                    "held_out": compared(said, text_outputs(small, encoded), labels),
                    "score": after.score,
                    "heads": [size.heads for size in small.architecture.layers],
                    "neurons": [size.neurons for size in small.architecture.layers],
                    **{
                        key: record[key]
                        for key in (
                            "masked_vs_cut", "seconds", "compile_seconds", "dense_forward_seconds", "dense_forwards",
                            "peak_bytes", "phases", "reused", "warnings",
                        )
                    },
                    "tokens": record["calibration"]["tokens"],
                    "command": " ".join(["python", *sys.argv]),
                    "versions": {"jaxprune": jp.__version__, "jax": jax.__version__, "numpy": np.__version__},
                    "machine": machine(),
                }  # fmt: skip
                with args.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{name} seed {seed} remove {record['budget']['remove']}: {after.score:.4f}", flush=True)


def print_table(files: list[Path], value: str) -> None:
    """A Markdown table: mean over seeds, and the seeds, per task, method and budget; KL in thousandths of a nat."""
    scores: dict = defaultdict(lambda: defaultdict(dict))
    for file in files:
        for line in map(json.loads, file.read_text().splitlines()):
            found = line["score"] if value == "score" else 1000 * line["held_out"]["kl"]
            scores[line["task"], line["method"]][line["remove"]][line["seed"]] = found
    budgets = sorted({budget for entry in scores.values() for budget in entry})
    print("| task | method | " + " | ".join(f"{budget:.0%} removed" for budget in budgets) + " |")
    print("|---|---|" + "---|" * len(budgets))
    for (task, method), entry in scores.items():
        cells = []
        for budget in budgets:
            seeds = [entry[budget][seed] for seed in sorted(entry.get(budget, {}))]
            shown = (lambda x: f"{x:.4f}") if value == "score" else (lambda x: f"{x:.1f}")
            each = " ".join(shown(score).removeprefix("0") for score in seeds)
            cells.append("–" if not seeds else shown(np.mean(seeds)) + (f" ({each})" if len(seeds) > 1 else ""))
        print(f"| {task} | {method} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--task")
    parser.add_argument("--data")
    parser.add_argument("--length", type=int, help="tokens at which FLOPs are counted")
    parser.add_argument("--methods", nargs="+", default=["kprune"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--remove", nargs="+", type=float, default=[0.4, 0.6, 0.8, 0.9])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--held-out", type=int, default=1500, help="training texts to compare settings on")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", nargs="+", type=Path)
    parser.add_argument("--value", default="score", choices=("score", "kl"), help="what --table prints")
    args = parser.parse_args()
    if args.table:
        print_table(args.table, args.value)
    else:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        measure(args)


if __name__ == "__main__":
    main()
