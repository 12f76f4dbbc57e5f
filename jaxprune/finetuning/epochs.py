"""The batches of every epoch: all texts, in a new order, as many a batch as were asked for, in one shape."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import overload

import jax
import numpy as np

from ..model import Architecture, Batch
from ..runtime.devices import Devices
from ..tokens.encoded import Encoded
from ..tokens.masking import SHARE, masked_anew
from ..tokens.packing import STEP, TOGETHER, batch_of, check_encoded, fill_rows, row_length
from ..tokens.token_file import Ragged
from .settings import Train

CROWD = (
    8.0  # texts that may share a row, as a multiple of those that fit: documents cut into parts leave many short ends
)


Share = tuple[int, int]  # which part of the rows of every batch: its number, and how many there are
WHOLE: Share = (0, 1)
Build = Callable[[np.ndarray, Share], Batch]


class Epoch(Sequence[Batch]):
    """The batches of an epoch, each made when it is asked for: a run that goes on in the middle makes none before."""

    def __init__(self, chosen: Sequence[np.ndarray], build: Build, counts: np.ndarray, share: Share = WHOLE):
        # By batch: what `build` makes it of, and how many texts all of it holds.
        self._chosen, self._build, self.counts, self._share = chosen, build, counts, share

    def part(self, share: Share) -> "Epoch":
        """The same with a part of the rows of every batch alone, such as one process's; other texts are not read."""
        return Epoch(self._chosen, self._build, self.counts, share)

    def changed(self, change: Callable[[Batch], Batch]) -> "Epoch":
        """The same batches with something done to each when it is made."""
        return Epoch(self._chosen, lambda chosen, share: change(self._build(chosen, share)), self.counts, self._share)

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> "Epoch": ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return Epoch(self._chosen[index], self._build, self.counts[index], self._share)
        return self._build(self._chosen[index], self._share)


Change = Callable[[np.ndarray, np.random.RandomState], np.ndarray]  # a text's token ids -> as many token ids


def shuffled(
    encoded: Encoded,
    architecture: Architecture,
    *,
    size: int,
    seed: int = 0,
    length: int | None = None,
    multiple: int = 1,
    devices: int = 1,
    change: Change | None = None,
) -> Callable[[int], Epoch]:
    """What `train` takes as batches: `batches(epoch)` is all texts anew, in an order that seed and epoch decide.

    A batch holds `size` texts, or groups of those that belong together (`encoded.together`), which share a row with
    each other and with further ones; the last one of an epoch holds those that are left over. All
    batches of all epochs have one shape: `length` slots a row (by default those that leave the least padding), and rows
    filled up with empty ones to a multiple of `multiple`, and then to one that divides into `devices` too: the places
    of texts do not depend on these, and so no noise does. `change` may alter a text's tokens, differently in every
    epoch, such as drop words from it. Raises `DataError` as `pack` does.

    Every batch has one text of each of `size` groups of about equal length. So all need about as much room, and one
    plan of rows, made for the longest text of each group, serves them all: it has room for at most one text more, of
    the greatest length, than a batch needs.
    """
    each = encoded.together
    lengths = encoded.lengths.reshape(-1, each).sum(axis=1)
    length = encoded.slots if length is None else length
    size, slots = min(size, max(len(lengths), 1)), row_length(lengths, length)
    check_encoded(encoded, encoded.lengths, slots, architecture)
    whole, rest = divmod(len(lengths), size)  # batches that are full, and texts left over
    longest = np.sort(lengths)[::-1][:: whole or 1][:size]
    shortest = slots if length is not None else -(-int(longest[0]) // STEP) * STEP
    plans = {  # slots a row -> [row] -> groups
        slots: fill_rows(np.arange(size), longest, slots) for slots in range(shortest, slots + 1, STEP)
    }
    room = {slots: -(-len(plan) // multiple) * multiple * slots for slots, plan in plans.items()}
    slots = min(room, key=lambda slots: (room[slots], slots))
    plan = plans[slots]
    rows = -(-room[slots] // slots // (multiple * devices)) * multiple * devices
    places = max(map(len, plan)) * each

    def batches(epoch: int) -> Epoch:
        random = np.random.RandomState([seed, epoch])
        order = random.permutation(len(lengths))  # decides between texts of one length
        ids = encoded.ids
        if change is not None:
            ids = [np.zeros(0, np.int32)] * len(encoded)
            for text in (order[:, None] * each + np.arange(each)).ravel().tolist():
                ids[text] = change(encoded.ids[text], random)
        order = order[np.argsort(-lengths[order], kind="stable")]
        # Those left over come from all lengths too, and are then no longer than those of a whole batch.
        bounds = np.arange(rest + 1) * len(order) // max(rest, 1)
        left_over = random.randint(bounds[:-1], bounds[1:])
        groups = np.delete(order, left_over).reshape(size, whole)
        groups = np.take_along_axis(groups, random.random_sample(groups.shape).argsort(axis=1), axis=1)
        chosen = [*groups.T, *([order[left_over]] if rest else [])]
        altered = replace(encoded, ids=ids)

        def build(texts: np.ndarray, share: Share) -> Batch:
            mine = _own_rows(rows, share)
            own_shape = (mine.stop - mine.start, slots, places)
            return batch_of(_rows(plan, texts, each)[mine], altered, architecture, own_shape)

        return Epoch(chosen, build, np.array([each * len(texts) for texts in chosen]))

    return batches


def packed(
    encoded: Encoded,
    architecture: Architecture,
    *,
    size: int,
    length: int,
    seed: int = 0,
    multiple: int = 1,
) -> Callable[[int], Epoch]:
    """As `shuffled`, but a batch holds `size` rows of `length` slots, which are filled as full as texts allow.

    Which texts share a row is drawn once, with the seed; the order of rows anew for every epoch. None sees another.
    """
    lengths = encoded.lengths
    check_encoded(encoded, lengths, length, architecture)
    random = np.random.RandomState(seed)
    order = random.permutation(len(lengths))
    flats, sizes = [], []
    for at in range(0, len(order), TOGETHER):  # some thousands at a time: as full as all together, in little memory
        rows = fill_rows(order[at : at + TOGETHER], lengths, length, CROWD)
        flats.append(np.concatenate([np.array(row, np.int64) for row in rows]))
        sizes.append(np.array([len(row) for row in rows]))
    counts = np.concatenate(sizes)
    filled = Ragged(np.concatenate(flats), np.cumsum(counts))  # [row] -> texts
    size = min(size, len(filled))
    rows, texts = -(-size // multiple) * multiple, int(counts.max())

    def build(numbers: np.ndarray, share: Share) -> Batch:
        mine = _own_rows(rows, share)
        own_shape = (mine.stop - mine.start, length, texts)
        return batch_of([filled[row] for row in numbers[mine]], encoded, architecture, own_shape)

    def batches(epoch: int) -> Epoch:
        order = np.random.RandomState([seed, epoch]).permutation(len(filled))
        chosen = [order[at : at + size] for at in range(0, len(order), size)]
        return Epoch(chosen, build, np.array([counts[numbers].sum() for numbers in chosen]))

    return batches


def own_part(batches: Sequence[Batch], share: Share) -> Sequence[Batch]:
    """The batches with a part of their rows alone."""
    if share == WHOLE:
        return batches
    if isinstance(batches, Epoch):
        return batches.part(share)
    cut = lambda leaf: leaf[_own_rows(len(leaf), share)]  # noqa: E731
    return [jax.tree.map(cut, batch) for batch in batches]


def _own_rows(rows: int, share: Share) -> slice:
    """Which of a batch's rows are of a part."""
    return slice(rows * share[0] // share[1], rows * (share[0] + 1) // share[1])


def batches_for(
    encoded: Encoded, architecture: Architecture, settings: Train, devices: Devices = Devices()
) -> Callable[[int], Epoch]:
    """The batches that `settings` ask for, whose rows divide into its parts on these devices.

    A batch holds so many texts; or rows, where texts are packed into rows of one length (`encoded.row`). Words are
    masked anew in every epoch where texts are to be learnt from so.
    """
    size, seed, parts = settings.batch_size, settings.seed, settings.accumulate
    if encoded.row is not None:
        multiple = parts * devices.data
        return packed(encoded, architecture, size=size, length=encoded.row, seed=seed, multiple=multiple)
    batches = shuffled(encoded, architecture, size=size, seed=seed, multiple=parts, devices=devices.data)
    if encoded.masking is None:
        return batches
    return lambda epoch: batches(epoch).changed(masks_of(encoded, settings, epoch))


def masks_of(encoded: Encoded, settings: Train, epoch: int) -> Callable[[Batch], Batch]:
    """What becomes of a batch of these texts in an epoch: words are masked, where texts are to be learnt from so."""
    masking, share = encoded.masking, SHARE if settings.mask_share is None else settings.mask_share
    if masking is None:
        return lambda batch: batch
    return lambda batch: masked_anew(batch, masking, share, settings.seed, epoch)


def remembered(batches: Callable[[int], Sequence[Batch]]) -> Callable[[int], list[Batch]]:
    """The same, without packing an epoch's texts anew for everyone who reads it after another."""
    last: dict[int, list[Batch]] = {}

    def of(epoch: int) -> list[Batch]:
        held = last.get(epoch)
        if held is None:  # in one step each: two threads may ask
            held = list(batches(epoch))
            last.clear()
            last[epoch] = held
        return held

    return of


def text_counts(batches: Sequence[Batch]) -> np.ndarray:
    """How many texts each batch holds."""
    if isinstance(batches, Epoch):
        return batches.counts
    return np.array([np.sum(np.asarray(batch.index) >= 0) for batch in batches])


def batch_shape(batches: Sequence[Batch]) -> dict[str, int | float]:
    """What a record says of an epoch's batches: their shape, how many they are, and the mean of their texts."""
    rows, length = batches[0].ids.shape
    return {"rows": rows, "length": length, "steps": len(batches), "texts": float(text_counts(batches).mean())}


def batch_doubts(batches: Sequence[Batch], settings: Train, devices: Devices = Devices()) -> tuple[str, ...]:
    """A warning where the texts of a step fill fewer rows than it has parts on all devices."""
    filled = int(np.sum(np.any(batches[0].index >= 0, axis=1)))
    if filled >= settings.accumulate * devices.data:
        return ()
    if devices.data > 1:
        return (
            f"the {settings.batch_size} texts of a step fill {filled} rows, so that "
            f"{settings.accumulate * devices.data - filled} of the {settings.accumulate * devices.data} that "
            f"{devices.data} devices compute are empty; larger batches take no longer.",
        )
    return (
        f"accumulate {settings.accumulate}: the {settings.batch_size} texts of a step fill {filled} rows, so that "
        f"{settings.accumulate - filled} of its parts are empty; {filled} parts take as little memory.",
    )


def first_steps(batches: Callable[[int], Sequence[Batch]], steps: int) -> Callable[[int], list[Batch]]:
    """One epoch of the first `steps` batches, of as many epochs as that takes."""
    all_batches: list[Batch] = []
    epoch = 0
    while len(all_batches) < steps:
        all_batches += batches(epoch)
        epoch += 1
    return lambda _: all_batches[:steps]


def first_texts(batches: Sequence[Batch], count: int, together: int = 1) -> list[Batch]:
    """The first batches, as far as they hold `count` texts, or groups of so many texts that belong together: of the
    last batch a part, evenly from all its rows.
    """
    chosen = []
    for batch in batches:
        index = np.asarray(batch.index).ravel()
        there = index[(index >= 0) & (index % together == 0)] // together
        if len(there) > count:
            some = there[np.arange(count) * len(there) // count]
            batch = _only(batch, np.flatnonzero((index >= 0) & np.isin(index // together, some)))
        chosen.append(batch)
        count -= len(there)
        if count <= 0:
            break
    return chosen


def _rows(plan: Sequence[Sequence[int]], texts: np.ndarray, each: int) -> list[list[int]]:
    """The plan's rows with the texts of its groups, `each` of them that belong together; of groups without, nothing."""
    return [
        [each * int(texts[group]) + place for group in row if group < len(texts) for place in range(each)]
        for row in plan
    ]


def _only(batch: Batch, places: np.ndarray) -> Batch:
    """The batch without the texts that do not stand at these places of its flattened index."""
    stays = np.zeros(batch.index.size, bool)
    stays[places] = True
    stays = stays.reshape(batch.index.shape)
    of_token = np.pad(stays, [(0, 0), (1, 0)])  # by segment: 0 is padding
    real = np.take_along_axis(of_token, np.asarray(batch.segments), axis=1)
    return batch._replace(index=np.where(stays, batch.index, -1), segments=np.where(real, batch.segments, 0))  # type: ignore[arg-type]
