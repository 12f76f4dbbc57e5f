"""What training a language model needs on the device, by compiled programs alone: no weights are made.

    python experiments/memory_lm.py --sizes 1b 8b --out experiments/results/memory_lm.jsonl

Shapes of Llama 3.2 1B and Llama 3.1 8B, 8 rows of 512 tokens, products in bfloat16, layers recomputed: full, LoRA, and
RECAP with half of every sublayer pruned and three quarters of the rest frozen, its weights at rest and its moments in
float32 or in bfloat16. Predicted bytes beside those of the compiled step; of RECAP also those on the host, beside the
model that is handed in (predicted alone). `--again FILE` works predictions out anew beside what was compiled for that
file; `--table FILE` prints what came.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

SIZES = {
    "1b": {"hidden": 2048, "head_width": 64, "depth": 16, "neurons": 8192, "tied": True},
    "8b": {"hidden": 4096, "head_width": 128, "depth": 32, "neurons": 14336, "tied": False},
}
GIGA = 1e9


def llama(hidden: int, head_width: int, depth: int, neurons: int, tied: bool):
    """The architecture of a Llama 3 of these sizes: 8 groups of 4 query heads, 128,256 tokens."""
    from jaxprune.model import Architecture, LayerSizes

    return Architecture(
        family="llama", vocab=128256, hidden=hidden, head_width=head_width, max_positions=8192, tied=tied,
        layers=(LayerSizes(groups=8, queries=4, neurons=neurons),) * depth, positions="rotary",
        rotary=(1.0,) * (head_width // 2), embed_norm=False, norm="rms", norm_position="pre", norm_eps=1e-5,
        activation="silu", gated=True, attention_bias=False, output_bias=False, feed_forward_bias=False,
        down_bias=False, causal=True, head="causal_lm", head_bias=False, dropout=0.0,
    )  # fmt: skip


def cases() -> dict[str, tuple[Any, Any]]:
    import jaxprune as jp

    still = jp.Train(dropout=0.0, dtype="bfloat16", remat=True)
    recap = jp.Recap(remove=0.5, freeze=0.75, outer="frozen")
    return {
        "full": (None, still),
        "full, bfloat16 moments": (None, replace(still, moments_dtype="bfloat16")),
        "LoRA": ("lora", still),
        "LoRA, bfloat16 at rest": ("lora", replace(still, frozen_dtype="bfloat16")),
        "RECAP": (recap, still),
        "RECAP, bfloat16 at rest and moments": (
            recap,
            replace(still, frozen_dtype="bfloat16", moments_dtype="bfloat16"),
        ),
    }


def of_case(
    dense: Any, settings: Any, training: Any, rows: int, length: int, known: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Predicted and compiled bytes of a training step, by phase for RECAP; the latter from a line that is `known`."""
    from jax.numpy import bfloat16

    from jaxprune.finetuning.finetune import chooser
    from jaxprune.finetuning.lora import Lora, adapters_of, plan_of
    from jaxprune.finetuning.masters import result_types
    from jaxprune.finetuning.recap.phase_bytes import (
        abstract,
        abstract_parts,
        host_bytes,
        least_frozen,
        measured_bytes,
        phase_bytes,
        uniform,
    )
    from jaxprune.finetuning.recap.tuning import ever_trains, trainable_of
    from jaxprune.finetuning.step import everything, merge, select
    from jaxprune.finetuning.training_bytes import compiled_step, training_bytes
    from jaxprune.model import Model

    began, phases, compiled, host = time.perf_counter(), {}, {}, {}
    if settings is None or settings == "lora":
        model, adapters, chosen = Model(dense, abstract(dense)), None, everything
        if settings == "lora":
            adapters, chosen = adapters_of(plan_of(Lora(rank=16), dense), dense), chooser(model, ())
    else:
        small = uniform(dense, settings.remove)
        model, adapters, chosen = Model(small, abstract_parts(small, least_frozen(settings))), None, None
        chosen = trainable_of(settings, small)
        half = result_types(abstract(small), bfloat16) if training.frozen_dtype else None  # a model that came in halves
        phases = phase_bytes(dense, small, settings, training, rows, length, results=half)
        compiled = known["compiled phases"] if known else {}
        compiled = compiled or measured_bytes(dense, small, settings, training, rows, length, results=half)
        trains, constant = select(abstract(dense), ever_trains(settings, dense))
        results = half or result_types(abstract(small), None)
        state = merge(result_types(trains, None), result_types(constant, bfloat16 if half else None))
        for moments in ("carried", "bfloat16", "dropped"):
            kept = replace(settings, moments=moments)
            host[moments] = max(host_bytes(dense, small, kept, training, state, results).values())
    parts = select(model.params, chosen)[0], [] if adapters is None else adapters.weights
    of_step = lambda temp: training_bytes(model, parts, rows, length, training, temp)  # noqa: E731
    if known:
        temp = known["temporaries"]
    elif compiled:
        temp = compiled["tuning"] - of_step(0)["measured"]
    else:
        step = compiled_step(model, rows, length, training, trainable=chosen, adapters=adapters)
        temp = int(step.memory_analysis().temp_size_in_bytes)
    seconds = time.perf_counter() - began
    taken = {"compile_seconds": seconds} if known is None else {}
    return {**of_step(temp), "phases": phases, "compiled phases": compiled, "host": host, **taken}


def predict_again(file: Path) -> None:
    """Put today's predictions beside what was compiled for the lines of a file."""
    lines = []
    for line in map(json.loads, file.read_text().splitlines()):
        dense = llama(**SIZES[line["size"]] | {"depth": line["depth"]})  # type: ignore[arg-type]
        lines.append(line | of_case(dense, *cases()[line["arm"]], line["rows"], line["length"], line))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def print_table(file: Path) -> None:
    print(
        "| model | arm | weights | moments | predicted | compiled | of it | RECAP's other phases (compiled) "
        "| on the host: moments carried, in bfloat16, dropped |"
    )
    print("|---" * 9 + "|")
    for line in map(json.loads, file.read_text().splitlines()):
        giga = {name: f"{line[name] / GIGA:.1f}" for name in ("parameters", "moments", "predicted", "measured")}
        rest = {name: value for name, value in line["phases"].items() if name != "tuning" and value}
        took = line.get("compiled phases", {})
        told = (f"{name} {value / GIGA:.1f} ({took[name] / GIGA:.1f})" for name, value in rest.items())
        print(
            f"| {line['size'].upper()} | {line['arm']} | {' | '.join(giga.values())} "
            f"| {line['predicted'] / line['measured']:.2f} "
            f"| {', '.join(told)} | {', '.join(f'{value / GIGA:.1f}' for value in line.get('host', {}).values())} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--depth", type=int, help="so many layers only, for a quick look")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--again", type=Path, metavar="FILE")
    parser.add_argument("--table", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.table:
        return print_table(args.table)
    if args.again:
        return predict_again(args.again)
    for size in args.sizes:
        dense = llama(**SIZES[size] | ({"depth": args.depth} if args.depth else {}))  # type: ignore[arg-type]
        for name, case in cases().items():
            if args.arms and name not in args.arms:
                continue
            found = of_case(dense, *case, args.rows, args.length)
            line = {"size": size, "arm": name, "rows": args.rows, "length": args.length, "depth": len(dense.layers)}
            line |= {**found, "command": " ".join(["python", *sys.argv])}
            both = found["phases"], found["compiled phases"]
            phases = {phase: [round(each[phase] / GIGA, 2) for each in both] for phase in both[0]}
            predicted, measured = found["predicted"] / GIGA, found["measured"] / GIGA
            print(f"{size} {name}: predicted {predicted:.2f} GB, compiled {measured:.2f}; {phases}", flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    return None


if __name__ == "__main__":
    main()
