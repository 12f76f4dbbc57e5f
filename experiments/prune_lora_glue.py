"""Prune-LoRA on GLUE beside full fine-tuning, LoRA and K-prune: one JSON line a run, appended as results come.

    python experiments/prune_lora_glue.py arms --model build/models/minilm --tasks mrpc --seeds 0 1 2 \
        --data ../shared/data/glue --out experiments/results/prune_lora.jsonl
    python experiments/prune_lora_glue.py equal --model build/models/minilm-mrpc --tasks mrpc --seeds 0 \
        --data ../shared/data/glue --out experiments/results/prune_lora_equal.jsonl
    python experiments/prune_lora_glue.py accounting          # the paper's arithmetic on BERT-base
    python experiments/prune_lora_glue.py memory              # peak training bytes at 32 x 128, by compiled programs
    python experiments/prune_lora_glue.py table FILE…         # Markdown, means and spread over seeds

`arms` starts from a pretrained encoder with a new head; `equal` from a checkpoint that is tuned for the task, and asks
what a little training buys at the same inference FLOPs. Scores are those of the last epoch on the validation texts:
nothing is chosen on them. WNLI is worth one run at most: its 71 validation texts contradict the training texts, and
every score other than the majority's 0.563 is noise.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

# --- the arms, as data: how each starts and how it trains


@dataclass(frozen=True)
class Arm:
    """One way from a checkpoint to a tuned model."""

    kprune: float | None = None  # share of the FLOPs that K-prune removes first
    lora: Mapping[str, Any] | None = None  # settings of Lora
    prune_lora: Mapping[str, Any] | None = None  # settings of PruneLora; "preset" names where to start
    training: Mapping[str, Any] = field(default_factory=dict)  # settings of Train
    train: bool = True
    distil: bool = False  # from the model it starts from


LOW = MappingProxyType({"rank": 4})
ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "full": Arm(),
        "LoRA": Arm(lora=LOW),
        "Prune-LoRA published": Arm(prune_lora={"preset": "published"}),
        "Prune-LoRA, head warm-up": Arm(prune_lora={}),
        "Prune-LoRA + neurons": Arm(prune_lora={"remove_neurons": 0.3}),
        "Prune-LoRA + neurons, rank budget": Arm(prune_lora={"remove_neurons": 0.3, "rank_budget": 60_000}),
        "Prune-LoRA, fisher": Arm(prune_lora={"score": "fisher"}),
        "Prune-LoRA, random": Arm(prune_lora={"score": "random"}),
        "K-prune, then Prune-LoRA": Arm(kprune=0.3, prune_lora={"remove_heads": 0.0, "head_steps": 0}),
    }
)
STANDARD = (
    "full", "LoRA", "Prune-LoRA published", "Prune-LoRA, head warm-up", "Prune-LoRA + neurons",
    "K-prune, then Prune-LoRA",
)  # fmt: skip
DISTIL = MappingProxyType({"distill": 0.5, "distill_hidden": 1.0, "epochs": 1})
EQUAL: Mapping[str, Arm] = MappingProxyType(
    {
        f"{name}, {share:.0%}": replace(arm, kprune=share)
        for share in (0.5, 0.7)
        for name, arm in {
            "K-prune alone": Arm(train=False),
            "K-prune, 1 epoch LoRA": Arm(
                lora={"rank": 8, "projections": ("q", "k", "v", "o", "up", "down")}, training={"epochs": 1}
            ),
            "K-prune, 1 epoch full + distillation": Arm(training=DISTIL, distil=True),
        }.items()
    }
)


# --- runs


def run(args: argparse.Namespace) -> None:
    import jaxprune as jp

    arms = ARMS if args.command == "arms" else EQUAL
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.tasks:
        task = jp.tasks.load(name, args.data)
        order = np.random.RandomState(0).permutation(len(task.train))[: args.train_limit]
        task = replace(
            task, train=tuple(task.train[i] for i in np.sort(order)), validation=task.validation[: args.score_limit]
        )
        for seed in args.seeds:
            for arm in args.arms or (STANDARD if args.command == "arms" else tuple(EQUAL)):
                line = measure(arm, arms[arm], task, args, seed)
                with args.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                told = ("score", "seconds_per_epoch", "trainable_parameters", "inference_speedup")
                print(
                    f"{name} seed {seed} {arm}: " + ", ".join(f"{k} {line[k]}" for k in told if k in line), flush=True
                )


def start(task: Any, args: argparse.Namespace, seed: int) -> Any:
    """The checkpoint; for `arms` with a new head for the task."""
    import jaxprune as jp

    if args.command == "equal":
        return jp.load(args.model)
    return jp.load(args.model, head="classification", labels=task.labels, problem=task.kind, seed=seed)


def measure(name: str, arm: Arm, task: Any, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    import jaxprune as jp
    from jaxprune.finetuning.prune_lora import warm_head
    from jaxprune.pruning.cost import whole_parameters

    base, began = start(task, args, seed), time.perf_counter()
    training = jp.Train(**{"epochs": args.epochs, "keep": "last", "seed": seed, **arm.training})
    if args.epochs < training.epochs:
        training = replace(training, epochs=args.epochs)
    model = base
    if arm.kprune is not None:
        if args.command == "arms":  # K-prune asks the model's own predictions: a random head has none
            model = warm_head(model, task, jp.PruneLora(), training, None)
        calibration = task.calibration(min(512, len(task.train)), seed=seed)
        model = jp.kprune(model, calibration, jp.Budget(arm.kprune, length=args.length))
    if arm.prune_lora is not None:
        given = dict(arm.prune_lora)
        settings = replace(jp.PruneLora.presets().get(given.pop("preset", ""), jp.PruneLora()), **given)
        tuned = jp.prune_lora(model, task, settings, training)
    elif arm.train:
        lora = None if arm.lora is None else jp.Lora(**arm.lora)
        tuned = jp.finetune(model, task, training, lora=lora, teacher=base if arm.distil else None)
    else:
        tuned = model
    total = time.perf_counter() - began
    score = jp.evaluate(tuned, task)
    speed = jp.bench(base, tuned, rows=args.rows, length=args.length, repeats=args.repeats)
    record = tuned.provenance.record
    notes = record.get("training", {})
    line = {
        "task": task.name,
        "model": Path(args.model).name,
        "arm": name,
        "seed": seed,
        "epochs": training.epochs if arm.train else 0,
        "texts": len(task.train),
        "score": score.score,
        "metric": score.metric,
        "metrics": score.metrics,
        "examples": score.examples,
        "parameters": whole_parameters(tuned.architecture),
        "dense_parameters": whole_parameters(base.architecture),
        "heads": [size.heads for size in tuned.architecture.layers],
        "neurons": [size.neurons for size in tuned.architecture.layers],
        "inference_seconds": speed.pruned_seconds,
        "dense_inference_seconds": speed.dense_seconds,
        "inference_speedup": speed.speedup,
        "inference_shape": [args.rows, args.length],
        "flops_ratio": speed.flops_ratio,
        "seconds": total,
        "command": " ".join(["python", *sys.argv]),
        "versions": versions(),
        "machine": machine(),
    }
    for key in (
        "trainable_parameters",
        "bytes",
        "seconds_per_epoch",
        "compile_seconds",
        "merged_vs_unmerged",
        "epochs",
    ):
        if key in notes:
            line["epoch_records" if key == "epochs" else key] = notes[key]
    for key in ("masked_vs_cut", "phases", "ranks", "pruned_heads", "removed", "settings", "warnings"):
        if key in record:
            line[key] = record[key]
    if args.pictures and "importance" in record:
        jp.heat_map(tuned, args.pictures / f"{task.name}-{name.replace(' ', '-').replace(',', '')}-{seed}.png")
    return line


# --- accounting and memory: BERT-base, whose weights are not needed


def bert_base() -> Any:
    from jaxprune.model import Architecture, LayerSizes

    return Architecture(
        family="bert", vocab=30522, hidden=768, head_width=64, layers=(LayerSizes(groups=12, neurons=3072),) * 12,
        max_positions=512, token_types=2, pooler="tanh",
    )  # fmt: skip


def accounting(args: argparse.Namespace) -> None:
    """The paper's numbers, and the arithmetic that gives them."""
    from jaxprune.finetuning.lora import Lora, adapters_of, count, plan_of
    from jaxprune.model import parameter_shapes
    from jaxprune.pruning.cost import unit_costs, whole_parameters

    base = bert_base()
    whole, head = whole_parameters(base), unit_costs(base, "params")[0][0]
    tree = parameter_shapes(base)
    norms = 2 * (1 + 2 * len(tree["layers"])) * base.hidden

    def adapters(architecture: Any, lora: Any) -> int:
        return count(adapters_of(plan_of(lora, architecture), architecture).weights)

    low = adapters(base, Lora(rank=4))
    four = [f"layers/{index}/attention" for index in range(4)]
    two = adapters(base, Lora(rank=4, rank_pattern=tuple(f"{block}/[qv]=8" for block in four)))
    three = adapters(base, Lora(rank=4, rank_pattern=tuple(f"{block}/*=8" for block in four)))
    heads = round(0.3 * 144)
    rows = [
        ("parameters of the encoder, without a head", whole, "109.48 M"),
        ("one head: 4 · 768 · 64 weights + 3 · 64 biases", head, ""),
        ("heads removed: round(0.3 · 144)", heads, "43"),
        ("norms: 25 · 2 · 768", norms, ""),
        ("adapters, rank 4 on q, k, v: 12 · 3 · 4 · (768 + 768)", low, ""),
        ("trainable: adapters at rank 4 + norms", low + norms, "259,584"),
        ("adapters, rank 8 on q, k, v of 4 blocks", three, ""),
        ("trainable with it", three + norms, "308.7 k: not this"),
        ("adapters, rank 8 on two of q, k, v of 4 blocks", two, ""),
        ("trainable with it", two + norms, "308.7 k: this"),
        (f"pruned model with these adapters, unmerged: {whole:,} - {heads} · {head:,} + {two:,}",
         whole - heads * head + two, "101.29 M"),
        ("pruned model, merged", whole - heads * head, ""),
    ]  # fmt: skip
    print("| what | count | the paper |\n|---|---|---|")
    for what, number, paper in rows:
        print(f"| {what} | {number:,} | {paper} |")


def memory(args: argparse.Namespace) -> None:
    """Bytes of one training step at `rows` x `length`: counted exactly, and by the compiled program."""
    import jax
    import jax.numpy as jnp

    from jaxprune.finetuning.finetune import chooser
    from jaxprune.finetuning.lora import Lora, adapters_of, count, plan_of
    from jaxprune.finetuning.prune_lora import PruneLora, choose, rank_plan
    from jaxprune.finetuning.settings import Train
    from jaxprune.finetuning.step import everything, select
    from jaxprune.finetuning.training_bytes import compiled_step, training_bytes
    from jaxprune.model import Model, parameter_shapes
    from jaxprune.pruning.cut import cut_architecture

    def abstract(architecture: Any) -> Any:
        as_leaf = lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
        shapes = parameter_shapes(architecture)
        return Model(architecture, jax.tree.map(as_leaf, shapes, is_leaf=lambda node: isinstance(node, tuple)))

    base = replace(bert_base(), head="classification", labels=("no", "yes"), **args.shrink)
    settings, random = PruneLora(), np.random.RandomState(0)
    heads = [random.rand(size.groups) for size in base.layers]
    neurons = [random.rand(size.neurons) for size in base.layers]
    cases: dict[str, tuple[Any, Any]] = {"full": (base, None), "LoRA, rank 4": (base, plan_of(Lora(rank=4), base))}
    for name, share in (("Prune-LoRA published", 0.0), ("Prune-LoRA + neurons", 0.3)):
        small = cut_architecture(base, choose(heads, neurons, base, replace(settings, remove_neurons=share)))
        cases[name] = small, rank_plan(heads, small, settings)
    print(f"| {args.rows} x {args.length}, dropout 0.1 | parameters | gradients | moments | activations and workspace |"
          " sum | of full | predicted |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    first = None
    for name, (architecture, plan) in cases.items():
        model = abstract(architecture)
        adapters = None if plan is None else adapters_of(plan, architecture)
        chosen = everything if plan is None else chooser(model, Lora().train)
        step = compiled_step(model, args.rows, args.length, Train(), trainable=chosen, adapters=adapters)
        parts = select(model.params, chosen)[0], [] if adapters is None else adapters.weights
        found = training_bytes(
            model, parts, args.rows, args.length, Train(), int(step.memory_analysis().temp_size_in_bytes)
        )
        first = first or found["measured"]
        mega = {key: value / 2**20 for key, value in found.items()}
        cells = [mega[key] for key in ("parameters", "gradients", "moments")]
        cells += [mega["temporaries"] - mega["gradients"], mega["measured"]]
        line = " | ".join(f"{cell:,.0f}" for cell in cells)
        print(
            f"| {name} ({count(parts):,} trainable) | {line} | {found['measured'] / first:.2f}"
            f" | {mega['predicted']:,.0f} |",
            flush=True,
        )
        if args.out:
            with args.out.open("a") as file:
                line = {"kind": "memory", "arm": name, "rows": args.rows, "length": args.length, **found}
                file.write(json.dumps(line | {"trainable": count(parts), "versions": versions()}) + "\n")


# --- the table


def table(args: argparse.Namespace) -> None:
    """Markdown: the mean over seeds, single seeds in brackets; times and bytes relative to full in the same file."""
    lines = [json.loads(line) for file in args.files for line in file.read_text().splitlines()]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        groups[line["task"], line["arm"]].append(line)
    print("| task | arm | score | parameters | trainable | bytes, of full (predicted) | epoch, of full |"
          " inference, of dense | merged − unmerged |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for (task, arm), runs in groups.items():
        full = {run["seed"]: run for run in groups.get((task, "full"), [])}

        def relative(value: Callable[[dict[str, Any]], float], runs: Any = runs, full: Any = full) -> float | None:
            pairs = [(run, full[run["seed"]]) for run in runs if run["seed"] in full and "bytes" in run]
            return float(np.mean([value(run) / value(other) for run, other in pairs])) if pairs else None

        scores = [run["score"] for run in runs]
        cells = [
            f"{np.mean(scores):.4f}" + (f" ({' '.join(f'{s:.4f}'[1:] for s in scores)})" if len(scores) > 1 else ""),
            f"{np.mean([run['parameters'] for run in runs]) / 1e6:.2f} M",
            f"{np.mean([run['trainable_parameters'] for run in runs]):,.0f}" if "bytes" in runs[0] else "–",
            shown(relative(lambda run: run["bytes"]["measured"]))
            + f" ({shown(relative(lambda run: run['bytes']['predicted']))})",
            shown(relative(lambda run: run["seconds_per_epoch"])),
            shown(float(np.mean([1 / run["inference_speedup"] for run in runs]))),
            f"{max(run['merged_vs_unmerged'] for run in runs):.0e}" if "merged_vs_unmerged" in runs[0] else "–",
        ]
        print(f"| {task} | {arm} | " + " | ".join(cells) + " |")


def shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


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
    for name, arms in (("arms", ARMS), ("equal", EQUAL)):
        command = commands.add_parser(name)
        command.add_argument("--model", required=True)
        command.add_argument("--tasks", nargs="+", required=True)
        command.add_argument("--data", required=True)
        command.add_argument("--arms", nargs="+", choices=tuple(arms))
        command.add_argument("--seeds", nargs="+", type=int, default=[0])
        command.add_argument("--epochs", type=int, default=3)
        command.add_argument("--train-limit", type=int, help="so many training texts, drawn once for all seeds")
        command.add_argument("--score-limit", type=int)
        command.add_argument("--rows", type=int, default=32, help="of the inference timing")
        command.add_argument("--length", type=int, default=64, help="of the inference timing and of counted FLOPs")
        command.add_argument("--repeats", type=int, default=10)
        command.add_argument("--pictures", type=Path, help="a folder for heat maps")
        command.add_argument("--out", type=Path, required=True)
        command.set_defaults(call=run)
    command = commands.add_parser("accounting")
    command.set_defaults(call=accounting)
    command = commands.add_parser("memory")
    command.add_argument("--rows", type=int, default=32)
    command.add_argument("--length", type=int, default=128)
    command.add_argument("--shrink", type=json.loads, default={}, help='fields of Architecture as JSON, {"vocab": 500}')
    command.add_argument("--out", type=Path)
    command.set_defaults(call=memory)
    command = commands.add_parser("table")
    command.add_argument("files", nargs="+", type=Path)
    command.set_defaults(call=table)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
