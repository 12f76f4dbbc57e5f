"""Predictions in words, a line or a few each."""

from ..evaluation.fill import MaskPrediction
from ..evaluation.readings import (
    AnswerPrediction,
    ClassPrediction,
    NumberPrediction,
    Prediction,
    SeveralPrediction,
)


def said(prediction: Prediction) -> str:
    """What a person reads of a prediction."""
    if isinstance(prediction, ClassPrediction):
        return f"{prediction.label} ({prediction.probability:.1%})"
    if isinstance(prediction, SeveralPrediction):
        named = (f"{label} ({prediction.probabilities[label]:.1%})" for label in prediction.labels)
        return ", ".join(named) or "none of the labels"
    if isinstance(prediction, NumberPrediction):
        return f"{prediction.value:.4f}"
    if isinstance(prediction, AnswerPrediction):
        return f"{prediction.answer or 'no answer'} ({prediction.probability:.1%})"
    if isinstance(prediction, MaskPrediction):
        of_mask = (", ".join(f"{entry.token} ({entry.probability:.1%})" for entry in best) for best in prediction.masks)
        return "; ".join(of_mask)
    return " ".join(f"{word.word}/{word.tag}" if word.tag is not None else word.word for word in prediction.tags)
