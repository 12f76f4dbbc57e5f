"""Classifiers pruned hard, then recovered without labels: accuracy on GLUE dense, pruned and recovered.

    python experiments/recover_glue.py --model build/models/minilm-sst2 --task sst2 --data ../shared/data/glue \
        --length 25 --texts 4000 --remove 0.8 0.9 --seeds 0 1 2 --out experiments/results/recover_sst2.jsonl

Each model is pruned by K-prune on 512 training texts, then learns from the dense one on `--texts` of them. Settings of
a recovery are `Recover`'s (`--set steps=1000 hidden=10`), and are chosen by `--choose`, which scores on texts held out
(mrpc's test file, or training texts that no seed uses) and not on the validation set. `--table FILE…` prints a table.
"""

import argparse
import ast
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from kprune_glue import compared, machine


def held_out(task, seeds, used: int, count: int):
    """mrpc's test file, or `count` training texts that no seed calibrates or recovers on."""
    if task.others.get("test") and task.others["test"][0].label is not None:
        return task.others["test"]
    rows = set(range(len(task.train)))
    for seed in seeds:
        rows -= set(np.random.RandomState(seed).choice(len(task.train), used, replace=False).tolist())
    picked = np.random.RandomState(1234).permutation(sorted(rows))[:count]
    return tuple(task.train[row] for row in picked)


def measure(args: argparse.Namespace) -> None:
    import jax

    import jaxprune as jp
    from jaxprune.evaluation.outputs import text_outputs
    from jaxprune.tokens.tokenizer import Tokenizer

    model, task = jp.load(args.model), jp.tasks.load(args.task, args.data)
    held, tokenizer = held_out(task, range(3), args.texts, args.held_out), Tokenizer.of(model)
    encoded, labels = tokenizer.encode(held, task.max_length), np.array([example.label for example in held])
    said = text_outputs(model, encoded)
    dense = None if args.choose else jp.evaluate(model, task).score
    changes = {name: ast.literal_eval(value) for name, _, value in (word.partition("=") for word in args.set)}
    for seed in args.seeds:
        budgets = [jp.Budget(remove, length=args.length) for remove in args.remove]
        texts = task.calibration(args.texts, seed=seed)
        recover = jp.Recover(texts, seed=seed, **changes)
        for small in jp.prune(model, task.calibration(512, seed=seed), budgets, jp.KPrune(seed=seed)):
            recovered = recover(small, model)
            record, notes = small.provenance.record, recovered.provenance.record["recovery"]
            remove = record["budget"]["remove"]
            seen = notes["tokens"] / record["calibration"]["tokens"]  # passes over the calibration texts
            line = {
                "task": args.task,
                "model": Path(args.model).name,
                "seed": seed,
                "remove": remove,
                "length": args.length,
                "removed": record["removed"],
                "dense": dense,
                "pruned": None if args.choose else jp.evaluate(small, task).score,
                "score": None if args.choose else jp.evaluate(recovered, task).score,
                "held_out": {
                    "dense": compared(said, said, labels),
                    "pruned": compared(said, text_outputs(small, encoded), labels),
                    "recovered": compared(said, text_outputs(recovered, encoded), labels),
                },
                "recovery": notes,
                # A step reads its texts once in the dense model, and three times as much in what is left of it.
                "dense_forwards": {"pruning": record["dense_forwards"], "recovery": seen * (4 - 3 * remove)},
                "pruning_seconds": record["seconds"],
                "command": " ".join(["python", *sys.argv]),
                "versions": {"jaxprune": jp.__version__, "jax": jax.__version__, "numpy": np.__version__},
                "machine": machine(),
            }
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            told = {name: f"{100 * entry['accuracy']:.2f}" for name, entry in line["held_out"].items()}
            print(
                f"seed {seed} remove {remove} {' '.join(args.set)}: held out {told}, score {line['score']}", flush=True
            )


def print_table(files: list[Path]) -> None:
    """A Markdown table, means over seeds: validation scores and their distance from dense, in points."""
    rows: dict = defaultdict(list)
    for line in (line for file in files for line in map(json.loads, file.read_text().splitlines())):
        if line["score"] is not None:
            rows[line["task"], line["remove"]].append(line)
    print("| task | removed | seeds | dense | pruned | recovered | below dense | dense passes | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (task, remove), lines in sorted(rows.items(), key=lambda item: (item[0][0] != "sst2", item[0])):
        dense, pruned, score = (100 * np.mean([line[name] for line in lines]) for name in ("dense", "pruned", "score"))
        passes = np.mean([line["dense_forwards"]["recovery"] for line in lines])
        seconds = np.mean([line["recovery"]["seconds"] for line in lines])
        each = ", ".join(f"{100 * line['score']:.1f}" for line in sorted(lines, key=lambda line: line["seed"]))
        print(
            f"| {task} | {remove:.0%} | {len(lines)} | {dense:.2f} | {pruned:.2f} | {score:.2f} ({each}) "
            f"| {dense - score:.2f} | {passes:.0f} | {seconds:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--task", choices=("sst2", "mrpc"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--length", type=int, help="tokens that FLOPs are counted at")
    parser.add_argument("--remove", type=float, nargs="+", default=[0.8, 0.9])
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--held-out", type=int, default=2000)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE")
    args = parser.parse_args()
    if args.table:
        print_table(args.table)
    else:
        measure(args)


if __name__ == "__main__":
    main()
