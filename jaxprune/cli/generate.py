"""Continue prompts with a language model, dense or pruned."""

import argparse
from pathlib import Path

from ..checkpoint.hub import locate
from ..errors import DataError
from ..evaluation.generate import generate, token_id
from ..report.tables import facts_table
from ..runtime.sampling import Sampling
from ..tasks.jsonl import read_texts
from ..tokens.tokenizer import Tokenizer
from . import flags
from .outcome import Outcome

SAMPLING = ("max_new_tokens", "temperature", "top_k", "top_p", "seed", "batch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="may be given several times")
    parser.add_argument("--prompts", metavar="FILE", help="prompts, one a line, or JSON lines with a text each")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="at most so many (64)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="X", help="0: the most likely token (0)")
    parser.add_argument("--top-k", type=int, metavar="N", help="draw among the N most likely tokens")
    parser.add_argument("--top-p", type=float, metavar="X", help="draw among the fewest tokens that hold this share")
    parser.add_argument("--seed", type=flags.seed, metavar="N", help="of the draws (0)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="prompts that run together, at most (8)")
    parser.add_argument(
        "--end-token",
        action="append",
        metavar="TOKEN",
        help="one that ends a text, instead of the model's own; repeatable",
    )
    parser.add_argument("--end-id", action="append", type=int, metavar="N", help="the same by its id; repeatable")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="compute type (float32); in bfloat16 a text may depend on the prompts it runs beside",
    )


def run(arguments: argparse.Namespace) -> Outcome:
    prompts = [*arguments.prompt, *(_prompts(arguments.prompts) if arguments.prompts else [])]
    if not prompts:
        raise DataError("there is nothing to continue; give --prompt TEXT or --prompts FILE.")
    settings = {name: getattr(arguments, name) for name in SAMPLING}
    Sampling(**{name: settings[name] for name in SAMPLING[:5]})  # in range before the model is read
    ends = [*(arguments.end_token or []), *(arguments.end_id or [])] or None
    if arguments.end_token:  # so are the tokens
        reader = Tokenizer.of(locate(arguments.model, arguments.revision).folder)
        for token in arguments.end_token:
            token_id(reader, token)
    model = flags.load(arguments)
    written = generate(model, prompts, dtype=arguments.dtype, end_ids=ends, **settings)
    costs = written.as_json()
    said = [
        {"prompt": prompt, "text": text, "ids": ids, "ended": ended}
        for prompt, text, ids, ended in zip(
            prompts, costs.pop("texts"), costs.pop("ids"), costs.pop("ended"), strict=True
        )
    ]
    asked = {"model": arguments.model, "dtype": arguments.dtype, "end_tokens": ends, **settings}
    warnings = list(dict.fromkeys([*model.provenance.warnings, *written.warnings]))
    data = {**asked, "texts": said, **costs, "warnings": warnings}
    facts = {
        "new tokens": written.tokens,
        "tokens per second": f"{written.tokens_per_second:.1f}",
        "seconds": written.seconds,
        "compile seconds": written.compile_seconds,
    }
    return Outcome(data, (*(f"{entry['prompt']}{entry['text']}\n" for entry in said), facts_table("Generated", facts)))


def _prompts(file: str) -> list[str]:
    return read_texts(Path(file), paired=False, prompts=True)[0]
