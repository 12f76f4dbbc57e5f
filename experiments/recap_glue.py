"""RECAP on GLUE beside full fine-tuning and pruning once, at equal total epochs: one JSON line a run, appended.

    python experiments/recap_glue.py arms --model build/models/minilm --tasks mrpc --seeds 0 1 2 --remove 0.33 \
        --data ../shared/data/glue --out experiments/results/recap.jsonl
    python experiments/recap_glue.py memory --out experiments/results/recap_memory.jsonl   # bytes by phase, 32 x 128
    python experiments/recap_glue.py limit --bytes 4e9       # what fits a device of that size: batch sizes by method
    python experiments/recap_glue.py table FILE…             # Markdown, means and spread over seeds

Every arm sees the training texts `rounds` x `epochs-per-round` times and ends with a model of the same size (but full
fine-tuning, the upper mark). Scores are those of the last epoch or round on the validation texts: nothing is chosen
on them (`--holdout` scores on training texts that are set aside, to choose by). `memory` and `limit` compile each
phase's program for BERT-base and BERT-large and run nothing.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

# --- the arms, as data: a function of the arguments each


@dataclass(frozen=True)
class Arm:
    """One way from a checkpoint with a new head to a tuned model."""

    kind: str  # "full", "once", "after" or "recap"
    settings: Mapping[str, Any] = field(default_factory=dict)  # settings of Recap; "preset" names where to start
    training: Mapping[str, Any] = field(default_factory=dict)  # settings of Train


PUBLISHED = MappingProxyType({"preset": "published-bert-cola"})
ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "full fine-tuning": Arm("full"),
        "prune once, then tune": Arm("once"),
        "tune, prune, tune again": Arm("after"),
        "RECAP published": Arm("recap", PUBLISHED),
        "RECAP ours": Arm("recap", {"preset": "kprune"}),
        "RECAP default": Arm("recap"),
        "RECAP default, gates": Arm("recap", {"importance": "gates"}),
        "RECAP default, averaged importance": Arm("recap", {"average": 0.5}),
        "RECAP default, dropped moments": Arm("recap", {"moments": "dropped"}),
        "RECAP default, touched embeddings": Arm("recap", {"outer": "touched"}),
        "RECAP default, K-prune": Arm("recap", {"importance": "kprune"}),
        "RECAP default, refit": Arm("recap", {"refit": True}),
        "RECAP default, distilled": Arm("recap", {}, {"distill": 0.5}),
        "RECAP ours, distilled": Arm("recap", {"preset": "kprune"}, {"distill": 0.5}),
        "RECAP ours, measured ahead": Arm("recap", {"preset": "kprune", "prefetch": True}),
        "prune once as published, then tune": Arm("once", PUBLISHED),
        "K-prune once, then tune": Arm("once", {"preset": "kprune"}),
    }
)
STANDARD = ("full fine-tuning", "prune once, then tune", "tune, prune, tune again", "RECAP published", "RECAP ours")


def settings_of(arm: Arm, args: argparse.Namespace) -> Any:
    """RECAP's settings of an arm: the preset's where it has one, and the rounds, shares and rate of the command."""
    import jaxprune as jp

    given = dict(arm.settings)
    start = jp.Recap.presets().get(given.pop("preset", ""), jp.Recap())
    return replace(
        start, **given, remove=args.remove, freeze=args.freeze, rounds=args.rounds,
        epochs_per_round=args.epochs_per_round, samples=args.samples,
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    import jaxprune as jp

    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.tasks:
        task = jp.tasks.load(name, args.data)
        order = np.random.RandomState(0).permutation(len(task.train))[: args.train_limit]
        task = replace(
            task, train=tuple(task.train[i] for i in np.sort(order)), validation=task.validation[: args.score_limit]
        )
        for seed in args.seeds:
            for arm in args.arms or STANDARD:
                line = measure(arm, task, args, seed)
                with args.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                told = ("score", "seconds", "peak_bytes")
                print(
                    f"{name} seed {seed} {arm}: " + ", ".join(f"{k} {line[k]}" for k in told if k in line), flush=True
                )


def measure(name: str, task: Any, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    import jaxprune as jp
    from jaxprune.finetuning.recap import run_recap
    from jaxprune.pruning.cost import whole_parameters

    arm, epochs = ARMS[name], args.rounds * args.epochs_per_round
    settings = settings_of(arm, args)
    base = jp.load(args.model, head="classification", labels=task.labels, problem=task.kind, seed=seed)
    training = jp.Train(
        epochs=epochs, keep="last", seed=seed, learning_rate=args.learning_rate, batch_size=args.batch_size,
        dtype=args.dtype, remat=args.remat, holdout=args.holdout, **arm.training,
    )  # fmt: skip
    began, notes, peak = time.perf_counter(), {}, 0
    where = {"host": args.host, "device": args.device, "device_limit": args.device_limit}
    if arm.kind == "full" and args.device_limit and (needed := full_bytes(base, task, training)) > args.device_limit:
        return {"kind": "limit", "task": task.name, "model": Path(args.model).name, "arm": name, "dtype": args.dtype,
                "remat": args.remat, "peak_bytes": needed, "limit": args.device_limit, "fits": False,
                "command": " ".join(["python", *sys.argv]), "versions": versions()}  # fmt: skip
    if arm.kind == "full":
        tuned = jp.finetune(base, task, training)
    elif arm.kind == "once":  # RECAP's own importance and cut, one round of all epochs, every row trains
        one = replace(settings, rounds=1, epochs_per_round=epochs, freeze=0.0)
        tuned = jp.recap(base, task, one, replace(training, epochs=None), **where)
    elif arm.kind == "after":  # half of the epochs before the cut, half after it
        before = max(1, epochs // 2)
        warm = jp.finetune(base, task, replace(training, epochs=before))
        peak = warm.provenance.record["training"]["bytes"]["measured"]
        rest = replace(settings, rounds=1, epochs_per_round=max(1, epochs - before), freeze=0.0)
        tuned = jp.recap(warm, task, rest, training, **where)
    else:
        found = run_recap(base, task, settings, training, **where)
        tuned = found.model
        notes = {} if args.holdout else {"full_score": jp.evaluate(found.full, task).score}
    seconds, record = time.perf_counter() - began, tuned.provenance.record
    trained = record["training"]
    if args.holdout:  # to choose by: the validation texts are not looked at
        last = trained["epochs"][-1]
        result = {"score": last["score"], "metric": last["metric"], "metrics": last["metrics"], "holdout": args.holdout}
    else:
        score = jp.evaluate(tuned, task)
        result = {"score": score.score, "metric": score.metric, "metrics": score.metrics, "examples": score.examples}
    line = {
        "task": task.name,
        "model": Path(args.model).name,
        "arm": name,
        "seed": seed,
        "epochs": epochs,
        "texts": len(task.train),
        **result,
        "remove": args.remove if arm.kind != "full" else 0.0,
        "settings": record.get("settings"),
        "parameters": whole_parameters(tuned.architecture),
        "dense_parameters": whole_parameters(base.architecture),
        "trainable_parameters": trained["trainable_parameters"],
        "removed": record.get("removed"),
        "heads": [size.heads for size in tuned.architecture.layers],
        "neurons": [size.neurons for size in tuned.architecture.layers],
        "peak_bytes": max(peak, trained["bytes"]["measured"] if arm.kind == "full" else trained["peak_bytes"]),
        "device_bytes": trained.get("device_bytes"),
        "rounds": trained["epochs"] if arm.kind == "recap" else None,
        "seconds": seconds,
        "learning_rate": trained["settings"]["learning_rate"],
        "dtype": args.dtype,
        "remat": args.remat,
        "limit": args.device_limit,
        "command": " ".join(["python", *sys.argv]),
        "versions": versions(),
        "machine": machine(),
        **notes,
    }
    if args.pictures and arm.kind == "recap":
        jp.heat_map(tuned, args.pictures / f"{task.name}-{name.replace(' ', '-').replace(',', '')}-{seed}.png")
    return line


def full_bytes(model: Any, task: Any, training: Any) -> int:
    """What full fine-tuning needs on the device, of the compiled step."""
    from jaxprune.finetuning.epochs import batches_for
    from jaxprune.finetuning.texts import prepare
    from jaxprune.finetuning.training_bytes import compiled_step, training_bytes

    texts = prepare(model, task)
    rows, length = batches_for(texts.encoded, model.architecture, training)(0)[0].ids.shape
    training = training.resolved(model.architecture, adapted=False)
    temp = int(compiled_step(model, rows, length, training).memory_analysis().temp_size_in_bytes)
    return training_bytes(model, (model.params, []), rows, length, training, temp)["measured"]


# --- memory: BERT-base and BERT-large, whose weights are not needed


def bert(size: str, shrink: Mapping[str, Any]) -> Any:
    from jaxprune.model import Architecture, LayerSizes

    layers, hidden, heads = {"base": (12, 768, 12), "large": (24, 1024, 16)}[size]
    sizes = {"vocab": 30522, "hidden": hidden, "head_width": 64, "groups": heads, "neurons": 4 * hidden, **shrink}
    layers = sizes.pop("depth", layers)
    layer = LayerSizes(groups=sizes.pop("groups"), neurons=sizes.pop("neurons"))
    return Architecture(
        family="bert", layers=(layer,) * layers, max_positions=512, token_types=2, pooler="tanh",
        head="classification", labels=("no", "yes"), **sizes,
    )  # fmt: skip


def memory_cases(args: argparse.Namespace) -> dict[str, Any]:
    import jaxprune as jp

    half = jp.Recap(remove=args.remove, freeze=args.freeze, measure_on="device")
    plain, light = jp.Train(), jp.Train(remat=True)
    return {
        "full AdamW": (None, plain),
        "LoRA, rank 8": ("lora", plain),
        "RECAP": (half, plain),
        "RECAP, touched embeddings": (replace(half, outer="touched"), plain),
        "RECAP, frozen embeddings": (replace(half, outer="frozen"), plain),
        "full AdamW, remat": (None, light),
        "LoRA, rank 8, remat": ("lora", light),
        "RECAP, remat": (half, light),
        "RECAP, frozen embeddings, remat": (replace(half, outer="frozen"), light),
    }


def case_bytes(dense: Any, case: tuple[Any, Any], rows: int, length: int, tokens: int) -> dict[str, dict[str, int]]:
    """Peak bytes on the device by phase, predicted and measured on the compiled programs; and what tuning's are of."""
    from jaxprune.finetuning.finetune import chooser
    from jaxprune.finetuning.lora import Lora, adapters_of, count, plan_of
    from jaxprune.finetuning.recap.phase_bytes import (
        abstract,
        abstract_parts,
        least_frozen,
        measured_bytes,
        phase_bytes,
        uniform,
    )
    from jaxprune.finetuning.recap.tuning import trainable_of
    from jaxprune.finetuning.step import everything, select
    from jaxprune.finetuning.training_bytes import FLOAT, compiled_step, training_bytes
    from jaxprune.model import Model

    settings, training = case
    if settings is None or settings == "lora":
        model = Model(dense, abstract(dense))
        adapters = adapters_of(plan_of(Lora(rank=8), dense), dense) if settings == "lora" else None
        chosen = chooser(model, Lora().train) if settings == "lora" else everything
        step = compiled_step(model, rows, length, training, trainable=chosen, adapters=adapters)
        parts = select(model.params, chosen)[0], [] if adapters is None else adapters.weights
        temp = int(step.memory_analysis().temp_size_in_bytes)
        found = training_bytes(model, parts, rows, length, training, temp)
        held = model.params, *([] if adapters is None else [adapters.weights])
        return {"predicted": {"tuning": found["predicted"]}, "measured": {"tuning": found["measured"]},
                "of tuning": parts_of(held, parts[0], found["measured"], found["gradients"])}  # fmt: skip
    small, touched = uniform(dense, settings.remove), tokens if settings.outer == "touched" else None
    sizes = dense, small, settings, training, rows, length, touched
    held, measured = abstract_parts(small, least_frozen(settings), touched), measured_bytes(*sizes)
    chosen = select(held, trainable_of(settings, small))[0]
    return {"predicted": phase_bytes(*sizes), "measured": measured,
            "of tuning": parts_of((held,), chosen, measured["tuning"], FLOAT * count(chosen))}  # fmt: skip


def parts_of(held: Sequence[Any], chosen: Any, measured: int, trained: int) -> dict[str, int]:
    """What the bytes of tuning are of: weights and moments are counted, the rest is the program's own."""
    from jaxprune.finetuning.lora import count
    from jaxprune.finetuning.training_bytes import FLOAT

    embeddings, weights = FLOAT * count(held[0]["embed"]), FLOAT * count(held)
    of_embeddings = 2 * FLOAT * count(chosen["embed"])
    return {
        "embeddings": embeddings,
        "other weights": weights - embeddings,
        "moments of embeddings": of_embeddings,
        "other moments": 2 * trained - of_embeddings,
        "gradients, activations, workspace": measured - weights - 2 * trained,
    }


def memory(args: argparse.Namespace) -> None:
    """A table of peak bytes by phase, and what is left to save."""
    for size in args.sizes:
        dense, first, shares = bert(size, args.shrink), 0, {}
        print(f"\nBERT-{size}, {args.rows} x {args.length}, r_p {args.remove}, r_f {args.freeze}; MiB (predicted)\n")
        print("| arm | importance | masking | tuning | write back | evaluation | peak | of full AdamW |")
        print("|---|---|---|---|---|---|---|---|")
        for name, case in memory_cases(args).items():
            if args.arms and name not in args.arms:
                continue
            found = case_bytes(dense, case, args.rows, args.length, args.tokens)
            measured, predicted = found["measured"], found["predicted"]
            peak = max(measured.values())
            first = first or peak
            cells = [
                f"{measured[phase] / 2**20:,.0f} ({predicted[phase] / 2**20:,.0f})" if phase in measured else "–"
                for phase in ("importance", "masking", "tuning", "write back", "evaluation")
            ]
            print(f"| {name} | {' | '.join(cells)} | {peak / 2**20:,.0f} | {peak / first:.2f} |", flush=True)
            shares[name] = found["of tuning"]
            if args.out:
                line = {"kind": "memory", "model": f"bert-{size}", "arm": name, "rows": args.rows, **found,
                        "length": args.length, "remove": args.remove, "freeze": args.freeze, "versions": versions(),
                        "command": " ".join(["python", *sys.argv])}  # fmt: skip
                args.out.parent.mkdir(parents=True, exist_ok=True)
                with args.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        print("\nWhat the bytes of tuning are of, MiB:\n")
        print(f"| arm | {' | '.join(next(iter(shares.values())))} |\n|---|---|---|---|---|---|")
        for name, parts in shares.items():
            print(f"| {name} | {' | '.join(f'{value / 2**20:,.0f}' for value in parts.values())} |")


def limit(args: argparse.Namespace) -> None:
    """Which arms fit a device of a stated size: the same programs, by their bytes."""
    for size in args.sizes:
        dense = bert(size, args.shrink)
        for name, case in memory_cases(args).items():
            if args.arms and name not in args.arms:
                continue
            measured = case_bytes(dense, case, args.rows, args.length, args.tokens)["measured"]
            peak = max(measured.values())
            verdict = "fits" if peak <= args.bytes else f"does not fit ({max(measured, key=measured.__getitem__)})"
            told = f"BERT-{size} {args.rows} x {args.length} {name}: {peak / 2**20:,.0f} MiB, {verdict}"
            print(f"{told} in {args.bytes / 2**20:,.0f} MiB", flush=True)


# --- the table


def table(args: argparse.Namespace) -> None:
    """Markdown: the mean over seeds, single seeds in brackets; seconds a round by phase, and the transfers' share."""
    lines = [json.loads(line) for file in args.files for line in file.read_text().splitlines()]
    groups: dict[tuple[str, float, float, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        if "kind" not in line:
            groups[line["task"], line["learning_rate"], line["remove"], line["arm"]].append(line)
    print(
        "| task | rate | removed | arm | score | parameters | peak MiB on the device | seconds a round, by phase "
        "| transfers |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for (task, rate, remove, arm), runs in groups.items():
        scores = [run["score"] for run in runs]
        several = f" ({' '.join(f'{s:.4f}'.replace('0.', '.', 1) for s in scores)})" if len(scores) > 1 else ""
        peak, rounds = (
            np.mean([run["peak_bytes"] for run in runs]) / 2**20,
            [r for run in runs for r in run["rounds"] or ()],
        )
        phases, share = "–", "–"
        if rounds:
            names = list(rounds[0]["phases"])
            own = {name: mean(rounds, name, "seconds") - mean(rounds, name, "compile_seconds") for name in names}
            phases = ", ".join(f"{name} {value:.1f}" for name, value in own.items())
            moved = sum(mean(rounds, name, "transfer_seconds") for name in names)
            share = f"{100 * moved / sum(own.values()):.1f} %"
        print(
            f"| {task} | {rate:.0e} | {remove:.0%} | {arm} | {np.mean(scores):.4f}{several} "
            f"| {np.mean([run['parameters'] for run in runs]) / 1e6:.2f} M | {peak:,.0f} | {phases} | {share} |"
        )


def mean(rounds: Sequence[Mapping[str, Any]], phase: str, what: str) -> float:
    """Of a phase over rounds."""
    return float(np.mean([entry["phases"][phase][what] for entry in rounds]))


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} CPU cores"


def versions() -> dict[str, str]:
    import jax
    import optax

    import jaxprune as jp

    return {"jaxprune": jp.__version__, "jax": jax.__version__, "optax": optax.__version__, "numpy": np.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("arms")
    command.add_argument("--model", required=True)
    command.add_argument("--tasks", nargs="+", required=True)
    command.add_argument("--data", required=True)
    command.add_argument("--arms", nargs="+", choices=tuple(ARMS))
    command.add_argument("--seeds", nargs="+", type=int, default=[0])
    command.add_argument("--rounds", type=int, default=4)
    command.add_argument("--epochs-per-round", type=int, default=1)
    command.add_argument("--remove", type=float, default=0.33)
    command.add_argument("--freeze", type=float, default=0.5)
    command.add_argument("--samples", type=int, default=256)
    command.add_argument("--batch-size", type=int, default=32)
    command.add_argument("--learning-rate", type=float, help="of all arms (default: 5e-5, the published preset's 2e-5)")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of training's products")
    command.add_argument("--holdout", type=int, default=0, help="score on so many training texts instead: to choose by")
    command.add_argument("--remat", action="store_true", help="recompute layers in the backward pass, in all arms")
    command.add_argument("--device-limit", type=int, help="bytes: arms that need more on the device do not run")
    command.add_argument("--host")
    command.add_argument("--device")
    command.add_argument("--train-limit", type=int, help="so many training texts, drawn once for all seeds")
    command.add_argument("--score-limit", type=int)
    command.add_argument("--pictures", type=Path, help="a folder for heat maps")
    command.add_argument("--out", type=Path, required=True)
    command.set_defaults(call=run)
    for name, call in (("memory", memory), ("limit", limit)):
        command = commands.add_parser(name)
        command.add_argument("--sizes", nargs="+", choices=("base", "large"), default=["base", "large"])
        command.add_argument("--arms", nargs="+")
        command.add_argument("--remove", type=float, default=0.5)
        command.add_argument("--freeze", type=float, default=0.75)
        command.add_argument("--rows", type=int, default=32)
        command.add_argument("--length", type=int, default=128)
        command.add_argument("--tokens", type=int, default=8000, help="token embeddings that occur in the texts")
        command.add_argument("--shrink", type=json.loads, default={}, help='sizes as JSON, {"vocab": 500, "depth": 2}')
        if name == "limit":
            command.add_argument("--bytes", type=float, required=True, help="what the device has")
        else:
            command.add_argument("--out", type=Path)
        command.set_defaults(call=call)
    command = commands.add_parser("table")
    command.add_argument("files", nargs="+", type=Path)
    command.set_defaults(call=table)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
