"""A limit on the bytes of a device: layers are recomputed where a run fits only so, and what never fits is refused."""

from collections.abc import Callable, Mapping

from ..checks import is_whole
from ..errors import SettingsError

TENTH = 0.9  # predictions are within a tenth, most of them: what is closer to the limit begins, and is measured


def check_limit(limit: int | None) -> None:
    """Raise `SettingsError` for a `device_limit` that is no number of bytes."""
    if limit is not None and (not is_whole(limit) or limit < 1):
        raise SettingsError(f"device_limit must be a positive whole number of bytes, got {limit!r}.")


def over(name: str, needed: int, limit: int, verb: str, recomputed: bool = False) -> SettingsError:
    """The error of a phase that took, needs or is predicted to need more than the limit; `recomputed`: with `remat`."""
    cure = (
        "or take smaller batches"
        if recomputed
        else "take smaller batches, or recompute layers (remat, where it is off)"
    )
    with_it = " with layers recomputed" if recomputed else ""
    return SettingsError(
        f"{name} {verb} {needed:,} bytes on the device{with_it}, the limit is {limit:,}; remove or freeze more, {cure}."
    )


def recomputes(
    asked: bool | None, limit: int | None, needed: Callable[[bool], Mapping[str, int]]
) -> tuple[bool, tuple[str, ...]]:
    """Whether layers are recomputed in the backward pass, and a doubt that says so where nobody `asked`.

    `needed` gives the predicted bytes of every phase, with or without that. Nobody having asked, it is on where the
    largest is above `limit` without and may be within it with it. Raises `SettingsError` where a phase is sure to need
    more than `limit`.
    """
    if limit is None:
        return bool(asked), ()
    largest = lambda remat: max(needed(remat).items(), key=lambda phase: phase[1])  # noqa: E731
    on, doubts = bool(asked), ()
    name, most = largest(on)
    if asked is None and most > limit:
        other, less = largest(True)
        if TENTH * less <= limit and less < most:
            doubts = (
                f"layers are recomputed in the backward pass (remat): {name} is predicted to need {most:,} bytes on "
                f"the device without it, {other} {less:,} with it; the limit is {limit:,}.",
            )
            on, name, most = True, other, less
        elif less < most:
            raise over(other, less, limit, "is predicted to need", recomputed=True)
    if TENTH * most > limit:
        raise over(name, most, limit, "is predicted to need", recomputed=on)
    return on, doubts
