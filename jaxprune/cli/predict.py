"""Say what a model makes of texts or images: classes, numbers, tags of words, answers."""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import tee
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..evaluation.onnx_model import described
from ..evaluation.predict import BATCH, predict
from ..evaluation.readings import HeadReading, Prediction, reading_of
from ..jsonio import dumps, replace_file
from ..report.progress import progress
from ..report.said import said
from ..report.tables import facts_table
from ..tasks.jsonl import iter_texts
from ..tasks.words import iter_words
from . import flags
from .outcome import Outcome
from .text_files import check_out, spooled

_Text = tuple[str | list[str], str | None]  # a text, or its words; and its second text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    flags.add_runtime(parser)
    parser.add_argument("--text", metavar="TEXT", help="one text; for a model that answers questions, the question")
    parser.add_argument("--pair", metavar="TEXT", help="its second text; of a question, the context")
    parser.add_argument(
        "--input",
        metavar="FILE",
        help='texts instead, one a line (a tab before a second text), or JSON lines with "text" and "text_pair" '
        '("question" and "context"; of words to tag, "tokens"); - is standard input',
    )
    parser.add_argument("--images", nargs="+", metavar="FILE", help="of a model that reads images: image files")
    parser.add_argument("--out", metavar="FILE", help="JSON lines, a prediction each, in the order of the texts")
    parser.add_argument("--overwrite", action="store_true", help="replace the file that --out names")
    parser.add_argument("--batch-size", type=int, default=BATCH, metavar="N", help=f"texts read at a time ({BATCH})")
    parser.add_argument(
        "--seq-len", type=int, metavar="N", help="the most tokens of a text, longer ones are cut (what the model reads)"
    )
    parser.add_argument("--nullable", action="store_true", help="a question may have no answer")


def run(arguments: argparse.Namespace) -> Outcome:
    given = [arguments.text is not None, arguments.input is not None, arguments.images is not None]
    if sum(given) != 1:
        raise DataError(
            "texts come from --text TEXT or from --input FILE, images from --images FILE; give one of them."
        )
    if arguments.text is not None and os.path.isfile(arguments.text):
        raise DataError(f"--text {arguments.text} is the name of a file; give files by --input.")
    if arguments.pair is not None and arguments.text is None:
        raise DataError("--pair is the second text of --text; in a file it stands behind a tab, or as text_pair.")
    if arguments.out is not None:
        check_out(Path(arguments.out), arguments.input, arguments.overwrite)
    model = flags.load_to_run(arguments)
    notes, reading = described(model).provenance, reading_of(described(model).architecture)
    if (arguments.images is None) != (described(model).architecture.patches is None):
        reads, flag = ("images", "--images") if arguments.images is None else ("texts", "--text or --input")
        raise DataError(f"{arguments.model} reads {reads}; give them by {flag}.")
    reading = reading if arguments.images is None else reading._replace(fields=("image", ""))
    settings = {"batch_size": arguments.batch_size, "max_length": arguments.seq_len, "nullable": arguments.nullable}
    with _texts(arguments, reading) as texts, progress("predict", arguments.quiet) as on_step:
        count, paired = _looked_over(texts())  # all of them, before the first is predicted
        beside, firsts, seconds = tee(texts(), 3)
        stream = predict(
            model,
            (text for text, _ in firsts),
            (pair for _, pair in seconds) if paired else None,
            **settings,
            on_step=lambda event: on_step({**event, "of": count}),
        )
        lines = (
            (_line(text, prediction, reading), prediction) for text, prediction in zip(beside, stream, strict=True)
        )
        if arguments.out is None:
            kept = list(lines)
        else:
            kept = []
            replace_file(Path(arguments.out), lambda part: _write(part, (line for line, _ in lines)))
        made = stream.all()  # none are left; what they cost is
    costs = {"texts": count, "tokens": made.tokens, "seconds": made.seconds, "compile_seconds": made.compile_seconds}
    asked = {"model": arguments.model, "input": arguments.input, "out": arguments.out, **settings}
    warnings = list(dict.fromkeys([*notes.warnings, *made.warnings]))
    if arguments.out is not None:
        return Outcome({**asked, **costs, "warnings": warnings}, (facts_table(arguments.out, costs),))
    data = {**asked, **costs, "predictions": [line for line, _ in kept], "warnings": warnings}
    return Outcome(data, tuple(said(prediction) for _, prediction in kept))


@contextmanager
def _texts(arguments: argparse.Namespace, reading: HeadReading) -> Iterator[Callable[[], Iterable[_Text]]]:
    """A function that gives the texts from the first on: they are looked over, and then predicted."""
    if arguments.images is not None:
        yield lambda: [(name, None) for name in arguments.images]
    elif arguments.text is not None:
        yield lambda: [(arguments.text, arguments.pair)]
    else:
        with spooled(arguments.input) as file:
            yield lambda: _read(file, reading)


def _read(path: Path, reading: HeadReading) -> Iterable[_Text]:
    return iter_words(path) if reading.words else iter_texts(path, fields=reading.fields)


def _looked_over(texts: Iterable[_Text]) -> tuple[int, bool]:
    """How many texts there are, and whether they have second texts. Raises `DataError` where one is none."""
    count, paired = 0, False
    for _, pair in texts:
        count, paired = count + 1, pair is not None
    return count, paired


def _line(text: _Text, prediction: Prediction, reading: HeadReading) -> dict[str, Any]:
    """A text and what was predicted of it, as an object of JSON."""
    first, pair = text
    names = reading.fields if isinstance(first, str) else ("tokens", reading.fields[1])
    return {names[0]: first, **({} if pair is None else {names[1]: pair}), **asdict(prediction)}


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{dumps(line)}\n" for line in lines)
