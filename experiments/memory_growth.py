"""How the memory of `kprune` grows with the calibration tokens, measured and as `jaxprune plan` predicts it.

    python experiments/memory_growth.py --model build/models/minilm-sst2 --task sst2 --data ../shared/data/glue

Prints a Markdown table: tokens, peak bytes of a run (live arrays at its fullest plus the largest program's
temporaries, model included), bytes a further token added, and the prediction.
"""

import argparse

import jaxprune as jp
from jaxprune.report.plan import peak_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--samples", nargs="+", type=int, default=[512, 2048, 4096, 7680])
    parser.add_argument("--remove", type=float, default=0.6)
    args = parser.parse_args()
    model, task = jp.load(args.model), jp.tasks.load(args.task, args.data)
    print("| texts | tokens | peak, measured | bytes a further token | peak, predicted |\n|---|---|---|---|---|")
    before: tuple[int, int] | None = None
    for count in args.samples:
        record = jp.kprune(model, task.calibration(count, seed=0), jp.Budget(args.remove)).provenance.record
        tokens, peak = record["calibration"]["tokens"], record["peak_bytes"]
        predicted = peak_bytes(model.architecture, tokens)["total"]
        each = "" if before is None else f"{(peak - before[1]) / (tokens - before[0]):.0f}"
        print(f"| {count} | {tokens} | {peak / 1e6:.0f} MB | {each} | {predicted / 1e6:.0f} MB |", flush=True)
        before = tokens, peak


if __name__ == "__main__":
    main()
