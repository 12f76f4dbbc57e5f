"""A language model fine-tuned, on text and as classifier: all weights, adapters, pruned once, RECAP, at equal tokens.

    python experiments/tune_lm.py --model build/models/smollm2-135m --data ../shared/data --sections wikitext2 sst2 \
        --out experiments/results/tune_lm.jsonl

`wikitext2` trains on windows of 256 tokens of WikiText-2's training text and scores perplexity on its validation text;
`sst2` gives the model a new head, trains it on SST-2's training sentences and scores accuracy on the validation
sentences. Every arm reads every text `--rounds` times. Nothing is chosen here: rates are the library's own, but for
`--set`. Bytes are those of the device's compiled programs, by phase. One JSON line a run; `--table FILE…` prints them.

full           all weights
lora           adapters of rank 8 on every projection
prune_lora     30 % of the heads cut by gate gradients, adapters of two ranks
once 0.2       RECAP's importance and cut once, then all weights that are left
recap 0.2      RECAP: a fifth goes in a round, half of what stays is frozen
"""

import argparse
import ast
import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from kprune_glue import machine

LENGTH = 256  # tokens of a window of text
ROWS: Mapping[str, int] = {"wikitext2": 4, "sst2": 32}  # texts of a step
ARMS: Mapping[str, tuple[str, ...]] = {
    "wikitext2": ("full", "lora", "once 0.2", "recap 0.2", "once 0.4", "recap 0.4"),
    "sst2": ("full", "lora", "prune_lora", "once 0.2", "recap 0.2"),
}
PROJECTIONS = "q", "k", "v", "o", "up", "gate", "down"


def some_text(source: Path, model: Any, tokens: int, work: Path) -> Path:
    """A file of the first `tokens` tokens of a text."""
    from jaxprune.tokens.tokenizer import Tokenizer

    read = Tokenizer.of(model)
    work.mkdir(parents=True, exist_ok=True)
    file = work / f"train_{tokens}.txt"
    file.write_text(read.backend.decode(read.plain(source.read_text())[:tokens].tolist()))
    return file


def prepared(section: str, args: argparse.Namespace, seed: int) -> tuple[Any, Any]:
    """Model and task."""
    import jaxprune as jp

    if section == "sst2":
        task = jp.tasks.load("sst2", args.data / "glue")
        rows = np.random.RandomState(0).permutation(len(task.train))[: args.texts]
        task = replace(task, train=tuple(task.train[row] for row in np.sort(rows)))
        return jp.load(args.model, head="classification", labels=task.labels, problem=task.kind, seed=seed), task
    model, folder = jp.load(args.model), args.data / "text" / "wikitext2"
    train = some_text(folder / "train_slice.txt", model, args.tokens // args.rounds, args.work)
    return model, jp.tasks.text(folder / "valid.txt", train=train, length=LENGTH, windows=args.windows)


def tuned(arm: str, model: Any, task: Any, training: Any, rounds: int) -> tuple[Any, Any]:
    """What the arm makes of the model; and RECAP's full one, into which its rounds were written back."""
    import jaxprune as jp
    from jaxprune.finetuning.recap import run_recap

    name, _, remove = arm.partition(" ")
    if name == "full":
        return jp.finetune(model, task, training), None
    if name == "lora":
        lora = jp.Lora(rank=8, alpha=16.0, projections=PROJECTIONS)
        return jp.finetune(model, task, training, lora=lora), None
    if name == "prune_lora":
        return jp.prune_lora(model, task, jp.PruneLora(projections=PROJECTIONS), training), None
    settings = jp.Recap(remove=float(remove), rounds=rounds)
    if name == "once":  # one round of all epochs, in which every row trains
        settings = jp.Recap(remove=float(remove), rounds=1, epochs_per_round=rounds, freeze=0.0)
    recapped = run_recap(model, task, settings, replace(training, epochs=None))
    return recapped.model, recapped.full if name == "recap" else None


def measure(args: argparse.Namespace) -> None:
    import jax

    import jaxprune as jp
    from jaxprune.pruning.cost import whole_parameters

    settings = {name: ast.literal_eval(value) for name, _, value in (word.partition("=") for word in args.set)}
    for section in args.sections:
        for arm in args.arms or ARMS[section]:
            model, task = prepared(section, args, args.seed)
            began = time.perf_counter()
            training = jp.Train(
                **{"epochs": args.rounds, "batch_size": ROWS[section], "dtype": "bfloat16", "keep": "last",
                   "seed": args.seed, **settings}
            )  # fmt: skip
            small, full = tuned(arm, model, task, training, args.rounds)
            seconds, record = time.perf_counter() - began, small.provenance.record
            trained, score = record["training"], jp.evaluate(small, task)
            line = {
                "section": section, "arm": arm, "set": args.set, "seed": args.seed, "epochs": args.rounds,
                "texts": trained["texts"], "tokens": trained["tokens"], "metric": score.metric,
                "dense": jp.evaluate(model, task).score if section == "wikitext2" else None,
                "score": score.score, "full": None if full is None else jp.evaluate(full, task).score,
                "parameters": whole_parameters(small.architecture),
                "dense_parameters": whole_parameters(model.architecture),
                "trainable_parameters": trained["trainable_parameters"],
                "learning_rate": trained["settings"]["learning_rate"],
                "bytes": (trained["bytes"] if "bytes" in trained else trained["device_bytes"])["measured"],
                "by_epoch": [epoch["score"] for epoch in trained["epochs"]],
                "seconds": seconds,
                "command": shlex.join(["python", *sys.argv]),
                "versions": {"jaxprune": jp.__version__, "jax": jax.__version__, "numpy": np.__version__},
                "machine": machine(),
            }  # fmt: skip
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            told = {name: line[name] for name in ("score", "full", "bytes", "learning_rate")}
            print(f"{section} {arm}: {told} in {seconds:.0f} s", flush=True)


def gigabytes(bytes_: int | Mapping[str, int]) -> str:
    """The peak, and by phase where there are several."""
    if isinstance(bytes_, int):
        return f"{bytes_ / 1e9:.2f}"
    parts = ", ".join(f"{phase} {number / 1e9:.2f}" for phase, number in bytes_.items() if number)
    return f"{max(bytes_.values()) / 1e9:.2f} ({parts})"


def print_table(files: list[Path]) -> None:
    """A Markdown table by section: scores, size, device memory and seconds."""
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    for section in dict.fromkeys(line["section"] for line in lines):
        here = [line for line in lines if line["section"] == section]
        before = f" Before training: {here[0]['dense']:.2f}." if here[0]["dense"] is not None else ""
        print(f"\n{section}, {here[0]['texts']:,} texts, {here[0]['epochs']} epochs.{before}\n")
        print(
            f"| training | {here[0]['metric']} | of the full model | parameters | train | rate | device, GB | seconds |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for line in here:
            number = "{:.2f}" if section == "wikitext2" else "{:.4f}"
            full = "" if line["full"] is None else number.format(line["full"])
            print(
                f"| {' '.join([line['arm'], *line['set']])} | {number.format(line['score'])} | {full} "
                f"| {line['parameters'] / 1e6:.1f} M | {line['trainable_parameters'] / 1e6:.1f} M "
                f"| {line['learning_rate']:g} | {gigabytes(line['bytes'])} | {line['seconds']:.0f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data", type=Path, help="folder with text/wikitext2 and glue")
    parser.add_argument("--sections", nargs="+", choices=[*ARMS], default=[*ARMS])
    parser.add_argument("--arms", nargs="+", help="all of a section by default")
    parser.add_argument("--rounds", type=int, default=4, help="passes over the texts, and RECAP's rounds")
    parser.add_argument("--tokens", type=int, default=65536, help="tokens of text read in all")
    parser.add_argument("--texts", type=int, default=10000, help="sentences of SST-2")
    parser.add_argument("--windows", type=int, default=32, help="windows of text that are scored")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of Train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("build/tune_lm"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE")
    args = parser.parse_args()
    if args.table:
        print_table(args.table)
    elif None in (args.model, args.data, args.out):
        sys.exit("give --model, --data and --out, or --table FILE…")
    else:
        measure(args)


if __name__ == "__main__":
    main()
