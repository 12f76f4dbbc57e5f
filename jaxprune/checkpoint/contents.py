"""What a folder's files hold, under its family's names: prefixes off, tied tensors told apart, leftovers named."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from .families import Family, HeadModules
from .files import listed
from .head_choice import HeadChoice, class_of, declared_head
from .head_names import HEAD_NAMES, is_bare, kind_of_class, named_alike
from .layout import separated, shared_by
from .read import FLOATS, Stored, read_tensors

# Parts of a name that wrappers add wherever they stand: torch.compile, FSDP, activation checkpointing.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def family_tensors(folder: Path, family: Family, config: Mapping[str, Any]) -> dict[str, Stored]:
    """The files' tensors by the family's names, without the encoder's prefix and what training programs put before it.

    Raises `CheckpointError` where two different tensors come under one name.
    """
    by_name = read_tensors(folder)
    inner = {name: _in_row_names(family, _unwrapped(name)) for name in by_name}
    outer = _outer_prefix(inner.values(), family)
    tensors: dict[str, Stored] = {}
    for name, stored in by_name.items():
        short = inner[name].removeprefix(outer).removeprefix(family.prefix)
        if short in tensors and not _equal(stored, tensors[short]):
            raise CheckpointError(f"{folder} holds two different tensors {short}, one of them as {name}; delete one.")
        tensors[short] = stored
    return separated(tensors, family, shared_by(family, config))


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _in_row_names(family: Family, name: str) -> str:
    for pattern, ours in family.renamed:
        name = re.sub(pattern, ours, name)
    return name


def _outer_prefix(names: Iterable[str], family: Family) -> str:
    """What stands before the family's own names: "module." of a parallel wrapper, "model." of a trainer's; else ""."""
    known = f"{family.modules['layers.{}.feed_forward.down'].format(0)}.weight"
    before = {name[: -len(known)] for name in names if f".{name}".endswith(f".{known}")}
    return before.pop().removesuffix(family.prefix) if len(before) == 1 else ""


def _equal(one: Stored, other: Stored) -> bool:
    return one.shape == other.shape and np.array_equal(one.read(), other.read())


def tied_as_stored(
    family: Family, config: Mapping[str, Any], tensors: Mapping[str, Stored], where: str
) -> tuple[Mapping[str, Any], dict[str, Stored], tuple[str, ...]]:
    """Settings, tensors and warnings of a language model whose head is the token table, as the files bear it out.

    As in transformers: of two equal tensors one serves for both, and so does one that is there alone; where they
    differ, the head counts, and the settings that come back say so.
    """
    if "tied" not in family.keys:
        return config, dict(tensors), ()
    key = family.keys["tied"]
    tied = family.defaults[key] if config.get(key) is None else config[key]
    if tied is not True:  # what is no flag at all is named where the settings are read
        return config, dict(tensors), ()
    table, head = (f"{module}.weight" for module in (family.modules["embed.token"], family.heads["causal_lm"].output))
    if head not in tensors:
        return config, dict(tensors), ()
    if table in tensors and not _equal(tensors[table], tensors[head]):
        warning = (
            f"{where}: {key} is true, but the files hold two different tensors, {table} and {head}: they were not "
            f"tied, as in transformers; {key} = false would say so."
        )
        return {**config, key: False}, dict(tensors), (warning,)
    others = {name: stored for name, stored in tensors.items() if name != head}
    return config, {**others, table: tensors[head]}, ()


def check_one_table(family: Family, kind: str, tensors: Mapping[str, Stored], where: str) -> None:
    """Raise `CheckpointError` where a masked language model's head has a table or a bias of its own in the files.

    Files hold copies of both under the names of a linear layer. Where these differ, transformers takes them.
    """
    head = family.heads.get(kind)
    if head is None or head.transform is None:
        return
    output, token = head.output, f"{family.modules['embed.token']}.weight"
    copies = (
        (f"{output}.weight", token),
        (f"{output}.decoder.weight", token),
        (f"{output}.decoder.bias", f"{output}.bias"),
    )
    for copy, read in copies:
        if copy in tensors and read in tensors and not _equal(tensors[copy], tensors[read]):
            raise CheckpointError(
                f"{where}: the files hold two different tensors, {read} and {copy}, and a masked language model's head "
                "is the token table here; load it with head='none', or take a checkpoint that ties them."
            )


def task_of_head(
    family: Family, config: Mapping[str, Any], tensors: Mapping[str, Stored], where: str, asked: str | None
) -> HeadChoice | None:
    """The task of a head that the files hold and config.json does not name: its class is missing or a bare encoder.

    Of the head that was `asked` for, also where its class is another one, unless that one's tensors are named alike.
    """
    name = class_of(config, where)
    kind = None if name is None else kind_of_class(family, name)
    bare = name is None or (is_bare(kind) and name.lower().endswith("model"))
    for wanted, names in HEAD_NAMES.items():
        head = family.heads.get(wanted)
        stored = None if head is None else tensors.get(head.sign)
        taken = kind is not None and (kind == wanted or named_alike(family, kind, wanted))
        read = bare if asked is None else wanted == asked and not taken
        if read and stored is not None and stored.shape:
            counted = {} if config.get("id2label") or config.get("num_labels") else {"num_labels": stored.shape[0]}
            return declared_head(family, {**config, **counted, "architectures": [names.class_name(family)]}, where)
    return None


def as_stored(declared: HeadChoice | None, family: Family, tensors: Mapping[str, Stored]) -> HeadChoice | None:
    """What config.json says of the head; none where that is one that files may lack, and these do."""
    if declared is None or not HEAD_NAMES[declared.head].optional:
        return declared
    return declared if family.heads[declared.head].sign in tensors else HeadChoice("none")


def unlike_heads(
    declared: HeadChoice | None, family: Family, tensors: Mapping[str, Stored], where: str
) -> tuple[str, ...]:
    """A warning of a head that config.json names and the files hold in another form than it is read in."""
    if declared is None:
        return ()
    head = family.heads.get(declared.head)
    if head is None or head.told_by is None or head.told_by in tensors or f"{head.transform}.weight" not in tensors:
        return ()
    return (
        f"{where}: the files hold a {declared.head} head without {head.told_by}, which is not read; it was left out.",
    )


def unread_heads(family: Family, tensors: Mapping[str, Stored], kind: str, where: str) -> tuple[str, ...]:
    """Warnings of heads in the files, other than that of `kind`, which config.json does not name."""
    told = {family.heads[kind].output} if kind in family.heads else set()
    others = []
    for name, head in family.heads.items():
        if head.output not in told and head.sign in tensors:
            others.append(f"{name.replace('_', ' ')} head")
            told.add(head.output)  # two kinds of heads may lie in one module
    others += _foreign_heads(family, tensors)
    return tuple(f"{where} names no {name}, but the files hold one; it was left out." for name in others)


def left_heads(family: Family, tensors: Mapping[str, Stored], names: Mapping[str, str]) -> list[str]:
    """Heads that the files hold and nothing reads, by module where the family has one; `names` are the tensors read."""
    signs = {head.output: head.sign for head in family.heads.values()}
    unread = [module for module, name in signs.items() if name in tensors and name not in names.values()]
    return unread + _foreign_heads(family, tensors)


def _foreign_heads(family: Family, tensors: Mapping[str, Stored]) -> list[str]:
    """Heads in the files that the family's row has no place for."""
    return [what for module, what in family.left.items() if any(name.startswith(f"{module}.") for name in tensors)]


def check_fit(
    folder: Path,
    expected: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, Stored],
    family: Family,
    head: HeadModules | None,
) -> tuple[str, ...]:
    """Compare the files' tensors with the `expected` shapes; returns warnings that name tensors that nothing reads.

    `head` is the one whose tensors are expected. Raises `CheckpointError` for tensors that are missing, misshapen or
    no plain numbers, and for such as would change the result, had the settings a place for them: a bias, a layer.
    """
    unknown = [name for name in tensors if name not in expected and not _left_out(name, family, head)]
    misplaced = [name for name in unknown if _of_model(name, family, head)]
    complaints = {
        "missing": [f"{name} {list(shape)}" for name, shape in expected.items() if name not in tensors],
        "extra": [f"{name} {list(tensors[name].shape)}" for name in misplaced],
        "misshapen": [
            f"{name} is {list(tensors[name].shape)}, expected {list(shape)}"
            for name, shape in expected.items()
            if name in tensors and tensors[name].shape != shape
        ],
        "not of floats": [
            f"{name} is {tensors[name].dtype}, expected 16 bits or more; quantised weights are not read"
            for name in expected
            if name in tensors and tensors[name].dtype not in FLOATS.values()
        ],
    }
    parts = [f"{complaint}: {listed(names)}" for complaint, names in complaints.items() if names]
    if parts:
        raise CheckpointError(f"the tensors of {folder} do not fit its config.json; {'; '.join(parts)}.")
    strange = [f"{name} {list(tensors[name].shape)}" for name in unknown]
    return (f"{folder} holds tensors that the model does not read: {listed(strange)}.",) if strange else ()


def _left_out(name: str, family: Family, head: HeadModules | None) -> bool:
    """True for tensors that are left out on purpose: of other heads, and what the family's row lists."""
    modules = {module for other in family.heads.values() if other is not head for module in other.modules}
    own = head.modules if head else ()
    apart = [module for module in modules if not any(f"{ours}.".startswith(f"{module}.") for ours in own)]
    patterns = (*family.ignored, *(f"{module}.*" for module in apart))
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _of_model(name: str, family: Family, head: HeadModules | None) -> bool:
    """True for tensors of modules that the family computes, in whatever layer."""
    modules = [*family.modules.values(), *(head.modules if head else ())]
    return any(fnmatchcase(name, f"{module.replace('{}', '*')}.*") for module in modules)
