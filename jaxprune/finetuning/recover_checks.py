"""What recovery asks of its two models: that one can have been cut from the other, and that they read the same."""

from ..checkpoint.manifest import check_all_finite
from ..errors import CheckpointError, SettingsError
from ..model import Architecture, Model
from ..model.heads import head_of
from ..tasks.calibration import Calibration
from ..tokens.encoded import Encoded
from ..tokens.tokenizer import Tokenizer
from ..tokens.windows import encoded_for
from .teacher import check_images, check_row_ids, check_tokens


def check_pair(pruned: Model, dense: Model) -> None:
    """Raise `SettingsError` where `pruned` cannot have been cut from `dense`, or where nothing can be compared;
    `NumericalError` for weights of either that are not finite.
    """
    ours, theirs = pruned.architecture, dense.architecture
    check_predicts(ours)
    for name in ("family", "hidden", "vocab", "head", "problem", "labels"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine != other:
            raise SettingsError(
                f"the pruned model's {name} is {mine}, the dense one's {other}; pass the model that it was made from."
            )
    if len(ours.layers) != len(theirs.layers):
        raise SettingsError(
            f"the pruned model has {len(ours.layers)} layers, the dense one {len(theirs.layers)}; pass the model that "
            "it was made from."
        )
    for number, (mine, other) in enumerate(zip(ours.layers, theirs.layers, strict=True)):
        for what in ("heads", "neurons"):
            cut, whole = getattr(mine, what), getattr(other, what)
            if cut > whole:
                raise SettingsError(
                    f"layer {number} of the pruned model has {cut} {what}, of the dense one {whole}: the pruned model "
                    "comes first, then the dense one; swap the two, or pass the model that it was made from."
                )
    check_all_finite(pruned.params, "the pruned model")
    check_all_finite(dense.params, "the dense model")


def check_predicts(architecture: Architecture) -> None:
    """Raise `SettingsError` for a model that predicts nothing."""
    head = head_of(architecture)
    if head.divergence is None and head.language is None:
        raise SettingsError(
            f"the model's head is {head.name}: it predicts nothing to be brought back; take a model with a head."
        )


def check_reading(pruned: Model, dense: Model, texts: Calibration, encoded: Encoded) -> tuple[str, ...]:
    """Doubts about whether the two read the same; `encoded` are the texts as the dense model reads them.

    Raises `SettingsError` as for the teacher of a fine-tuning: for a token that is another one to the two, or pixels.
    """
    ours, theirs = ((each.provenance.source, each.provenance.tokenizer) for each in (pruned, dense))
    if ours == theirs != (None, None):
        return ()
    try:
        if pruned.architecture.patches is not None:
            return check_images(dense, pruned)
        if texts.ids:
            return check_row_ids(dense.architecture, encoded)
        if Tokenizer.of(pruned).backend.to_str() == Tokenizer.of(dense).backend.to_str():
            return ()
        return check_tokens(dense, pruned, encoded_for(pruned, texts)[0], lambda tokenizer: encoded)
    except CheckpointError as error:
        return (f"that the pruned model reads the same as the dense one could not be checked: {error}",)
    except SettingsError as error:
        raise SettingsError(f"the dense model must read what the pruned one reads: {error}") from error
