"""Embedding models pruned without training: similarity, search and speed, one JSON line a model.

    python experiments/embeddings.py --model build/models/minilm --sections stsb --methods kprune --seeds 0 1 2
    python experiments/embeddings.py --model build/models/minilm --sections c4 banking77 --methods kprune --seeds 0
    python experiments/embeddings.py --sections pairs --remove 0.8 --seeds 0 --train pairs,learning_rate=1e-4 recover
    python experiments/embeddings.py --write experiments/results/embeddings.md

Sections: `stsb` calibrates on 512 sentences of STS-B's training pairs, without their scores, and scores the validation
pairs by Spearman's correlation of cosines; `c4` does so after calibrating on 512 texts of C4; `banking77` prunes as
`stsb` does and finds for every test query of Banking77 its nearest training text; `speed` times vectors per second,
dense and pruned. `pairs` prunes as `stsb` does and then trains, by `--train`: `pairs` on STS-B's training pairs with a
score of 4 or more, one epoch of multiple negatives ranking loss; `recover` on its training sentences without labels,
towards the dense model's vectors. `choose` and `choose-pairs` compare settings (--set depth_ratio=3 …) on training
pairs that no calibration and no training has seen, on which settings are chosen; with --keep FOLDER all of them go on
from one measurement (K-prune's), and what they say of seconds is not the cost of a run. Lines are appended, so that
sections and seeds can be run in any order; a line that is there is not run again.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

SECTIONS = ("stsb", "c4", "banking77", "speed", "pairs", "choose", "choose-pairs")
TRAINED = ("pairs", "choose-pairs")  # sections in which the pruned model is trained
ALIKE = 4.0  # the score from which on two sentences of STS-B belong together
HELD_OUT, COUNT = 1500, 512  # pairs to choose settings on; calibration texts
OUT = Path("experiments/results/embeddings.jsonl")


def methods() -> dict[str, Any]:
    import jaxprune as jp

    return {"kprune": jp.KPrune(), "fisher": jp.Fisher(), "magnitude": jp.Magnitude(), "random": jp.Random()}


def changed(settings: Any, entries: list[str]) -> Any:
    """Settings with "field=value" changed: numbers and truth values."""
    changes = {}
    for name, _, value in (entry.partition("=") for entry in entries):
        number = float(value) if value[-1].isdigit() else value
        kind = type(getattr(settings, name))
        changes[name] = {"True": True, "False": False}.get(value, int(value) if kind is int else number)
    return replace(settings, **changes)


def held_out(task: Any) -> tuple[Any, list[str]]:
    """Training pairs that score settings, and the sentences that none of them has: to calibrate on."""
    order = np.random.RandomState(1234).permutation(len(task.train))
    pairs = tuple(task.train[row] for row in order[:HELD_OUT])
    seen = {text for pair in pairs for text in (pair.text, pair.pair)}
    rest = dict.fromkeys(text for row in order[HELD_OUT:] for text in (task.train[row].text, task.train[row].pair))
    return replace(task, validation=pairs), [text for text in rest if text not in seen]


def trained(small: Any, dense: Any, entry: str, args: argparse.Namespace, without: set[str]) -> Any:
    """The pruned model after what `entry` says, "pairs" or "recover" and settings; no text is one of `without`."""
    import jaxprune as jp

    way, *given = entry.split(",")
    task = jp.tasks.pairs(args.data / "glue" / "stsb", min_score=ALIKE)
    if way == "recover":
        every = jp.tasks.sts(args.data / "glue" / "stsb").train
        texts = dict.fromkeys(text for pair in every for text in (pair.text, pair.pair) if text not in without)
        return changed(jp.Recover(jp.Calibration.of_texts(list(texts))), given)(small, dense)
    kept = tuple(pair for pair in task.train if not without.intersection((pair.text, pair.pair)))
    settings = changed(jp.Train(epochs=1, keep="last"), given)
    return jp.finetune(small, replace(task, train=kept), settings, teacher=dense if settings.distills else None)


def trained_lines(args: argparse.Namespace, section: str, done: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """One line for every way of training after pruning."""
    import jaxprune as jp

    model, stsb = jp.load(args.model), jp.tasks.sts(args.data / "glue" / "stsb")
    chosen_on, sentences = held_out(stsb)
    choosing = section == "choose-pairs"
    scored, without = stsb, set[str]()
    if choosing:
        scored, without = chosen_on, {text for pair in chosen_on.validation for text in (pair.text, pair.pair)}
    dense = None
    for seed in args.seeds:
        for remove in args.remove:
            key = {"model": Path(args.model).name, "section": section, "method": "kprune"}
            todo = [entry for entry in args.train if (*key.values(), str([entry]), str(seed), remove) not in done]
            if not todo:
                continue
            rows = np.random.RandomState(seed).choice(len(sentences), COUNT, replace=False)
            texts = (
                jp.Calibration.of_texts([sentences[row] for row in rows]) if choosing else stsb.calibration(COUNT, seed)
            )
            small = jp.prune(model, texts, jp.Budget(remove), jp.KPrune(seed=seed))
            dense = jp.evaluate(model, scored).score if dense is None else dense
            before = jp.evaluate(small, scored).score
            for entry in todo:
                began = time.perf_counter()
                after = trained(small, model, entry, args, without)
                seconds = time.perf_counter() - began
                notes = after.provenance.record
                yield {
                    **key,
                    "set": [entry],
                    "seed": seed,
                    "remove": remove,
                    "removed": {"flops": small.report.removed.flops, "params": small.report.removed.params},
                    "dense": dense,
                    "before": before,
                    "score": jp.evaluate(after, scored).score,
                    "seconds": seconds,
                    "texts": notes["training" if entry.startswith("pairs") else "recovery"]["texts"],
                }


def nearest_accuracy(model: Any, data: Path) -> float:
    """The share of Banking77's test queries whose nearest training text has their label."""
    import jaxprune as jp
    from jaxprune.evaluation.similarity import nearest

    rows = {
        split: [json.loads(line) for line in (data / "banking77" / f"{split}.jsonl").read_text().splitlines()]
        for split in ("train", "test")
    }
    queries, texts = (jp.embed(model, [row["text"] for row in rows[split]]) for split in ("test", "train"))
    best = nearest(queries, texts, [None] * len(queries), 1)[:, 0]
    labels = {split: np.array([row["label"] for row in entries]) for split, entries in rows.items()}
    return float(np.mean(labels["train"][best] == labels["test"]))


def speeds(model: Any) -> dict[str, float]:
    """Vectors per second, the best of five rounds of a second, warm: by rows and tokens of a batch."""
    import jax

    import jaxprune as jp

    out = {}
    for rows, length in ((1, 32), (1, 128), (32, 32), (32, 128)):
        ids = np.random.RandomState(0).randint(1000, 2000, (rows, length))
        run = jax.jit(lambda params, ids: jp.logits(model.replace(params=params), ids))
        run(model.params, ids).block_until_ready()
        best = 0.0
        for _ in range(5):
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < 1:
                run(model.params, ids).block_until_ready()
                count += rows
            best = max(best, count / (time.perf_counter() - began))
        out[f"{rows}x{length}"] = best
    return out


def lines(args: argparse.Namespace, done: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    import jaxprune as jp

    model, stsb = jp.load(args.model), jp.tasks.sts(args.data / "glue" / "stsb")
    chosen_on, sentences = held_out(stsb)
    name = Path(args.model).name
    for section in args.sections:
        if section in TRAINED:
            yield from trained_lines(args, section, done)
            continue
        scored = chosen_on if section == "choose" else stsb

        def score(small: Any, section: str = section, scored: Any = scored) -> Any:
            if section == "banking77":
                return nearest_accuracy(small, args.data)
            return speeds(small) if section == "speed" else jp.evaluate(small, scored).score

        dense = None
        for method in args.methods:
            for seed in args.seeds:
                key = {"model": name, "section": section, "method": method, "set": args.set, "seed": seed}
                budgets = [jp.Budget(r) for r in args.remove if (*map(str, key.values()), r) not in done]
                if not budgets:
                    continue
                settings = methods()[method]
                settings = replace(settings, seed=seed) if hasattr(settings, "seed") else settings
                settings = changed(settings, args.set)
                if section == "c4":
                    file = args.data / "text" / "c4" / "calibration.jsonl"
                    texts = jp.Calibration.of_file(file, COUNT, seed)
                elif section == "choose":
                    rows = np.random.RandomState(seed).choice(len(sentences), COUNT, replace=False)
                    texts = jp.Calibration.of_texts([sentences[row] for row in rows])
                else:
                    texts = stsb.calibration(COUNT, seed=seed)
                dense = score(model) if dense is None else dense
                kept = {} if args.keep is None else {"out": args.keep / f"{name}_{section}_{seed}", "resume": True}
                for small in jp.prune(model, texts, budgets, settings, **kept):
                    report = small.report
                    yield {
                        **key,
                        "remove": report.budget.remove if report.budget else None,
                        "removed": {"flops": report.removed.flops, "params": report.removed.params},
                        "dense": dense,
                        "score": score(small),
                        "seconds": report.seconds,
                        "phases": small.provenance.record["phases"],
                        "dense_forwards": report.dense_forwards,
                        "peak_bytes": report.peak_bytes,
                        "masked_vs_cut": report.masked_vs_cut,
                    }


def seen(file: Path) -> set[tuple[Any, ...]]:
    """What lines there are: model, section, method, settings, seed, budget."""
    if not file.exists():
        return set()
    names = ("model", "section", "method", "set", "seed")
    return {
        (*(str(line[name]) for name in names), line["remove"])
        for line in map(json.loads, file.read_text().splitlines())
    }


def measure(args: argparse.Namespace) -> None:
    import jax

    import jaxprune as jp

    about = {
        "command": " ".join(["python", *sys.argv]),
        "versions": {"jaxprune": jp.__version__, "jax": jax.__version__, "numpy": np.__version__},
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
    }
    for line in lines(args, seen(args.out)):
        with args.out.open("a") as file:
            file.write(json.dumps({**line, **about}) + "\n")
        print({key: line[key] for key in ("section", "method", "set", "seed", "remove", "dense", "score")}, flush=True)


# --- the page


def table(rows: list[dict[str, Any]], digits: int = 4) -> list[str]:
    """Means over seeds, and the seeds, by method and budget."""
    scores: dict[str, dict[float, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row["section"] in TRAINED:
            scores[f"{row['method']}, not trained"][row["remove"]][row["seed"]] = row["before"]
        label = " ".join([row["method"], *row["set"]])
        scores[label][row["remove"]][row["seed"]] = row["score"]
    budgets = sorted({row["remove"] for row in rows})
    out = [
        "| method | " + " | ".join(f"{budget:.0%} removed" for budget in budgets) + " |",
        "|---|" + "---|" * len(budgets),
    ]
    for label, by_budget in scores.items():
        cells = []
        for budget in budgets:
            each = [by_budget[budget][seed] for seed in sorted(by_budget.get(budget, {}))]
            shown = " ".join(f"{score:.{digits}f}".removeprefix("0") for score in each)
            cells.append("–" if not each else f"{np.mean(each):.{digits}f}" + (f" ({shown})" if len(each) > 1 else ""))
        out.append(f"| {label} | " + " | ".join(cells) + " |")
    return out


def cost(line: dict[str, Any]) -> str:
    """What a first budget took, for which everything is measured."""
    phases = ", ".join(f"{name} {seconds:.0f}" for name, seconds in line["phases"].items() if seconds >= 1)
    return (
        f"K-prune's first budget took {line['seconds']:.0f} s beside other work ({phases}), "
        f"{line['dense_forwards']:.1f} times a dense forward pass over its texts, and {line['peak_bytes'] / 1e9:.2f} "
        "GB at its peak."
    )


TRIED = "## What was tried"  # from there on a page is written by hand, and stays


SAID = {
    "stsb": "Spearman's correlation on STS-B's validation pairs, calibrated on 512 sentences of its training pairs",
    "c4": "The same, calibrated on 512 texts of C4",
    "banking77": "Banking77: test queries whose nearest training text has their label, calibrated as for STS-B",
    "pairs": "STS-B's validation pairs again, after training the pruned model: on pairs of sentences that belong "
    "together (`pairs`), or on sentences without labels towards the dense model's vectors (`recover`)",
    "choose-pairs": "The same on 1,500 training pairs that neither calibration nor training has seen: settings were "
    "chosen here",
    "choose": "Spearman's correlation on 1,500 training pairs that no calibration has seen: settings were chosen here",
}


def page(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    out = [
        "# Embedding models",
        "",
        "Made from `embeddings.jsonl` by `python experiments/embeddings.py --write FILE`.",
        "",
    ]
    for model in dict.fromkeys(row["model"] for row in rows):
        for section in SECTIONS:
            some = [row for row in rows if row["model"] == model and row["section"] == section]
            if not some:
                continue
            last = some[-1]
            about = f"`{last['command']}`, jax {last['versions']['jax']}, {last['machine']}."
            if section == "speed":
                out += [f"## {model}: vectors per second, rows x tokens of a batch", ""]
                out += ["| | " + " | ".join(last["dense"]) + " |", "|---|" + "---|" * len(last["dense"])]
                for name, speed in [
                    ("dense", last["dense"]),
                    *((f"{r['remove']:.0%} removed", r["score"]) for r in some),
                ]:
                    out.append(f"| {name} | " + " | ".join(f"{value:.0f}" for value in speed.values()) + " |")
            else:
                out += [f"## {model}: {section}", "", f"{SAID[section]}. Dense: {last['dense']:.4f}.", ""]
                out += [f"<!-- {model} {section} -->", *table(some), f"<!-- /{model} {section} -->"]
                calls = (row for row in some if row["method"] == "kprune" and section == "stsb")
                first = next((row for row in calls if "measure" in row.get("phases", ())), None)
                if first is not None:
                    out += ["", cost(first)]
            out += ["", f"Last line by {about}", ""]
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="build/models/minilm")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=["stsb"])
    parser.add_argument("--methods", nargs="+", default=["kprune", "fisher", "magnitude", "random"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--remove", type=float, nargs="+", default=[0.4, 0.6, 0.8])
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="settings of the method")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for measurements, which later runs go on from")
    parser.add_argument(
        "--train", nargs="+", default=["pairs", "recover"], metavar="WAY,FIELD=VALUE", help="sections that train: how"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--write", type=Path, metavar="FILE", help="make the page of the lines in --out")
    args = parser.parse_args()
    if args.write is not None:
        before = args.write.read_text() if args.write.exists() else ""
        kept = f"\n{before[before.index(TRIED) :]}" if TRIED in before else ""
        args.write.write_text(page([json.loads(line) for line in args.out.read_text().splitlines()]) + kept)
    else:
        measure(args)


if __name__ == "__main__":
    main()
