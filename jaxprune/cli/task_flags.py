"""Flags that name a task and its files: `--task`, `--data` and what belongs to them."""

import argparse
from collections.abc import Sequence
from typing import Any

from .. import tasks
from ..errors import DataError

# What says nothing without a task; --seq-len does.
OF_TASK = ("data", "train_data", "set_aside", "min_score", "documents", "hub_rows", "windows")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def given_flags(arguments: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Those of `names` that are on the command line: not None, False or an empty list, as flags left out are."""
    values = {name: getattr(arguments, name, None) for name in names}
    return [name for name, value in values.items() if not (value is None or value is False or value == [])]


def add_task(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--task",
        required=required,
        metavar="NAME",
        help="a GLUE task (sst2, mrpc, …), squad, squad2, "
        "text-classification or token-classification for a folder of your own, "
        "sts, retrieval or pairs: of embedding models, how alike sentences are, a search, or pairs to train on; "
        "text: perplexity of a language model, or chat: of what the assistant says; "
        "images: class folders, or an .npz",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        help="local files of the task; of retrieval a folder, or corpus, queries and qrels; of text files, plain or "
        "JSON lines, of chat JSON lines, of images a folder or an .npz; for text and chat "
        "hub:ORG/NAME[:SPLIT[:CONFIG]] with --hub-rows (default: the hub, through datasets)",
    )
    parser.add_argument(
        "--train-data",
        nargs="+",
        metavar="FILE",
        help="text, chat and pairs: files to train on, beside those of --data",
    )
    parser.add_argument(
        "--set-aside",
        type=float,
        metavar="SHARE",
        help="chat, pairs, images: score this share, or number, of what --data holds, and train on the others",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="NUMBER",
        help="pairs: of pairs that have a score or label, train on those with at least this one",
    )
    parser.add_argument(
        "--documents", action="store_true", help="text: every text of a JSON file, and every plain file, is its own"
    )
    parser.add_argument("--hub-rows", type=int, metavar="N", help="of every hub:…, take the first N rows")
    parser.add_argument(
        "--seq-len",
        type=int,
        metavar="N",
        help="the most tokens of a text, longer ones are cut (128; chat 1024); tokens of a window (squad 384, text "
        "512)",
    )
    parser.add_argument("--windows", type=int, metavar="K", help="text: score the first K windows at most")


def task(arguments: argparse.Namespace) -> Any:
    """The task that the flags name; None where they name none. Raises `DataError`, also for flags that need one."""
    if arguments.task is None:
        if alone := given_flags(arguments, (*OF_TASK, "limit")):
            raise DataError(f"{flag(alone[0])} is for a task, and none is named; name it with --task, or leave it out.")
        return None
    if arguments.hub_rows is not None and not _names_hub(arguments):
        raise DataError("--hub-rows is for hub:…, which no flag names; name it with --data, or leave it out.")
    own = tasks.OPTIONS.get(arguments.task, ())
    asked = {"windows": arguments.windows, "documents": arguments.documents or None}
    for name, value in asked.items():
        if value is not None and name not in own:
            raise DataError(f"{flag(name)} belongs to --task text, not to {arguments.task}.")
    options = {name: value for name, value in asked.items() if value is not None}
    if arguments.min_score is not None:
        if "min_score" not in own:
            raise DataError(f"--min-score belongs to --task pairs, not to {arguments.task}; leave it out.")
        options["min_score"] = arguments.min_score
    if getattr(arguments, "calibration_texts", None) is not None and "calibration" in own:
        options["calibration"] = _sources(arguments, [arguments.calibration_texts])
    data, train = _sources(arguments, arguments.data), _sources(arguments, arguments.train_data)
    if arguments.set_aside is not None and "validation" not in own:
        raise DataError(f"--set-aside belongs to --task chat, pairs and images, not to {arguments.task}.")
    if train is not None:
        if arguments.task not in tasks.FILES:
            raise DataError(f"--train-data belongs to --task text, chat and pairs, not to {arguments.task}.")
        if arguments.set_aside is not None:
            raise DataError("--train-data and --set-aside both say what is trained on; leave one of them out.")
        if "train" in own:
            options["train"] = train
        else:  # files to train on, beside those that are scored
            data, options["validation"] = train, data
    elif arguments.set_aside is not None:
        options["validation"] = arguments.set_aside
    return tasks.load(arguments.task, data, length=arguments.seq_len, **options)


def _sources(arguments: argparse.Namespace, names: Sequence[str] | None) -> Any:
    """Files, or rows of the hub, as a task takes them: one, several, or None."""
    if names is None:
        return None
    sources = [_hub(arguments, name) if name.startswith("hub:") else name for name in names]
    return sources[0] if len(sources) == 1 else sources


def _names_hub(arguments: argparse.Namespace) -> bool:
    """Whether rows of the hub are named by any flag, those of other files of flags among them."""
    names = [*(arguments.data or ()), *(arguments.train_data or ())]
    names += [getattr(arguments, name, None) or "" for name in ("calibration_texts", "recover_texts")]
    return any(name.startswith("hub:") for name in names)


def _hub(arguments: argparse.Namespace, name: str) -> tasks.Hub:
    dataset, *rest = name.removeprefix("hub:").split(":")
    if not dataset or len(rest) > 2 or not all(rest):
        raise DataError(f"{name} is not understood; write hub:ORG/NAME, hub:ORG/NAME:SPLIT or …:SPLIT:CONFIG.")
    if arguments.hub_rows is None:
        raise DataError(f"{name} has any number of rows; say how many are taken with --hub-rows N.")
    return tasks.Hub(dataset, arguments.hub_rows, *rest)
