"""Models trained from one cut, added up: perplexity of the cut and so much of what each training changed.

    python experiments/recover_lm.py … --save --work build/recover_lm
    python experiments/soup_lm.py --text ../shared/data/text --held build/recover_lm/held_back.jsonl \
        --cut build/recover_lm/kprune_0.2_64 \
        --trained build/recover_lm/distill_kprune_0.2_288512 build/recover_lm/lora32_kprune_0.2_288512 \
        --shares 1,0 0.8,0.3 --out experiments/results/soup_lm.jsonl

Each of `--shares` names one number a trained model: weights are cut + sum of share * (trained - cut) (Wortsman et al.,
Model soups, 2022; Ilharco et al., Editing models with task arithmetic, 2023). `--choose` scores on valid.txt instead of
test.txt, where shares are chosen. One JSON line a choice.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from kprune_glue import machine

import jaxprune as jp


def added(cut: jp.Model, trained: list[jp.Model], shares: list[float]) -> jp.Model:
    """`cut` with so much of what every training changed."""

    def leaf(start: Any, *ends: Any) -> Any:
        start = np.asarray(start)
        moves = (np.float32(share) * (np.asarray(end) - start) for share, end in zip(shares, ends, strict=True))
        return sum(moves, start)

    return cut.replace(params=jax.tree.map(leaf, cut.params, *(model.params for model in trained)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="folder with wikitext2")
    parser.add_argument("--held", type=Path, required=True, help="C4's documents that nothing was trained on")
    parser.add_argument("--cut", required=True)
    parser.add_argument("--trained", nargs="+", required=True)
    parser.add_argument("--shares", nargs="+", required=True, metavar="NUMBER,NUMBER")
    parser.add_argument("--windows", type=int, default=32, help="windows of 512 tokens that are scored")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    every = [[float(share) for share in text.split(",")] for text in args.shares]
    if any(len(shares) != len(args.trained) for shares in every):
        sys.exit(f"name {len(args.trained)} shares each time, one for every trained model")
    wiki = args.text / "wikitext2" / ("valid.txt" if args.choose else "test.txt")
    scored = {
        "wikitext2": jp.tasks.text(wiki, length=512, windows=args.windows),
        "c4": jp.tasks.text(args.held, length=512, windows=args.windows),
    }
    cut, trained = jp.load(args.cut), [jp.load(folder) for folder in args.trained]
    for shares in every:
        model = added(cut, trained, shares)
        line = {
            "trained": [Path(folder).name for folder in args.trained],
            "shares": shares,
            "scored_on": wiki.name,
            "windows": args.windows,
            "score": {name: jp.evaluate(model, task).score for name, task in scored.items()},
            "command": " ".join(["python", *sys.argv]),
            "versions": {"jaxprune": jp.__version__, "jax": jax.__version__, "numpy": np.__version__},
            "machine": machine(),
        }
        with args.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(shares, line["score"], flush=True)


if __name__ == "__main__":
    main()
