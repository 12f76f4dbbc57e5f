"""What a kind of task is: one row for each. How it is read and scored stands in tables of `evaluation`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from ..model.architecture import HeadKind
from .example import Kind


class TaskKind(NamedTuple):
    """One kind of task."""

    head: HeadKind | None  # that it needs; None: it cannot be scored
    scores: tuple[str, ...] = ("",)  # the metrics of data of one's own, the primary one first
    running: bool = False  # one running text
    to_calibrate: str = "add train.jsonl there, or pass Calibration.of_texts(texts)"  # where there is nothing to
    labelled: bool = True  # its texts have labels; where not, what is predicted is in the texts


KINDS: Mapping[Kind, TaskKind] = MappingProxyType(
    {
        "single_label": TaskKind("classification", ("accuracy",)),
        "multi_label": TaskKind("classification", ("f1", "f1_macro", "accuracy")),
        "regression": TaskKind("classification", ("pearson", "spearman")),
        "question_answering": TaskKind("question_answering", ("f1",)),
        "token_classification": TaskKind("token_classification", ("f1", "precision", "recall", "accuracy")),
        "language": TaskKind("causal_lm", ("perplexity",), True, "pass calibration=FILE", labelled=False),
        "chat": TaskKind(
            "causal_lm",
            ("perplexity",),
            to_calibrate="add train.jsonl to the folder, or pass validation=0.05 to set a share aside",
            labelled=False,
        ),
        "unlabelled": TaskKind(None),
    }
)
