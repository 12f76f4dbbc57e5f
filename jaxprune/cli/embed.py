"""Write the vectors of texts, of an embedding model."""

import argparse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..evaluation.embed import BATCH, Embedded, embedded
from ..evaluation.onnx_model import described
from ..jsonio import dumps, replace_file
from ..report.progress import progress
from ..report.tables import facts_table
from ..tasks.jsonl import Unread, iter_texts
from . import flags
from .outcome import Outcome
from .text_files import check_out, spooled

SUFFIXES = (".npy", ".jsonl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    flags.add_runtime(parser)
    parser.add_argument(
        "--input",
        required=True,
        metavar="FILE",
        help='texts, one a line, or JSON lines with "text"; - is standard input',
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="a .npy of float32, a row a text in their order; or .jsonl, each text with its vector",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file that --out names")
    parser.add_argument("--prompt", metavar="TEXT", help="written before every text (the model's own default)")
    parser.add_argument("--prompt-name", metavar="NAME", help="one of the model's own prompts, such as query")
    parser.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="bring vectors to length 1 (as the model's files say)",
    )
    parser.add_argument(
        "--dimensions", type=int, metavar="N", help="keep the first N numbers, of a model trained for it (all)"
    )
    parser.add_argument("--batch-size", type=int, default=BATCH, metavar="N", help=f"texts read at a time ({BATCH})")
    parser.add_argument(
        "--seq-len", type=int, metavar="N", help="the most tokens of a text, longer ones are cut (what the model says)"
    )


def run(arguments: argparse.Namespace) -> Outcome:
    out = Path(arguments.out)
    if out.suffix not in SUFFIXES:
        raise DataError(f"{out} is called neither .npy nor .jsonl, which says what is written; name it so.")
    check_out(out, arguments.input, arguments.overwrite)
    model = flags.load_to_run(arguments)
    settings = {
        "prompt": arguments.prompt,
        "prompt_name": arguments.prompt_name,
        "normalize": arguments.normalize,
        "dimensions": arguments.dimensions,
        "batch_size": arguments.batch_size,
        "max_length": arguments.seq_len,
    }
    unread = Unread()
    with _texts(arguments.input, unread) as texts, progress("embed", arguments.quiet) as on_step:
        made = embedded(model, texts, **settings, on_step=on_step)
    replace_file(out, lambda part: _write(part, out.suffix, texts, made))
    costs = {
        "texts": len(made.vectors),
        "dimensions": made.vectors.shape[1],
        "tokens": made.tokens,
        "seconds": made.seconds,
        "compile_seconds": made.compile_seconds,
    }
    told = unread.doubts("standard input" if arguments.input == "-" else arguments.input, out.suffix == ".npy")
    warnings = list(dict.fromkeys([*described(model).provenance.warnings, *told, *made.warnings]))
    asked = {"model": arguments.model, "input": arguments.input, "out": arguments.out, **settings}
    return Outcome({**asked, **costs, "warnings": warnings}, (facts_table(arguments.out, costs),))


@contextmanager
def _texts(source: str, unread: Unread) -> Iterator[list[str]]:
    """All texts of a file, or of standard input, looked over before the first is embedded."""
    with spooled(source) as file:
        yield [text for text, _ in iter_texts(file, paired=False, unread=unread)]


def _write(path: Path, suffix: str, texts: Iterable[str], made: Embedded) -> None:
    if suffix == ".npy":
        with path.open("wb") as file:
            np.save(file, made.vectors)
        return
    with path.open("w", encoding="utf-8") as file:
        for text, vector in zip(texts, made.vectors, strict=True):
            line: dict[str, Any] = {"text": text, "embedding": vector.tolist()}
            file.write(f"{dumps(line)}\n")
