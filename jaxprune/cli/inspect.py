"""Show what a folder holds: sizes of every layer, and the record of how it was pruned."""

import argparse
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from ..checkpoint.config import as_config, family_of
from ..checkpoint.files import listed
from ..checkpoint.read import weight_bytes
from ..errors import CheckpointError
from ..model import Architecture
from ..model.patches import Patches
from ..pruning.cost import flops, parameters, whole_flops, whole_parameters
from ..report.tables import facts_table, layers_table, percent, si
from . import flags
from .outcome import Outcome

SHOWN = (
    "source",
    "hub",
    "method",
    "settings",
    "budget",
    "scores",
    "masked_vs_cut",
    "seconds",
    "dense_forwards",
    "calibration",
    "reused",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_model(parser)
    parser.add_argument(
        "--length", type=int, metavar="N", help="tokens at which FLOPs are counted (128; of images those of one)"
    )


def run(arguments: argparse.Namespace) -> Outcome:

    model = flags.load(arguments)
    architecture, record, patches = model.architecture, model.provenance.record, model.architecture.patches
    length = arguments.length or (128 if patches is None else patches.tokens)
    types = ", ".join(sorted(set(model.provenance.dtypes.values())))
    data = {
        "model": arguments.model,
        "family": architecture.family,
        "hidden": architecture.hidden,
        "head_width": architecture.head_width,
        "vocab": architecture.vocab,
        "patches": None if patches is None else asdict(patches),
        "head": architecture.head,
        "labels": architecture.labels,
        "layers": [
            {"groups": size.groups, "heads": size.heads, "neurons": size.neurons} for size in architecture.layers
        ],
        "length": length,
        "flops": whole_flops(architecture, length),
        "prunable_flops": flops(architecture, length),
        "parameters": whole_parameters(architecture),
        "prunable_parameters": parameters(architecture),
        "bytes": 4 * whole_parameters(architecture),
        "dtype": types,
        "disk_bytes": weight_bytes(str(model.provenance.source)),
        "record": {name: entry for name, entry in record.items() if name != "source_config"} or None,
        "warnings": list(dict.fromkeys([*model.provenance.warnings, *record.get("warnings", [])])),
    }
    facts = {
        "family": f"{architecture.family}, hidden {architecture.hidden}, head width {architecture.head_width}",
        "images": None if patches is None else told_images(patches),
        "head": told_head(architecture),
        f"FLOPs at {length} tokens": f"{si(data['flops'])} ({si(data['prunable_flops'])} in heads and neurons)",
        "parameters": f"{si(data['parameters'])} ({si(data['prunable_parameters'])} in heads and neurons)",
        "bytes (float32)": si(data["bytes"], "B"),
        "weights on disk": f"{si(data['disk_bytes'], 'B')} in {types}",
        "removed": told_removed(record),
        **{name.replace("_", " "): record.get(name) for name in SHOWN},
    }
    before = dense_architecture(record)
    changed = before is not None and before.layers != architecture.layers
    return Outcome(
        data, (facts_table(arguments.model, facts), layers_table(architecture, length, before if changed else None))
    )


def told_images(patches: Patches) -> str:
    p = patches
    size = f"{p.height} x {p.width} pixels in {p.channels} channel{'s' if p.channels > 1 else ''}"
    return f"{size}, patches of {p.patch_height} x {p.patch_width}, {p.tokens} tokens"


def told_head(architecture: Architecture) -> str:
    """The head, with how many labels it has and the first of them."""
    if not architecture.labels:
        return architecture.head
    return f"{architecture.head} of {len(architecture.labels)}: {listed(architecture.labels)}"


def told_removed(record: Mapping[str, Any]) -> str | None:
    """The shares that a pruning took, and the text length at which FLOPs were counted then."""
    removed = record.get("removed", {})
    shares = [f"{percent(value)} of {name}" for name, value in removed.items() if name != "length"]
    length = removed.get("length") or (record.get("budget") or {}).get("length")
    in_all = [f"{percent(value)} of {name}" for name, value in record.get("removed_in_all", {}).items()]
    told = ", ".join(shares) + (f" (FLOPs at {length} tokens)" if length else "")
    told += f"; with earlier prunings {', '.join(in_all)}" if in_all else ""
    return told if shares else None


def dense_architecture(record: Mapping[str, Any]) -> Architecture | None:
    """The model that was pruned, as its own configuration in the record describes it; None without one."""
    config, where = record.get("source_config"), "source_config"
    with suppress(CheckpointError):  # written by another version: the folder's own numbers are still worth showing
        return None if config is None else as_config(family_of(config, where), config, where)
    return None
