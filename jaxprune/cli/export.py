"""Write a model as a folder for other programs: transformers, runtimes of ONNX, llama.cpp, JAX alone."""

import argparse

from ..checkpoint import check_output
from ..checkpoint.uneven import MODELLING
from ..exports.export import FORMATS, FORMER_NAMES, export
from ..exports.gguf_tensors import KINDS
from ..exports.stablehlo import PLACES
from ..report.tables import facts_table, si
from . import flags
from .outcome import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    parser.add_argument(
        "--format",
        choices=(*FORMATS, *FORMER_NAMES),
        default="transformers",
        help="of the folder; hf is the former name of transformers (transformers)",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the folder is written")
    parser.add_argument(
        "--fill-zeros",
        action="store_true",
        help="transformers: in the sizes of the source, zeros where units were removed; no speed-up, and no file of "
        "code where layers differ",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that jaxprune wrote")
    parser.add_argument(
        "--dtype",
        choices=tuple(KINDS),
        help="transformers, gguf: of the tensors; q8_0, in eight bits: gguf (the checkpoint's own)",
    )
    parser.add_argument(
        "--int8", action="store_true", help="onnx: beside the file in float32 one with weights in eight bits"
    )
    parser.add_argument(
        "--weights", choices=PLACES, default="inside", help="stablehlo: in the program, or in a file beside it (inside)"
    )
    parser.add_argument(
        "--generation", action="store_true", help="stablehlo: also a program that continues texts, token by token"
    )


def run(arguments: argparse.Namespace) -> Outcome:
    check_output(arguments.out, arguments.overwrite)
    model = flags.load(arguments)
    chosen: str = FORMER_NAMES.get(arguments.format) or arguments.format
    written = export(
        model,
        arguments.out,
        format=chosen,
        fill_zeros=arguments.fill_zeros,
        overwrite=arguments.overwrite,
        dtype=arguments.dtype,
        int8=arguments.int8,
        weights=arguments.weights,
        generation=arguments.generation,
    )
    data = {
        "model": arguments.model,
        "out": arguments.out,
        "format": chosen,
        "dtype": written.dtype,
        "fill_zeros": arguments.fill_zeros,
        "bytes": written.bytes,
        "errors": dict(written.errors),
        "config": written.config,
        "warnings": [*model.provenance.warnings, *written.warnings],
    }
    full = "those of the source, zeros where units were removed" if arguments.fill_zeros else "the model's own"
    if "auto_map" in written.config:
        full += f"; {MODELLING} builds it in transformers, with trust_remote_code=True"
    facts = {
        "class": written.config.get("architectures", [None])[0],
        "sizes": full,
        f"bytes ({written.dtype})": si(written.bytes, "B"),
        **{f"largest error of {file}": f"{error:.2g}" for file, error in written.errors.items()},
    }
    return Outcome(data, (facts_table(arguments.out, facts),))
