"""Batches for training language models: ours beside grain's, on the same token ids in the same mapped file.

    pip install grain
    python experiments/input_pipeline.py --model build/models/smollm2-135m \
        --text ../shared/data/text/c4/calibration.jsonl

Prints a table: milliseconds a batch, seconds until the first batch of a run that goes on in the middle of an epoch, the
share of slots that are padding, and whether an epoch's batches can be counted before it begins, as schedules of
learning rates ask. Order for one seed, and after going on, is checked. Every figure is the median of five epochs. A
second table shows how the peak memory of a process grows with the text.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
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
    import jax

    from jaxprune.finetuning.epochs import packed, shuffled

    make = shuffled if texts.encoded.row is None else packed
    epochs = make(texts.encoded, architecture, size=size, length=length)
    count, half = len(epochs(0)), len(epochs(0)) // 2
    again = epochs(3)[half:]
    leaves = zip(*map(jax.tree.leaves, (again[0], list(epochs(3))[half])), strict=True)
    assert all(np.array_equal(a, b) for a, b in leaves)
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


def architecture_of(model: Path) -> Any:
    """That of a checkpoint, whose weights would take more memory than the texts."""
    from jaxprune.checkpoint.config import architecture_from, config_in, family_of
    from jaxprune.checkpoint.head_choice import choose_head, declared_head

    config, where = config_in(model), str(model)
    family = family_of(config, where)
    head = choose_head(declared_head(family, config, where), None, None, None, where)
    return architecture_from(family, config, head, where)


def peak(model: Path, text: Path, length: int) -> tuple[int, int]:
    """Tokens, and most bytes that the process took, of a run that tokenises a text and reads an epoch of batches."""
    import jaxprune as jp
    from jaxprune.finetuning.epochs import shuffled
    from jaxprune.runtime.memory import host_peak_bytes
    from jaxprune.tokens.language_texts import language_texts
    from jaxprune.tokens.tokenizer import Tokenizer

    texts = language_texts(Tokenizer.of(model), jp.tasks.text(text, length=length), "validation")
    consume(shuffled(texts.encoded, architecture_of(model), size=8)(0))
    return texts.encoded.tokens, host_peak_bytes() or 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--text", required=True, type=Path)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 10], help="of the text, to see the memory grow")
    parser.add_argument("--peak", action="store_true", help="print the peak memory of one run over the text, no more")
    arguments = parser.parse_args()
    if arguments.peak:
        print(*peak(arguments.model, arguments.text, arguments.length))
        return

    from importlib.metadata import version

    import jaxprune as jp
    from jaxprune.tokens.language_texts import language_texts
    from jaxprune.tokens.tokenizer import Tokenizer

    architecture, tokenizer = architecture_of(arguments.model), Tokenizer.of(arguments.model)
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
    print("| text, MB | tokens | peak of the process, MB |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for copies in arguments.copies:
            file = Path(folder) / f"{copies}.jsonl"
            file.write_bytes(arguments.text.read_bytes() * copies)
            command = [sys.executable, __file__, "--model", arguments.model, "--text", file, "--peak"]
            tokens, taken = subprocess.run(
                [*map(str, command), "--length", str(length)], capture_output=True, text=True, check=True
            ).stdout.split()
            print(f"| {file.stat().st_size / 1e6:.1f} | {tokens} | {int(taken) / 1e6:.0f} |")
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"jaxprune {jp.__version__}, grain {version('grain')}, numpy {np.__version__}, {machine}")


if __name__ == "__main__":
    main()
