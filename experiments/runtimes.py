"""What leaves JAX, run elsewhere: errors, scores, file sizes and milliseconds of JAX, onnxruntime and transformers.

    python experiments/runtimes.py

Three sections, each in a process of its own; `--sections accuracy` runs that one alone.

accuracy  BERT on SST-2, dense and cut by K-prune at 60 and 80 %, all validation texts: every runtime's largest logit
          error against JAX, labels that it flips, accuracy, bytes of its file. Transformers runs its own class for the
          dense model and `modeling_pruned.py` for the pruned ones.
speed     the same models and runtimes on one thread, at 1 x 32 and 32 x 128 tokens, all in turns: medians, and the
          median of the ratios within a turn. Leave the machine alone meanwhile.
decoder   a language model cut by K-prune at 20 %, widths in multiples of 32: perplexity by JAX, by transformers and by
          llama.cpp (float16, Q8_0, Q4_K_M); tokens per second of the GGUF files on one thread, all in turns.

Lines of a section replace its former ones in `--out`; the table beside it (`.md`) is made from all lines, by `--table`
alone without measuring. Models are kept in `--work` and used again: delete it to prune anew. What is missing (a model,
data, onnxruntime, torch, llama_cpp of llama-cpp-python) is named and left out.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

RUNTIMES = ("JAX", "onnxruntime", "onnxruntime int8", "transformers")
SHAPES = {"1 x 32": (1, 32, 200), "32 x 128": (32, 128, 12)}  # rows, tokens, turns
NEEDED = {
    "onnxruntime": ("onnx", "onnxruntime"),
    "onnxruntime int8": ("onnx", "onnxruntime"),
    "transformers": ("torch",),
    "llama.cpp": ("gguf", "llama_cpp"),
}
# What llama.cpp runs, and the type of the export that it is made of.
GGUF = {"float16": "float16", "Q8_0": "q8_0", "Q4_K_M": "float16"}
PACKAGES = ("jaxprune", "jax", "onnxruntime", "torch", "transformers")


def available(runtimes: Iterable[str] = RUNTIMES) -> list[str]:
    """The runtimes that are installed; the others are named."""
    missing = {name: [p for p in NEEDED.get(name, ()) if find_spec(p) is None] for name in runtimes}
    for name, packages in missing.items():
        if packages:
            print(f"{name} is left out: {packages[0]} is not installed", file=sys.stderr)
    return [name for name in missing if not missing[name]]


def missing_inputs(*paths: Path) -> bool:
    """True, and said, where a model or data set is not there."""
    gone = [path for path in paths if not path.exists()]
    if gone:
        print(f"the section is left out: {gone[0]} is missing", file=sys.stderr)
    return bool(gone)


# --- models and their files


def classifiers(args: argparse.Namespace) -> dict[str, Any]:
    """The dense model and the pruned ones by name; pruned together where one of them is not in `--work` yet."""
    import jaxprune as jp

    dense = jp.load(args.model)
    folders = {f"{remove:.0%} removed": args.work / f"sst2-{remove:.0%}" for remove in args.remove}
    if not all(folder.is_dir() for folder in folders.values()):
        task = jp.tasks.load("sst2", args.data)
        budgets = [jp.Budget(remove, cost="flops", length=25) for remove in args.remove]
        calibration = task.calibration(args.samples, seed=0)
        for small, folder in zip(jp.kprune(dense, calibration, budgets, jp.KPrune()), folders.values(), strict=True):
            jp.save(small, folder, dtype="float32", overwrite=folder.exists())
    return {"dense": dense} | {name: jp.load(folder) for name, folder in folders.items()}


def exported(model: Any, runtime: str, folder: Path) -> Path:
    """The file with the weights that a runtime reads, written below `folder` unless it is there."""
    import jaxprune as jp

    if runtime == "JAX":
        if not folder.joinpath("jax").is_dir():
            jp.save(model, folder / "jax", dtype="float32")
        return folder / "jax" / "model.safetensors"
    if runtime == "transformers":
        if not folder.joinpath("hf").is_dir():
            jp.export(model, folder / "hf", dtype="float32")
        return folder / "hf" / "model.safetensors"
    if not folder.joinpath("onnx").is_dir():
        jp.export(model, folder / "onnx", format="onnx", int8=True)
    return folder / "onnx" / "onnx" / ("model_quantized.onnx" if "int8" in runtime else "model.onnx")


def transformers_model(folder: Path, auto: str, **settings: Any) -> Any:
    """The model of an exported folder on torch; the modelling file of a pruned one is run, as we wrote it."""
    import transformers

    code = "auto_map" in json.loads((folder / "config.json").read_text())
    return getattr(transformers, auto).from_pretrained(folder, trust_remote_code=code, **settings).eval()


def runs(model: Any, runtime: str, folder: Path, threads: int | None = None) -> Callable[[Any], np.ndarray]:
    """A function from plain ids and mask, [rows, length], to logits, by a runtime that is not JAX."""
    file = exported(model, runtime, folder)
    if runtime == "transformers":
        import torch  # pyright: ignore[reportMissingImports]

        if threads is not None:
            torch.set_num_threads(threads)
        theirs = transformers_model(file.parent, "AutoModelForSequenceClassification")

        def run(given: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
            ids, mask = (torch.from_numpy(np.asarray(array, np.int64)) for array in given)
            with torch.inference_mode():
                return theirs(input_ids=ids, attention_mask=mask).logits.numpy()

        return run
    from jaxprune.runtime.onnx import open_onnx

    program = open_onnx(file, threads)
    return lambda given: program(given[0], given[1], np.zeros_like(given[0]))


# --- sections


def measure_accuracy(args: argparse.Namespace) -> Iterable[dict[str, Any]]:
    import jaxprune as jp
    from jaxprune.evaluation.onnx_model import plain_batches
    from jaxprune.evaluation.outputs import text_outputs
    from jaxprune.tokens.packing import unpack_logits
    from jaxprune.tokens.tokenizer import Tokenizer

    if missing_inputs(args.model, args.data):
        return
    task = jp.tasks.load("sst2", args.data)
    texts = task.validation[: args.limit]
    labels = np.array([example.label for example in texts])
    for name, model in classifiers(args).items():
        encoded = Tokenizer.of(model).encode(texts, task.max_length)
        batches, expected = plain_batches(encoded, model.architecture), text_outputs(model, encoded)
        for runtime in available():
            folder = args.work / f"files-{name}"
            file, got = exported(model, runtime, folder), expected
            if runtime != "JAX":
                run = runs(model, runtime, folder)
                values = [run((np.asarray(b.ids), np.asarray(b.segments) > 0))[:, None] for b in batches]
                got = unpack_logits(values, batches)
            said = got.argmax(axis=1)
            yield {
                "model": name,
                "runtime": runtime,
                "texts": len(texts),
                "largest_error": float(np.abs(got - expected).max()),
                "largest_logit": float(np.abs(expected).max()),
                "flipped": int((said != expected.argmax(axis=1)).sum()),
                "accuracy": float((said == labels).mean()),
                "bytes": file.stat().st_size,
                "removed": model.provenance.record.get("removed"),
            }


def measure_speed(args: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """Everything in turns, in an order that turns around, on one core."""
    if missing_inputs(args.model, args.data):
        return
    from jaxprune.report.bench import compile_forward, full_batch

    models = classifiers(args)
    for shape, (rows, length, turns) in SHAPES.items():
        timed: dict[tuple[str, str], Callable[[], Any]] = {}
        for runtime in available():
            for name, model in models.items():
                if runtime == "JAX":
                    timed[runtime, name] = compile_forward(model, rows, length)[2]
                    continue
                ids = np.asarray(full_batch(model.architecture, rows, length).ids, np.int64)
                run = runs(model, runtime, args.work / f"files-{name}", threads=1)
                timed[runtime, name] = lambda run=run, ids=ids: run((ids, np.ones_like(ids)))
        seconds = in_turns(timed, args.turns or turns)
        base = seconds.get(("onnxruntime", "dense"))
        for (runtime, name), taken in seconds.items():
            yield {
                "model": name,
                "runtime": runtime,
                "shape": shape,
                "turns": len(taken),
                "ms": 1000 * float(np.median(taken)),
                "times_dense": quartiles(seconds[runtime, "dense"] / taken),
                "times_dense_onnxruntime": quartiles(base / taken) if base is not None else None,
            }


def in_turns(
    timed: Mapping[Any, Callable[[], Any]], turns: int, clock: Callable[[], float] = time.perf_counter
) -> dict[Any, np.ndarray]:
    """Seconds of every function, called once a turn; every other turn goes the other way round."""
    for run in timed.values():
        run()
        run()
    seconds: dict[Any, list[float]] = {key: [] for key in timed}
    for turn in range(turns):
        for key in [*timed][:: -1 if turn % 2 else 1]:
            began = clock()
            timed[key]()
            seconds[key].append(clock() - began)
    return {key: np.array(taken) for key, taken in seconds.items()}


def quartiles(ratios: np.ndarray) -> list[float]:
    """Quartiles, the median in the middle."""
    return [float(value) for value in np.percentile(ratios, (25, 50, 75))]


def measure_decoder(args: argparse.Namespace) -> Iterable[dict[str, Any]]:
    import jaxprune as jp

    if missing_inputs(args.decoder, args.text, args.calibration):
        return
    task = jp.tasks.text(args.text, calibration=args.calibration, length=512, windows=args.windows)
    folder, dense = args.work / "decoder-20%", jp.load(args.decoder)
    if not folder.is_dir():
        budget = jp.Budget(0.2, cost="params", round_to=32)
        jp.save(jp.kprune(dense, task.calibration(16, seed=0), budget, jp.KPrune()), folder, dtype="float32")
    models = {"dense": dense, "20% removed": jp.load(folder)}
    windows = first_windows(dense, task)
    files: dict[tuple[str, str], Path] = {}
    lines = []
    for name, model in models.items():
        told = {"model": name, "windows": args.windows, "removed": model.provenance.record.get("removed")}
        told["layers"] = [[size.groups, size.neurons] for size in model.architecture.layers]
        place = args.work / f"files-decoder-{name}"
        for runtime in available(("JAX", "transformers")):
            file = exported(model, runtime, place)
            score = jp.evaluate(model, task).score if runtime == "JAX" else perplexity(by_torch(file.parent), windows)
            lines.append({**told, "runtime": runtime, "perplexity": score, "bytes": file.stat().st_size})
            print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
        for kind in GGUF if available(("llama.cpp",)) else ():
            from on_llama_cpp import built, logits_by

            file = files[name, kind] = gguf_file(model, kind, place)
            score = perplexity(logits_by(file, task.max_length), windows)
            lines.append({**told, "runtime": f"llama.cpp {kind}", "perplexity": score, "bytes": file.stat().st_size})
            lines[-1]["by"] = built()
            print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
    speeds = gguf_speeds(files, windows[0], args.turns or 7) if files else {}
    for line in lines:
        yield {**line, **speeds.get((line["model"], line["runtime"].removeprefix("llama.cpp ")), {})}


def first_windows(model: Any, task: Any) -> list[np.ndarray]:
    """The windows of token ids that perplexity is over."""
    from jaxprune.tokens.tokenizer import Tokenizer
    from jaxprune.tokens.windows import windows_of

    windows = windows_of(Tokenizer.of(model), task.validation, task.max_length, "the text")
    return [np.asarray(ids) for _, ids in zip(range(task.windows), windows, strict=False)]


def perplexity(logits_of: Callable[[np.ndarray], np.ndarray], windows: list[np.ndarray]) -> float:
    """Every token of a window but the first is predicted."""
    losses = []
    for ids in windows:
        logits = logits_of(ids)[:-1]
        most = logits.max(axis=1)
        total = np.log(np.exp(logits - most[:, None]).sum(axis=1, dtype=np.float64)) + most
        losses.append(np.mean(total - logits[np.arange(len(logits)), ids[1:]]))
    return float(np.exp(np.mean(losses)))


def by_torch(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function from token ids to logits, [tokens, vocab]."""
    import torch  # pyright: ignore[reportMissingImports]

    theirs = transformers_model(folder, "AutoModelForCausalLM", dtype=torch.float32)

    def run(ids: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return theirs(input_ids=torch.from_numpy(np.asarray(ids, np.int64))[None]).logits[0].numpy()

    return run


def gguf_file(model: Any, kind: str, folder: Path) -> Path:
    """The GGUF file of a kind that llama.cpp runs, written below `folder` unless it is there."""
    from on_llama_cpp import quantised

    import jaxprune as jp

    exported_as = GGUF[kind]
    if not folder.joinpath(exported_as).is_dir():
        jp.export(model, folder / exported_as, format="gguf", dtype=exported_as)
    file = folder / exported_as / "model.gguf"
    return file if kind.lower() == exported_as else quantised(file, kind)


def gguf_speeds(files: Mapping[tuple[str, str], Path], ids: np.ndarray, turns: int) -> dict[Any, dict[str, Any]]:
    """Tokens per second, and how many times as fast as the dense model in the same kind, by model and kind.

    Of the thread's own time, so that other work on the machine counts as little as it can.
    """
    from on_llama_cpp import NEW, PROMPT, steps

    timed = {(*key, what): run for key, file in files.items() for what, run in steps(file, ids).items()}
    seconds = in_turns(timed, turns, clock=time.process_time)
    speeds: dict[Any, dict[str, Any]] = {key: {"turns": turns} for key in files}
    for (name, kind, what), taken in seconds.items():
        tokens = PROMPT if what == "prompt" else NEW
        speeds[name, kind][f"{what}_tokens_per_second"] = tokens / float(np.median(taken))
        speeds[name, kind][f"{what}_times_dense"] = quartiles(seconds["dense", kind, what] / taken)
    return speeds


SECTIONS: Mapping[str, Callable[[argparse.Namespace], Iterable[dict[str, Any]]]] = {
    "accuracy": measure_accuracy,
    "speed": measure_speed,
    "decoder": measure_decoder,
}


# --- lines and the table


def run_section(section: str, args: argparse.Namespace) -> None:
    """Measure, then put the lines in place of those that the section had."""
    lines = []
    for line in SECTIONS[section](args):
        lines.append({"section": section, **line, "versions": versions(), "machine": machine()})
        print(json.dumps(line), flush=True)
    if lines:
        others = [line for line in read_lines(args.out) if line["section"] != section]
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("".join(json.dumps(line) + "\n" for line in (*others, *lines)), encoding="utf-8")


def versions() -> dict[str, str]:
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} CPU cores"


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def table_text(lines: list[dict[str, Any]]) -> str:
    """The page of results, of the sections that there are."""
    by = {section: [line for line in lines if line["section"] == section] for section in SECTIONS}
    parts = ["# Runtimes", "    python experiments/runtimes.py"]
    for section, write in (("accuracy", accuracy_table), ("speed", speed_table), ("decoder", decoder_table)):
        if by[section]:
            last = by[section][-1]
            told = ", ".join(f"{name} {number}" for name, number in last["versions"].items())
            parts += [write(by[section]), f"{last['machine']}; {told}."]
    return "\n\n".join(map(wrapped, parts)) + "\n"


def wrapped(part: str) -> str:
    """Lines of prose at a width at which they are read in an editor; tables and commands stay."""
    lines = part.splitlines()
    return "\n".join(line if line[:1] in ("|", " ", "#") else textwrap.fill(line, 124) for line in lines)


def accuracy_table(lines: list[dict[str, Any]]) -> str:
    rows = [
        f"| {line['model']} | {line['runtime']} | {line['largest_error']:.1e} | {line['flipped']} | "
        f"{line['accuracy']:.4f} | {line['bytes'] / 1e6:.1f} |"
        for line in lines
    ]
    largest = max(line["largest_logit"] for line in lines)
    return "\n".join(
        [
            "## The same answers",
            "",
            "A BERT of six layers on SST-2, dense and cut by K-prune (512 texts, seed 0), on "
            f"{lines[0]['texts']} validation texts. Errors and flipped labels are against JAX, of logits up to "
            f"{largest:.1f}. Transformers runs its own class for the dense model, `modeling_pruned.py` for the others.",
            "",
            "| model | runtime | largest logit error | flipped labels | accuracy | MB |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
        ]
    )


def speed_table(lines: list[dict[str, Any]]) -> str:
    text = [
        "## Milliseconds on one thread",
        "",
        "The same models, random tokens without padding, one core; every runtime and model once a turn, in an order "
        "that turns around. Ratios are medians (quartiles) of those within a turn: to the dense model of the same "
        "runtime, and to the dense one in onnxruntime.",
    ]
    for shape in dict.fromkeys(line["shape"] for line in lines):
        here = [line for line in lines if line["shape"] == shape]
        text += [
            "",
            f"{shape} tokens, {here[0]['turns']} turns:",
            "",
            "| runtime | model | ms | times as fast as dense | as dense in onnxruntime |",
            "| --- | --- | --- | --- | --- |",
            *(
                f"| {line['runtime']} | {line['model']} | {line['ms']:.2f} | {ratio(line['times_dense'])} | "
                f"{ratio(line['times_dense_onnxruntime'])} |"
                for line in here
            ),
        ]
    return "\n".join(text)


def ratio(values: list[float] | None) -> str:
    return "–" if values is None else f"{values[1]:.2f} ({values[0]:.2f}–{values[2]:.2f})"


def decoder_table(lines: list[dict[str, Any]]) -> str:
    timed = [line for line in lines if "turns" in line]
    turns = f" --turns {timed[0]['turns']}" if timed else ""
    text = [
        "## A language model",
        "",
        f"    python experiments/runtimes.py --sections decoder --windows {lines[0]['windows']}{turns}",
        "",
        "SmolLM2-135M, cut by K-prune at 20 % of the parameters of heads and neurons, neurons in multiples of 32, not "
        f"trained again. Perplexity over the first {lines[0]['windows']} windows of 512 tokens of WikiText-2's test "
        "text; JAX and transformers in float32.",
    ]
    if timed:
        text += [
            "",
            f"{timed[0]['by']}, on the same windows of token ids. Tokens per second of the thread's own time, since "
            "the machine had other work: a prompt of 128 tokens, and 32 tokens one by one behind it; medians of "
            f"{timed[0]['turns']} turns, in an order that turns around. Times dense: medians (quartiles) of the "
            "ratios within a turn, to the dense model in the same numbers.",
        ]
    text += [
        "",
        "| model | runtime | perplexity | MB | prompt, tokens/s | times dense | generation, tokens/s | times dense |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        speeds = (
            f"{line[f'{what}_tokens_per_second']:.1f} | {ratio(line[f'{what}_times_dense'])}"
            if "turns" in line
            else "– | –"
            for what in ("prompt", "generation")
        )
        size = f"{line['perplexity']:.4f} | {line['bytes'] / 1e6:.0f}"
        text.append(f"| {line['model']} | {line['runtime']} | {size} | {' | '.join(speeds)} |")
    return "\n".join(text)


def on_one_core() -> None:
    """Before JAX counts the cores: its pool of threads has as many as the process may use."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    else:
        print("this system cannot bind a process to a core: JAX uses all of them", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", default=[*SECTIONS], choices=[*SECTIONS])
    parser.add_argument("--model", type=Path, default=Path("build/models/minilm-sst2"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data/glue"))
    parser.add_argument("--remove", nargs="+", type=float, default=[0.6, 0.8])
    parser.add_argument("--samples", type=int, default=512, help="calibration texts")
    parser.add_argument("--limit", type=int, help="of validation texts (all)")
    parser.add_argument("--turns", type=int, help="of every shape (200 and 12)")
    parser.add_argument("--decoder", type=Path, default=Path("build/models/smollm2-135m"))
    parser.add_argument("--text", type=Path, default=Path("../shared/data/text/wikitext2/test.txt"))
    parser.add_argument("--calibration", type=Path, default=Path("../shared/data/text/c4/calibration.jsonl"))
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--work", type=Path, default=Path("build/runtimes"))
    parser.add_argument("--out", type=Path, default=Path("experiments/results/runtimes.jsonl"))
    parser.add_argument("--table", action="store_true", help="write the table alone")
    args = parser.parse_args()
    # Files of code that transformers runs are copied there, not into the user's cache.
    os.environ.setdefault("HF_MODULES_CACHE", str((args.work / "modules").absolute()))
    if args.table:
        args.sections = []
    elif len(args.sections) == 1:
        if args.sections == ["speed"]:
            on_one_core()
        run_section(args.sections[0], args)
    else:
        for section in args.sections:  # the last --sections counts
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--sections", section], check=True)
    if lines := read_lines(args.out):
        args.out.with_suffix(".md").write_text(table_text(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
