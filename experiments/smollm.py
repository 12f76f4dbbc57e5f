"""Perplexity of a pruned language model: methods × budgets, one JSON line a model.

    python experiments/smollm.py --model build/models/smollm2-135m --text ../shared/data/text/wikitext2/test.txt \
        --calibration ../shared/data/text/c4/calibration.jsonl --methods kprune flap taylor fisher magnitude random \
        --remove 0.1 0.2 --out experiments/results/smollm.jsonl

Budgets are fractions of the prunable parameters. Every line carries the method, its settings, perplexity dense and
pruned over the first windows of the text, what the run cost and the machine. A method "kprune, ridge=500" is K-prune
with that setting, "flap + our refit" FLAP with K-prune's fit. Lines are appended; `--table FILE…` prints them.
"""

import argparse
import json
import os
import platform
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path


def method_of(name: str):
    """Method by the name it has in the table: function and settings."""
    import jaxprune as jp

    table = {
        "kprune": (jp.kprune, jp.KPrune()),
        "flap": (jp.flap, jp.Flap()),
        "wanda": (jp.flap, jp.Flap(criterion="wanda", compensate=False)),
        "taylor": (jp.taylor, jp.Taylor()),
        "fisher": (jp.fisher, jp.Fisher()),
        "magnitude": (jp.magnitude, jp.Magnitude()),
        "random": (jp.random_prune, jp.Random()),
    }
    base, _, changes = name.partition(",")
    base, refit, _ = base.strip().partition(" + our refit")
    function, settings = table[base]
    if refit:
        settings = replace(settings, refit="weights")
    given = dict(part.strip().split("=") for part in changes.split(",") if part)
    return function, replace(settings, **{key: value_of(text) for key, text in given.items()})


def value_of(text: str) -> bool | float | str:
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text)
    except ValueError:
        return text


def run(args) -> None:
    import jax

    import jaxprune as jp

    task = jp.tasks.text(args.text, calibration=args.calibration, length=args.length, windows=args.windows)
    model = jp.load(args.model)
    calibration = task.calibration(args.sequences, seed=args.seed)
    dense = jp.evaluate(model, task)
    print(f"dense {dense.score:.3f} over {dense.examples} windows", flush=True)
    budgets = [jp.Budget(remove=remove, cost="params") for remove in args.remove]
    for name in args.methods:
        function, settings = method_of(name)
        if hasattr(settings, "seed"):
            settings = replace(settings, seed=args.seed)
        for budget, pruned in zip(budgets, function(model, calibration, budgets, settings), strict=True):
            found, record = jp.evaluate(pruned, task), pruned.provenance.record
            kept = ("removed", "masked_vs_cut", "seconds", "phases", "compile_seconds", "dense_forwards")
            line = {
                "method": name,
                "remove": budget.remove,
                "seed": args.seed,
                "text": Path(args.text).name,
                "calibration": {**record["calibration"], "source": Path(args.calibration).name},
                "length": args.length,
                "windows": found.examples,
                "dense": dense.score,
                "perplexity": found.score,
                **{key: record[key] for key in (*kept, "dense_forward_seconds", "peak_bytes", "settings")},
                "layers": [[size.groups, size.neurons] for size in pruned.architecture.layers],
                "versions": {"jax": jax.__version__, "jaxprune": jp.__version__, "python": platform.python_version()},
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}",
            }
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name} seed {args.seed} remove {budget.remove}: {found.score:.3f}", flush=True)


def table(files) -> None:
    """Perplexity and its rise over the dense model's: methods down, what was removed across."""
    rows = [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]
    found = defaultdict(dict)
    for row in rows:
        label = row["method"], row["calibration"]["source"], row["calibration"]["count"], row["seed"]
        found[label][row["remove"]] = row
    removes = sorted({row["remove"] for row in rows})
    print("| method | calibration | seed | " + " | ".join(f"{remove:.0%}" for remove in removes) + " |")
    print("|---" * (3 + len(removes)) + "|")
    for (name, source, count, seed), by in found.items():
        cells = [
            f"{by[r]['perplexity']:.2f} ({by[r]['perplexity'] / by[r]['dense'] - 1:+.1%})" if r in by else ""
            for r in removes
        ]
        print(f"| {name} | {count} × {source} | {seed} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--text")
    parser.add_argument("--calibration")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=["kprune"])
    parser.add_argument("--remove", nargs="+", type=float, default=[0.1, 0.2])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", nargs="+")
    args = parser.parse_args()
    if args.table:
        table(args.table)
    elif None in (args.model, args.text, args.calibration, args.out):
        sys.exit("give --model, --text, --calibration and --out, or --table FILE…")
    else:
        run(args)


if __name__ == "__main__":
    main()
