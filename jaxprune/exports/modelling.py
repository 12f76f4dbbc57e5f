"""The file by which transformers builds a model whose layers differ; it is written, never run, here."""

from collections import defaultdict
from importlib.resources import files
from string import Template

from ..checkpoint.families import Family
from ..checkpoint.head_names import HEAD_NAMES
from ..checkpoint.layout import holder_of
from ..checkpoint.uneven import MODELLING, PREFIX
from ..model.architecture import UNIT_AXES, HeadKind

_CLASS = "class {prefix}{name}(PrunedLayers, {name}):\n    pass"


def modelling_text(family: Family, head: HeadKind) -> str:
    """The text of the modelling file for models of a family with that head, and without one."""
    names = dict.fromkeys(HEAD_NAMES[kind].class_name(family) for kind in (head, "none"))
    parts = defaultdict(list)  # of each module that holds projections
    for half, projections in UNIT_AXES.items():
        for name, leaves in projections.items():
            if "kernel" in leaves and (module := family.modules.get(f"layers.{{}}.{half}.{name}")) is not None:
                parts[holder_of(module, family)[0]].append(name)
    rows = (f'    "{module}": [{", ".join(f"{name!r}" for name in held)}],' for module, held in parts.items())
    return Template(files("jaxprune.exports").joinpath(f"{MODELLING}.txt").read_text(encoding="utf-8")).substitute(
        model_type=family.model_type,
        imports=", ".join(sorted(names)),
        projections="\n".join(rows).replace("'", '"'),
        attention=next(iter(parts)).rpartition(".")[0],
        classes="\n\n\n".join(_CLASS.format(prefix=PREFIX, name=name) for name in names),
    )
