"""A pruned language model trains: perplexity on WikiText-2 and on C4 held back, after so many tokens of C4.

    python experiments/recover_lm.py --model build/models/smollm2-135m --text ../shared/data/text \
        --remove 0.2 --arms recover full distill lora8 lora32 --tokens 10000 30000 100000 \
        --out experiments/results/recover_lm.jsonl

A tenth of C4's documents is held back; the cut calibrates, and everything trains, on the others. Every arm begins at
the same cut and reads so many tokens once, in windows of `--length`:

recover   `Recover`: the dense model's predictions and hidden states, its rate found on windows held back
distill   all weights on next tokens, half the loss the dense model's predictions
full      all weights but the embeddings on next tokens alone
lora8     adapters of that rank on every projection, likewise (lora32: of rank 32)
twice     half of the cut, `recover` on half of the tokens, then the other half of both

`--set` changes settings of them all; `distill=…` gives the dense model as teacher to adapters too. `--choose` scores on
valid.txt instead of test.txt: rates are chosen there. Cuts are kept under `--work`, and not made again. One JSON line a
run; `--table FILE…` prints them.
"""

import argparse
import ast
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from kprune_glue import machine
from smollm import method_of

TOKENS = 512  # of a step
MOVING = "layers/*", "final_norm/*"  # no embeddings, as in `Recover`
PROJECTIONS = "q", "k", "v", "o", "up", "gate", "down"


def split(text: Path, work: Path, model: Any, tokens: int) -> tuple[Path, Path, Path]:
    """Files of C4's documents: held back, all others, and the first of these that come to `tokens`."""
    from jaxprune.tokens.tokenizer import Tokenizer

    documents = (text / "c4" / "calibration.jsonl").read_text().splitlines()
    order = np.random.RandomState(1234).permutation(len(documents))
    tenth = len(documents) // 10
    read, some, there = Tokenizer.of(model), [], 0
    for row in order[tenth:]:
        if there >= tokens:
            break
        there += len(read.plain(json.loads(documents[row])["text"]))
        some.append(row)
    work.mkdir(parents=True, exist_ok=True)
    files = work / "held_back.jsonl", work / "train.jsonl", work / f"train_{tokens}.jsonl"
    for file, rows in zip(files, (order[:tenth], order[tenth:], some), strict=True):
        file.write_text("".join(documents[row] + "\n" for row in rows))
    return files


def trained(
    arm: str, pruned: Any, dense: Any, train: Path, held: Path, tokens: int, length: int, settings: dict[str, Any]
) -> Any:
    """The model that `arm` makes of `pruned` with these tokens, in windows of `length`."""
    import jaxprune as jp

    settings = {"batch_size": max(1, TOKENS // length), "dtype": "bfloat16", **settings}
    if arm == "recover":
        windows = jp.Calibration.of_running_text(train, count=tokens // length, length=length)
        steps = max(1, round(0.9 * tokens) // (length * settings["batch_size"]))  # a tenth is held back
        return jp.Recover(windows, **{"steps": steps, **settings})(pruned, dense)
    task = jp.tasks.text(held, train=train, length=length, windows=8)
    if arm == "distill":
        settings = {"distill": 0.5, **settings}
    teacher = dense if "distill" in settings else None
    if teacher is not None:
        settings = {"temperature": 1.0, **settings}
    train_settings = jp.Train(**{"epochs": 1, "dropout": 0.0, "keep": "last", **settings})
    if arm.startswith("lora"):
        lora = jp.Lora(rank=int(arm[4:]), alpha=2.0 * int(arm[4:]), projections=PROJECTIONS)
        return jp.finetune(pruned, task, train_settings, lora=lora, teacher=teacher)
    return jp.finetune(pruned, task, train_settings, trainable=MOVING, teacher=teacher)


def measure(args: argparse.Namespace) -> None:
    import jax

    import jaxprune as jp

    dense = jp.load(args.model)
    settings = {name: ast.literal_eval(value) for name, _, value in (word.partition("=") for word in args.set)}
    held, train, _ = split(args.text, args.work, dense, 0)
    wiki = args.text / "wikitext2" / ("valid.txt" if args.choose else "test.txt")
    scored = {
        "wikitext2": jp.tasks.text(wiki, length=512, windows=args.windows),
        "c4": jp.tasks.text(held, length=512, windows=args.windows),
    }

    def scores(model: Any) -> dict[str, float]:
        return {name: jp.evaluate(model, task).score for name, task in scored.items()}

    def cut(model: Any, remove: float, method: str) -> Any:
        """`model` without `remove` of its prunable parameters."""
        function, own = method_of(method)
        calibration = jp.Calibration.of_running_text(train, count=args.calibrate, length=512)
        return function(model, calibration, jp.Budget(remove, cost="params"), own)

    def kept_cut(remove: float, method: str) -> Any:
        folder = args.work / f"{method}_{remove:g}_{args.calibrate}"
        if not folder.exists():
            jp.save(cut(dense, remove, method), folder)
        return jp.load(folder)

    whole = scores(dense)
    print(f"dense {whole}", flush=True)
    for remove in args.remove:
        for method in args.methods:
            pruned = kept_cut(remove, method)
            before = scores(pruned)
            print(f"{method} {remove}: pruned {before}", flush=True)
            for arm in args.arms:
                for tokens in args.tokens:
                    began = time.perf_counter()
                    if arm == "twice":
                        half, texts = remove / 2, split(args.text, args.work, dense, tokens // 2)[2]
                        some = tokens // 2, args.length, settings
                        middle = trained("recover", kept_cut(half, method), dense, texts, held, *some)
                        rest = cut(middle, 1 - (1 - remove) / (1 - half), method)
                        model = trained("recover", rest, dense, train, held, *some)
                    else:
                        texts = split(args.text, args.work, dense, tokens)[2]
                        model = trained(arm, pruned, dense, texts, held, tokens, args.length, settings)
                    record = model.provenance.record
                    line = {
                        "arm": arm, "method": method, "remove": remove, "tokens": tokens, "set": args.set,
                        "calibrated_on": args.calibrate * 512, "length": args.length,
                        "scored_on": wiki.name, "dense": whole, "pruned": before, "score": scores(model),
                        "seconds": time.perf_counter() - began,
                        "record": record["recovery"] if arm in ("recover", "twice") else record["training"],
                        "command": " ".join(["python", *sys.argv]),
                        "versions": {"jaxprune": jp.__version__, "jax": jax.__version__, "numpy": np.__version__},
                        "machine": machine(),
                    }  # fmt: skip
                    with args.out.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    print(f"{method} {remove} {arm} {tokens}: {line['score']} in {line['seconds']:.0f} s", flush=True)
                    if args.save:
                        jp.save(model, args.work / f"{arm}_{method}_{remove:g}_{tokens}")


def print_table(files: list[Path]) -> None:
    """Perplexities by arm and tokens, and the share of the lost log perplexity that came back."""
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    rows: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in lines:
        calibrated = line.get("calibrated_on", 8192)
        changed = [*line["set"], *([f"length={line['length']}"] if line.get("length", 256) != 256 else [])]
        rows[line["remove"], line["method"], calibrated, line["arm"], " ".join(changed)][line["tokens"]] = line
    tokens = sorted({line["tokens"] for line in lines})
    print(
        "| removed | cut by | on tokens | training | text | dense | pruned | "
        + " | ".join(f"{n:,}" for n in tokens)
        + " |"
    )
    print("|---" * (7 + len(tokens)) + "|")
    for (remove, method, calibrated, arm, changed), by in rows.items():
        for text in ("wikitext2", "c4"):
            cells = []
            for number in tokens:
                if number not in by:
                    cells.append("")
                    continue
                dense, pruned, score = (by[number][name][text] for name in ("dense", "pruned", "score"))
                cells.append(f"{score:.2f} ({np.log(pruned / score) / np.log(pruned / dense):.0%})")
            some = next(iter(by.values()))
            print(
                f"| {remove:.0%} | {method} | {calibrated:,} | {arm} {changed} | {text} | {some['dense'][text]:.2f} "
                f"| {some['pruned'][text]:.2f} | " + " | ".join(cells) + " |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--text", type=Path, help="folder with wikitext2 and c4")
    parser.add_argument("--remove", type=float, nargs="+", default=[0.2])
    parser.add_argument("--methods", nargs="+", default=["kprune"])
    parser.add_argument("--arms", nargs="+", default=["recover"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[100_000])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of Recover or Train")
    parser.add_argument("--calibrate", type=int, default=16, help="windows of 512 tokens that the cut reads")
    parser.add_argument("--length", type=int, default=256, help=f"tokens of a window that trains; {TOKENS} make a step")
    parser.add_argument("--windows", type=int, default=32, help="windows of 512 tokens that are scored")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--save", action="store_true", help="keep what was trained under --work")
    parser.add_argument("--work", type=Path, default=Path("build/recover_lm"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE")
    args = parser.parse_args()
    if args.table:
        print_table(args.table)
    elif None in (args.model, args.text, args.out):
        sys.exit("give --model, --text and --out, or --table FILE…")
    else:
        measure(args)


if __name__ == "__main__":
    main()
