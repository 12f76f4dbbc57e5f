"""The preset `published` beside what the authors' own implementation kept, on the same calibration texts.

    python experiments/published_parity.py --model build/models/minilm-sst2 --task sst2 --data ../shared/data/glue \
        --length 25 --reference ../shared/reference/kprune_authors.jsonl --remove 0.4 0.6 0.8

The reference file has one JSON line a run: task, remove, seed, kept heads and neurons per layer, accuracy.
"""

import argparse
import json
from pathlib import Path
from typing import Any


def compare(
    model: str, task_name: str, data: str, length: int, reference: Path, removes: list[float], seed: int
) -> list[dict[str, Any]]:
    """For every budget: heads and neurons kept here and there, their total absolute differences, both accuracies."""
    import jaxprune as jp

    dense = jp.load(model)
    task = jp.tasks.load(task_name, data)
    runs = [json.loads(line) for line in reference.read_text().splitlines()]
    rows = []
    for remove in removes:
        theirs = next(run for run in runs if (run["task"], run["seed"], run["remove"]) == (task_name, seed, remove))
        calibration = task.calibration(theirs["n"], seed=seed)
        small = jp.kprune(dense, calibration, jp.Budget(remove, length=length), jp.KPrune.preset("published"))
        heads = [size.heads for size in small.architecture.layers]
        neurons = [size.neurons for size in small.architecture.layers]
        of = sum(size.neurons for size in dense.architecture.layers)
        rows.append(
            {
                "task": task_name,
                "remove": remove,
                "seed": seed,
                "heads": heads,
                "heads_reference": theirs["heads"],
                "neurons": neurons,
                "neurons_reference": theirs["neurons"],
                "heads_difference": sum(abs(a - b) for a, b in zip(heads, theirs["heads"], strict=True)),
                "neurons_difference": sum(abs(a - b) for a, b in zip(neurons, theirs["neurons"], strict=True)) / of,
                "accuracy": jp.evaluate(small, task).score,
                "accuracy_reference": theirs["acc"],
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--length", type=int, required=True, help="tokens at which FLOPs are counted")
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--remove", nargs="+", type=float, default=[0.4, 0.6, 0.8])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    compare(args.model, args.task, args.data, args.length, args.reference, args.remove, args.seed)


if __name__ == "__main__":
    main()
