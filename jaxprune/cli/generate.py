"""Continue prompts with a language model, dense or pruned."""

import argparse

from ..errors import DataError
from . import flags
from .outcome import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="may be given several times")
    parser.add_argument("--prompts", metavar="FILE", help="prompts, one a line")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="at most so many (64)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="X", help="0: the most likely token (0)")
    parser.add_argument("--top-k", type=int, metavar="N", help="draw among the N most likely tokens")
    parser.add_argument("--top-p", type=float, metavar="X", help="draw among the fewest tokens that hold this share")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    parser.add_argument("--repeat", action="store_true", help="run twice, and time the second run: without compilation")


def run(arguments: argparse.Namespace) -> Outcome:
    from ..checkpoint import load
    from ..data.generate import generate

    prompts = [*arguments.prompt, *(flags.read_lines(arguments.prompts, "--prompts") if arguments.prompts else [])]
    if not prompts:
        raise DataError("there is nothing to continue; give --prompt TEXT or --prompts FILE.")
    model = load(arguments.model, revision=arguments.revision)
    settings = {name: getattr(arguments, name) for name in ("max_new_tokens", "temperature", "top_k", "top_p", "seed")}
    for _ in range(2 if arguments.repeat else 1):
        found = generate(model, prompts, **settings)
    data = {
        "model": arguments.model,
        **settings,
        "texts": [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, found.texts, strict=True)],
        "prompt_tokens": found.prompt_tokens,
        "tokens": found.tokens,
        "seconds": found.seconds,
        "tokens_per_second": found.tokens / found.seconds,
        "compilation_included": not arguments.repeat,
        "warnings": list(model.provenance.warnings),
    }
    return Outcome(data, tuple(f"{prompt}{text}\n" for prompt, text in zip(prompts, found.texts, strict=True)))
