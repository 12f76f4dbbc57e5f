"""A small ViT on scikit-learn's digits (1,797 images of 8 x 8): trained, pruned, tuned; one JSON line a run, appended.

    python experiments/digits.py run --out experiments/results/digits.jsonl     # goes on where it stopped
    python experiments/digits.py table experiments/results/digits.jsonl         # writes digits.md beside it

1,000 images train and calibrate, 397 choose (learning rates, the epoch that is kept), 400 are reported, once.
`dense` trains on all ten digits from random weights; `prune` removes FLOPs of it without training; `tune` starts from a
model that knows 0 to 4 alone, gives it a new head for all ten, and tunes it in full, pruned once, or by RECAP,
at equal epochs. Device bytes are the peaks of what lives on the device in a run's phases, and its temporaries.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

SPLITS = {"train": 1000, "validation": 397, "test": 400}
SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192}
RATES = (1e-3, 3e-3)  # among which validation images choose
TUNE_RATES = (1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2)
REMOVE, FURTHER, ROUNDS = 0.5, 0.8, 3


def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images as bytes, and labels, by split; which image is in which is drawn with seed 0."""
    from sklearn.datasets import load_digits

    there: Any = load_digits()
    pixels, labels = np.round(there.images * (255 / 16)).astype(np.uint8), there.target.astype(np.int64)
    order, out, at = np.random.RandomState(0).permutation(len(labels)), {}, 0
    for split, count in SPLITS.items():
        rows = order[at : at + count]
        out[split], at = (pixels[rows], labels[rows]), at + count
    return out


def write_task(folder: Path, below: int = 10) -> Any:
    """The task of the digits below a number."""
    import jaxprune as jp

    folder.mkdir(parents=True)
    for split, (pixels, labels) in digits().items():
        few = labels < below
        np.savez(folder / f"{split}.npz", images=pixels[few], labels=labels[few])
    return jp.tasks.images(folder)


def write_model(folder: Path, labels: int, seed: int) -> Path:
    """A ViT of random weights as a folder of Hugging Face: patches of 2 x 2, 17 tokens, about 87,000 parameters."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    hidden, neurons = SIZES["hidden_size"], SIZES["intermediate_size"]
    config = {
        "model_type": "vit", "architectures": ["ViTForImageClassification"], **SIZES, "image_size": 8, "patch_size": 2,
        "num_channels": 1, "id2label": {str(number): str(number) for number in range(labels)},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    processor = {"image_processor_type": "ViTImageProcessor", "size": 8, "image_mean": 0.5, "image_std": 0.5}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    random, tensors = np.random.RandomState(seed), {}

    def draw(name: str, *shape: int) -> None:
        tensors[name] = random.normal(0, 0.02, shape).astype(np.float32)

    def dense(name: str, outputs: int, *inputs: int) -> None:
        draw(f"{name}.weight", outputs, *inputs)
        tensors[f"{name}.bias"] = np.zeros(outputs, np.float32)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = np.ones(hidden, np.float32), np.zeros(hidden, np.float32)

    draw("vit.embeddings.cls_token", 1, 1, hidden)
    draw("vit.embeddings.position_embeddings", 1, 17, hidden)
    dense("vit.embeddings.patch_embeddings.projection", hidden, 1, 2, 2)
    for layer in (f"vit.encoder.layer.{number}" for number in range(SIZES["num_hidden_layers"])):
        for name in ("attention.query", "attention.key", "attention.value", "output.dense"):
            dense(f"{layer}.attention.{name}", hidden, hidden)
        dense(f"{layer}.intermediate.dense", neurons, hidden)
        dense(f"{layer}.output.dense", hidden, neurons)
        norm(f"{layer}.layernorm_before")
        norm(f"{layer}.layernorm_after")
    norm("vit.layernorm")
    dense("classifier", labels, hidden)
    save_file(tensors, folder / "model.safetensors")
    return folder


# --- runs


def scores(model: Any, task: Any) -> dict[str, float]:
    import jaxprune as jp

    return {split: jp.evaluate(model, task, split=split).score for split in ("validation", "test")}


def dense_model(args: argparse.Namespace, task: Any, labels: int, rate: float, seed: int) -> Any:
    """Trained from random weights; one that was trained before is read."""
    import jaxprune as jp

    saved = args.work / f"{labels}-labels-{rate:g}-{seed}"
    if not saved.exists():
        start = write_model(args.work / f"start-{labels}-{rate:g}-{seed}", labels, seed)
        jp.save(jp.finetune(jp.load(start), task, jp.Train(epochs=args.epochs, learning_rate=rate, seed=seed)), saved)
    return jp.load(saved)


def methods() -> Mapping[str, Any]:
    import jaxprune as jp

    return {
        "K-prune": jp.KPrune(),
        "K-prune, published": jp.KPrune.presets()["published"],
        "Fisher": jp.Fisher(),
        "magnitude": jp.Magnitude(),
        "random": jp.Random(),
    }


def arms() -> Mapping[str, Any]:
    """Ways to tune at equal epochs: None in full, else RECAP's settings; a single round prunes once."""
    import jaxprune as jp

    once = jp.Recap(rounds=1, remove=REMOVE, freeze=0.0)
    return {
        "full fine-tuning": None,
        "prune once, then tune": once,
        "RECAP": jp.Recap(rounds=ROUNDS, remove=REMOVE, freeze=0.75),
        "RECAP, half frozen": jp.Recap(rounds=ROUNDS, remove=REMOVE, freeze=0.5),
        "RECAP, nothing frozen": jp.Recap(rounds=ROUNDS, remove=REMOVE, freeze=0.0),
    }


def tuned(args: argparse.Namespace, base: Any, task: Any, settings: Any, rate: float, seed: int) -> tuple[Any, int]:
    """The tuned model, and the most bytes on the device."""
    import jaxprune as jp

    if settings is None:
        model = jp.finetune(base, task, jp.Train(epochs=args.tune_epochs, learning_rate=rate, seed=seed))
        training = model.provenance.record["training"]
        return model, max(training["bytes"]["measured"], training["peak_bytes"])
    settings = replace(settings, epochs_per_round=args.tune_epochs // settings.rounds)
    model = jp.recap(base, task, settings, jp.Train(learning_rate=rate, seed=seed))
    return model, model.provenance.record["training"]["peak_bytes"]


def best(rows: list[dict[str, Any]], **of: Any) -> float:
    """The learning rate with the highest validation score."""
    mine = [row for row in rows if all(row.get(name) == value for name, value in of.items())]
    return max(mine, key=lambda row: row["validation"])["rate"]


def lines(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every run that the file does not hold yet."""
    import jax

    import jaxprune as jp

    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    names = ("section", "method", "rate", "seed")
    done = {tuple(row[name] for name in names) for row in rows}

    def new(*key: Any) -> bool:
        return key not in done

    def said(key: tuple[Any, ...], model: Any, task: Any, report_test: bool, **more: Any) -> dict[str, Any]:
        both = scores(model, task)
        row = dict(zip(names, key, strict=True)) | more | {"validation": both["validation"]}
        row |= {"test": both["test"]} if report_test else {}
        rows.append(row)
        return row

    task = write_task(args.work / "ten")
    for rate in args.rates:
        if new(*(key := ("choose dense", "dense", rate, 0))):
            yield said(key, dense_model(args, task, 10, rate, 0), task, False)
    rate = best(rows, section="choose dense")
    for seed in args.seeds:
        asked = [f"{name}, {share:.0%}" for name in methods() for share in (REMOVE, FURTHER)]
        if not (new("dense", "dense", rate, seed) or any(new("prune", name, rate, seed) for name in asked)):
            continue
        dense = dense_model(args, task, 10, rate, seed)
        if new(*(key := ("dense", "dense", rate, seed))):
            yield said(key, dense, task, True)
        for name, method in methods().items():
            method = replace(method, seed=seed) if hasattr(method, "seed") else method
            keys = {share: ("prune", f"{name}, {share:.0%}", rate, seed) for share in (REMOVE, FURTHER)}
            budgets = [jp.Budget(remove=share) for share, key in keys.items() if new(*key)]
            for small in jp.prune(dense, task.calibration(512, seed=seed), budgets, method) if budgets else ():
                report = small.report
                shares = {"flops": report.removed.flops, "params": report.removed.params}
                more = {"removed": shares, "masked_vs_cut": report.masked_vs_cut, "seconds": report.seconds}
                assert report.budget is not None  # it was pruned
                yield said(keys[report.budget.remove], small, task, True, **more)
    half = write_task(args.work / "five", below=5)
    base = dense_model(args, half, 5, rate, 0)
    for name, settings in arms().items():
        for tune_rate in args.tune_rates:
            if new(*(key := ("choose tune", name, tune_rate, 0))):
                fresh = jp.load(str(base.provenance.source), labels=10, seed=0)
                yield said(key, tuned(args, fresh, task, settings, tune_rate, 0)[0], task, False)
        tune_rate = best(rows, section="choose tune", method=name)
        for seed in args.seeds:
            if new(*(key := ("tune", name, tune_rate, seed))):
                fresh = jp.load(str(base.provenance.source), labels=10, seed=seed)
                model, peak = tuned(args, fresh, task, settings, tune_rate, seed)
                parameters = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(model.params))
                yield said(key, model, task, True, device_bytes=peak, parameters=parameters)


def run(args: argparse.Namespace) -> None:
    import jax

    import jaxprune as jp

    about = {
        "command": " ".join(["python", *sys.argv]),
        "versions": {"jaxprune": jp.__version__, "jax": jax.__version__, "numpy": np.__version__},
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "epochs": {"dense": args.epochs, "tune": args.tune_epochs},
    }
    with tempfile.TemporaryDirectory() as scratch:
        args.work = Path(scratch)
        for line in lines(args):
            with args.out.open("a") as file:
                file.write(json.dumps(line | about) + "\n")
            print(line, flush=True)


# --- the page


def cell(values: list[float]) -> str:
    shown = " ".join(f"{value:.4f}".removeprefix("0") for value in values)
    return f"{np.mean(values):.4f} ({shown})" if len(values) > 1 else f"{values[0]:.4f}"


def table(args: argparse.Namespace) -> None:
    rows = [json.loads(line) for line in args.file.read_text().splitlines()]
    last, by = rows[-1], defaultdict(list)
    for row in rows:  # what was run at a rate that is no longer the best of those tried is not the method's
        if row["section"] != "tune" or row["rate"] == best(rows, section="choose tune", method=row["method"]):
            by[row["section"], row["method"]].append(row)
    test = lambda *key: cell([row["test"] for row in by[key]])  # noqa: E731
    rate = lambda *key: f"{by[key][0]['rate']:g}"  # noqa: E731
    out = [
        "# Digits: a small ViT",
        "",
        "    " + last["command"],
        "    python experiments/digits.py table experiments/results/digits.jsonl",
        "",
        f"jaxprune {last['versions']['jaxprune']}, jax {last['versions']['jax']}, {last['machine']}. "
        f"scikit-learn's digits: {SPLITS['train']} images train and calibrate, {SPLITS['validation']} choose, "
        f"{SPLITS['test']} are reported: accuracy, the mean over seeds and each of them. One image is 0.0025. Patches "
        f"of 2 x 2, 17 tokens, {SIZES['num_hidden_layers']} layers, {SIZES['num_attention_heads']} heads, width "
        f"{SIZES['hidden_size']}, {SIZES['intermediate_size']} neurons.",
        "",
        f"## Pruned without training, after {last['epochs']['dense']} epochs of it",
        "",
        f"Dense: {test('dense', 'dense')}, learning rate {rate('dense', 'dense')}. 512 calibration images.",
        "",
        "<!-- pruned -->",
        f"| method | {REMOVE:.0%} of the FLOPs removed | {FURTHER:.0%} removed |",
        "|---|---|---|",
        *(
            f"| {name} | " + " | ".join(test("prune", f"{name}, {share:.0%}") for share in (REMOVE, FURTHER)) + " |"
            for name in methods()
        ),
        "<!-- /pruned -->",
        "",
        "## From five digits to ten: tuned with a new head",
        "",
        f"{last['epochs']['tune']} epochs each, {REMOVE:.0%} removed but for full fine-tuning; RECAP in {ROUNDS} "
        f"rounds, three rows in four frozen, or as said. The learning rate of each is the best of {len(TUNE_RATES)} on "
        "the validation images. "
        "Bytes are the most that live on the device in any phase, temporaries included (32 images a step).",
        "",
        "<!-- tuned -->",
        "| method | learning rate | test accuracy | parameters | device bytes | of full |",
        "|---|---|---|---|---|---|",
    ]
    whole = np.mean([row["device_bytes"] for row in by["tune", "full fine-tuning"]])
    for key, entries in by.items():
        if key[0] == "tune":
            peak, size = (np.mean([row[name] for row in entries]) for name in ("device_bytes", "parameters"))
            out.append(f"| {key[1]} | {rate(*key)} | {test(*key)} | {size:,.0f} | {peak:,.0f} | {peak / whole:.2f} |")
    out += [
        "<!-- /tuned -->",
        "",
        "RECAP loses by what it freezes, and a good part of that comes back with a higher rate than others take: fewer "
        "rows have to move farther. With nothing frozen it loses nothing, and saves as much as pruning once; half "
        "frozen is within the spread of three in four. On the validation images, seed 0, by learning rate:",
        "",
        "| method | " + " | ".join(f"{number:g}" for number in TUNE_RATES) + " |",
        "|---|" + "---|" * len(TUNE_RATES),
        *(
            f"| {name} | "
            + " | ".join(
                cell([row["validation"] for row in by["choose tune", name] if row["rate"] == number])
                for number in TUNE_RATES
            )
            + " |"
            for name in arms()
        ),
    ]
    args.file.with_suffix(".md").write_text("\n".join(out) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run")
    runs.add_argument("--out", type=Path, required=True)
    runs.add_argument("--epochs", type=int, default=30)
    runs.add_argument("--tune-epochs", type=int, default=9)
    runs.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    runs.add_argument("--rates", type=float, nargs="+", default=RATES)
    runs.add_argument("--tune-rates", type=float, nargs="+", default=TUNE_RATES)
    runs.set_defaults(call=run)
    tables = commands.add_parser("table")
    tables.add_argument("file", type=Path)
    tables.set_defaults(call=table)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
