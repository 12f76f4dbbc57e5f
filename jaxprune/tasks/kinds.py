"""What a kind of task is: one row for each. How it is read and scored stands in tables of `evaluation`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from ..model.architecture import HeadKind
from .example import Kind

_SHARE = "add train.jsonl to the folder, or pass validation=0.05 to set a share aside"


class TaskKind(NamedTuple):
    """One kind of task."""

    head: HeadKind | None  # that it needs; None: it cannot be scored
    scores: tuple[str, ...] = ("",)  # the metrics of data of one's own, the primary one first
    running: bool = False  # one running text
    samples: int = 512  # to calibrate on, where a command is not told
    # What to do where there are no texts to calibrate on, or to train on.
    to_calibrate: str = "add train.jsonl there, or pass Calibration.of_texts(texts)"
    to_train: str = "add train.jsonl there"
    also: tuple[HeadKind, ...] = ()  # other heads that it is scored with
    pairs_too: bool = False  # a model with one output for a pair of texts is scored on it as well
    apart: bool = False  # the two texts of a pair are read one by one
    labelled: bool = True  # its texts have labels; where not, what is predicted is in the texts


KINDS: Mapping[Kind, TaskKind] = MappingProxyType(
    {
        "single_label": TaskKind("classification", ("accuracy",)),
        "multi_label": TaskKind("classification", ("f1", "f1_macro", "accuracy")),
        "regression": TaskKind("classification", ("pearson", "spearman")),
        "question_answering": TaskKind("question_answering", ("f1",)),
        "token_classification": TaskKind("token_classification", ("f1", "precision", "recall", "accuracy")),
        "language": TaskKind(
            "causal_lm",
            ("perplexity",),
            True,
            16,
            "pass calibration=FILE",
            "pass train=FILE",
            also=("masked_lm",),
            labelled=False,
        ),
        "chat": TaskKind(
            "causal_lm",
            ("perplexity",),
            samples=64,
            to_calibrate=_SHARE,
            to_train=_SHARE,
            labelled=False,
        ),
        "sts": TaskKind("embedding", ("spearman", "pearson"), pairs_too=True),
        "retrieval": TaskKind("embedding", ("ndcg@10", "recall@10", "recall@100"), pairs_too=True),
        "pairs": TaskKind("embedding", ("accuracy", "mrr"), to_calibrate=_SHARE, to_train=_SHARE, apart=True),
        "unlabelled": TaskKind(None),
    }
)
