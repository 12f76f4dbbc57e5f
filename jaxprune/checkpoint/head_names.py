"""How checkpoints of transformers tell each kind of head: by the name of their class, and in config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ..model.architecture import HeadKind
from .families import Family


@dataclass(frozen=True, kw_only=True)
class HeadNames:
    """One kind of head. Classes are named by how they end, behind the family's part of the name."""

    ending: str | None = None  # of the class that has it; None: `Family.language_model`
    others: tuple[str, ...] = ()  # of further classes that are read so
    sized: bool = False  # transformers sizes the last layer by the labels, so that they must be this head's
    problems: bool = False  # problem_type says what the labels are to each other
    optional: bool = False  # files may lack it, though config.json names it: then there is no head
    bare: bool = False  # the encoder alone: no head, and no prefix before the names of its tensors
    pipeline: str | None = None  # what the hub calls the task

    def class_name(self, family: Family) -> str:
        """The class of a family's models with this head."""
        if self.ending is None:
            return (family.language_classes or family.classes) + family.language_model
        return family.classes + family.endings.get(self.ending, self.ending)

    @property
    def auto_class(self) -> str:
        """The class of transformers that finds that one."""
        return "AutoModel" if self.bare else f"AutoModel{self.ending or 'ForCausalLM'}"


# In the order in which they are looked for in files that do not say which they hold.
HEAD_NAMES: Mapping[HeadKind, HeadNames] = MappingProxyType(
    {
        "classification": HeadNames(
            ending="ForSequenceClassification", sized=True, problems=True, pipeline="text-classification"
        ),
        "token_classification": HeadNames(ending="ForTokenClassification", sized=True, pipeline="token-classification"),
        "question_answering": HeadNames(ending="ForQuestionAnswering", sized=True, pipeline="question-answering"),
        "causal_lm": HeadNames(others=("ForCausalLM", "LMHeadModel"), pipeline="text-generation"),
        "masked_lm": HeadNames(ending="ForMaskedLM", optional=True, pipeline="fill-mask"),
        # Before "none": a class of that name has no head, unless modules.json says what is made of its hidden states.
        "embedding": HeadNames(ending="Model", bare=True, pipeline="sentence-similarity"),
        "none": HeadNames(
            ending="Model",
            others=("ForPreTraining", "ForMaskedImageModeling"),
            bare=True,
            pipeline="feature-extraction",
        ),
    }
)
WITH_TEACHER = "WithTeacher"  # how the name of a class ends that averages heads of several tokens
# Heads that we do not have, though their tensors are named like those of one that we do.
_NOT_OURS = ("ForMultipleChoice", "ForNextSentencePrediction")
# In small letters: old files write LLaMAForCausalLM.
_KINDS: Mapping[str, HeadKind] = {
    ending.lower(): kind for kind, names in HEAD_NAMES.items() for ending in (names.ending, *names.others) if ending
}

ClassKind = HeadKind | Literal["other", "unknown"]


def kind_of_class(family: Family, name: str) -> ClassKind:
    """Which head a class of that name has; "other" for one of a kind that we do not have."""
    name = name.removeprefix("Flax").removeprefix("TF").lower()
    if family.language_classes is not None and name == (family.language_classes + family.language_model).lower():
        return "causal_lm"
    start = family.classes.lower()
    own = {theirs.lower(): usual.lower() for usual, theirs in family.endings.items()}
    ending = name.removeprefix(start).removesuffix(WITH_TEACHER.lower() if family.averaged else "")
    ending = own.get(ending, ending)
    if not name.startswith(start) or ending not in (*_KINDS, *map(str.lower, _NOT_OURS)):
        return "unknown"
    kind = _KINDS.get(ending)
    if kind is not None and HEAD_NAMES[kind].optional and kind not in family.heads:
        return "none"
    return kind if kind is not None and (HEAD_NAMES[kind].bare or kind in family.heads) else "other"


def is_bare(kind: ClassKind | None) -> bool:
    """True for the encoder alone."""
    return any(names.bare for of, names in HEAD_NAMES.items() if of == kind)


def named_alike(family: Family, kind: ClassKind, wanted: HeadKind) -> bool:
    """True where the tensors of a head of one kind would be taken for those of another, `wanted`."""
    if kind not in HEAD_NAMES:
        return kind != "unknown"
    there = kind in family.heads and wanted in family.heads
    return there and kind != wanted and family.heads[kind].output == family.heads[wanted].output
