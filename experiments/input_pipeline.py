"""Batches for training language models: ours beside grain's, on the same token ids in the same mapped file.

    pip install grain
    python experiments/input_pipeline.py --model build/models/smollm2-135m \
        --text ../shared/data/text/c4/calibration.jsonl

Prints a table: milliseconds a batch, seconds until the first batch of a run that goes on in the middle of an epoch, the
share of slots that are padding, and whether an epoch's batches can be counted before it begins, as schedules of
learning rates ask. Order for one seed, and after going on, is checked. Every figure is the median of five epochs.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median(work: Callable[[int], Any], repeats: int = 5) -> float:
    return statistics.median(seconds(lambda number=number: work(number)) for number in range(repeats))


def consume(batches: Iterable[Any]) -> int:
    return sum(1 for _ in batches)


def ours(texts: Any, architecture: Any, size: int, length: int) -> dict[str, Any]:
    from jaxprune.finetuning.epochs import packed, shuffled

    make = shuffled if texts.encoded.row is None else packed
    epochs = make(texts.encoded, architecture, size=size, length=length)
    count, half = len(epochs(0)), len(epochs(0)) // 2
    again = epochs(3)[half:]
    assert all(np.array_equal(a, b) for a, b in zip(again[0], list(epochs(3))[half], strict=True))
    slots = epochs(0)[0].ids.size * count
    return {
        "batches": count,
        "ms a batch": 1000 * median(lambda epoch: consume(epochs(epoch))) / count,
        "s to go on": median(lambda epoch: epochs(epoch)[half:][0]),
        "padding": 1 - texts.encoded.tokens / slots,
        "counted before": "yes",
    }


def grain_windows(texts: Any, size: int) -> dict[str, Any]:
    import grain  # pyright: ignore[reportMissingImports]

    def epochs(epoch: int) -> Any:
        return grain.MapDataset.source(texts.encoded.ids).shuffle(seed=epoch).batch(size, batch_fn=np.stack)

    count, half = len(epochs(0)), len(epochs(0)) // 2
    return {
        "batches": count,
        "ms a batch": 1000 * median(lambda epoch: consume(epochs(epoch))) / count,
        "s to go on": median(lambda epoch: epochs(epoch)[half]),
        "padding": 0.0,
        "counted before": "yes",
    }


def grain_packed(texts: Any, size: int, length: int) -> dict[str, Any]:
    import grain  # pyright: ignore[reportMissingImports]

    def epochs(epoch: int) -> Any:
        rows = grain.MapDataset.source(texts.encoded.ids).shuffle(seed=epoch).map(lambda ids: {"ids": ids})
        packed = grain.experimental.FirstFitPackIterDataset(
            rows.to_iter_dataset(), length_struct={"ids": length}, num_packing_bins=8 * size
        )
        return packed.batch(size)

    count = consume(epochs(0))
    iterator = iter(epochs(1))
    for _ in range(count // 2):
        next(iterator)
    state, expected = iterator.get_state(), next(iterator)

    def go_on(_: int) -> Any:
        fresh = iter(epochs(1))
        fresh.set_state(state)
        return next(fresh)

    assert np.array_equal(go_on(0)["ids"], expected["ids"])
    return {
        "batches": count,
        "ms a batch": 1000 * median(lambda epoch: consume(epochs(epoch))) / count,
        "s to go on": median(go_on),
        "padding": 1 - texts.encoded.tokens / (count * size * length),
        "counted before": "no",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--text", required=True, type=Path)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--size", type=int, default=8)
    arguments = parser.parse_args()

    from importlib.metadata import version

    import jaxprune as jp
    from jaxprune.checkpoint.load import load
    from jaxprune.tokens.language_texts import language_texts
    from jaxprune.tokens.tokenizer import Tokenizer

    architecture, tokenizer = load(arguments.model).architecture, Tokenizer.of(arguments.model)
    size, length, rows = arguments.size, arguments.length, []
    for documents in (False, True):
        task = jp.tasks.text(arguments.text, length=length, documents=documents)
        began = time.perf_counter()
        texts = language_texts(tokenizer, task, "validation")
        took = time.perf_counter() - began
        print(f"{len(texts.encoded)} texts, {texts.encoded.tokens} tokens, {took:.1f} s to tokenise and write")
        if documents:
            rows += [
                ("documents, packed: ours", ours(texts, architecture, size, length)),
                ("documents, packed: grain", grain_packed(texts, size, length)),
            ]
        else:
            rows += [
                ("windows: ours", ours(texts, architecture, size, length)),
                ("windows: grain", grain_windows(texts, size)),
            ]
    names = [*rows[0][1]]
    print("| " + " | ".join(["", *names]) + " |\n|" + " --- |" * (len(names) + 1))
    for name, values in rows:
        told = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values.values()]
        print("| " + " | ".join([name, *told]) + " |")
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"jaxprune {jp.__version__}, grain {version('grain')}, numpy {np.__version__}, {machine}")


if __name__ == "__main__":
    main()
