"""Write a model as a folder for other programs: a Hugging Face folder, which transformers loads as it is."""

import argparse

from ..checkpoint import check_output
from ..checkpoint.manifest import SAVED
from ..exports.huggingface import export
from ..report.tables import facts_table, si
from . import flags
from .outcome import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    parser.add_argument("--format", choices=("hf",), default="hf", help="of the folder: hf, Hugging Face's (hf)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the folder is written")
    parser.add_argument(
        "--fill-zeros",
        action="store_true",
        help="in the sizes of the source, zeros where units were removed: for layers that differ; no speed-up",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that jaxprune wrote")
    parser.add_argument("--dtype", choices=SAVED, help="of the tensors (the checkpoint's own)")


def run(arguments: argparse.Namespace) -> Outcome:
    check_output(arguments.out, arguments.overwrite)
    model = flags.load(arguments)
    written = export(
        model,
        arguments.out,
        fill_zeros=arguments.fill_zeros,
        overwrite=arguments.overwrite,
        dtype=arguments.dtype,
    )
    data = {
        "model": arguments.model,
        "out": arguments.out,
        "format": arguments.format,
        "dtype": written.dtype,
        "fill_zeros": arguments.fill_zeros,
        "bytes": written.bytes,
        "config": written.config,
        "warnings": [*model.provenance.warnings, *written.warnings],
    }
    facts = {
        "class": written.config["architectures"][0],
        "sizes": "those of the source, zeros where units were removed" if arguments.fill_zeros else "the model's own",
        f"bytes ({written.dtype})": si(written.bytes, "B"),
    }
    return Outcome(data, (facts_table(arguments.out, facts),))
