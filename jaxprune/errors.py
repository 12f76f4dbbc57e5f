"""What can go wrong with what a user hands us, as values a caller can catch.

`except jaxprune.JaxpruneError` catches all of it: files, texts, labels, budgets and settings that do not do, numbers
that are not finite, places that cannot be written. Its subclasses (`jaxprune.errors`) say which of these. All are
`ValueError`s, and a message is one line: what came, what was expected, what to do, in the words of Python. Anything
else that is raised is a fault of ours, but for KeyboardInterrupt, and for what JAX says where memory runs out.

A doubt is no error: see `jaxprune.doubts`.
"""

from collections.abc import Sequence


class JaxpruneError(ValueError):
    """Base of all errors that a user's input can cause."""


class CheckpointError(JaxpruneError):
    """A checkpoint that is missing, truncated, misshapen, unsafe or of an unknown kind."""


class UnknownHeadError(CheckpointError):
    """A checkpoint whose head is of a kind that we do not have: it loads without one, or with another."""


class UnknownSettingError(CheckpointError):
    """Settings of a config.json that are not understood; `names` are what they can be ignored by."""

    def __init__(self, message: str, names: Sequence[str]):
        super().__init__(message)
        self.names = tuple(names)


class FormerName(FutureWarning):
    """A setting was given by the name that it had in an earlier release."""


class DataError(JaxpruneError):
    """Texts or labels that are missing, malformed or do not fit the model."""


class BudgetError(JaxpruneError):
    """A budget outside (0, 1), or one that no cut of the model can meet."""


class SettingsError(JaxpruneError):
    """A setting outside its range."""


class NumericalError(JaxpruneError):
    """NaN or Inf in weights, activations or loss; the message names where."""


class OutputError(JaxpruneError):
    """An output folder that exists, or that cannot be written."""
