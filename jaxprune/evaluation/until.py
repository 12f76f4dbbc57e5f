"""`generate_until` of lm-evaluation-harness: texts continued until one of several strings comes.

A batch is continued by a few tokens, and by more each time; rows in which a string has come stop, and those that go on
are read anew.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..checkpoint.generation import strange, unapplied
from ..errors import DataError, NumericalError
from ..model import Model
from ..runtime.decode import Generated, generate_ids
from ..runtime.programs import Programs
from ..runtime.token_scores import Asked, on_device, scores_of
from ..tokens.packing import STEP, Encoded, batch_of
from ..tokens.requests import RequestReader

FIRST, FASTER = 16, 4  # new tokens before strings are looked for, and how many times more each time after
BACK = 2  # tokens that are looked at beyond those of a string itself: it may be written otherwise
COUNTS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # names of one setting, first first
DRAWN = {"top_k": 50, "top_p": 1.0}  # what transformers does where nobody says anything


@dataclass(frozen=True)
class Wanted:
    """How a request is to be continued."""

    until: tuple[str, ...]
    max_gen_toks: int
    temperature: float = 0.0  # 0: the likeliest token
    top_k: int | None = None
    top_p: float | None = None

    @staticmethod
    def of(number: int, asked: Any, default: int, config: Mapping[str, Any]) -> "Wanted":
        """From a task's generation_kwargs; `config` is the model's generation_config.json, for what they leave out.

        Raises `DataError` that names the request for settings that change the text and are not done here.
        """
        what = f"request {number}: generation_kwargs"
        if not isinstance(asked, Mapping):
            raise DataError(f"{what} is {asked!r}, expected settings by name.")
        given = dict(asked)
        until = given.pop("until", None)
        until = [until] if isinstance(until, str) else [] if until is None else until
        if not isinstance(until, Sequence) or not all(isinstance(entry, str) for entry in until):
            raise DataError(f"{what} has until={until!r}, expected a string or several.")
        counts = [count for name in COUNTS if (count := given.pop(name, None)) is not None]
        temperature, do_sample = given.pop("temperature", None) or 0.0, given.pop("do_sample", None)
        try:
            count, temperature = float(counts[0] if counts else default), float(temperature)
        except (TypeError, ValueError) as error:
            raise DataError(f"{what} has a count or a temperature that is no number; give numbers.") from error
        if not 1 <= count < float("inf") or count != int(count):
            raise DataError(
                f"{what} asks for {count:g} new tokens; ask for at least 1, and for a whole number of them."
            )
        if not 0 <= temperature < float("inf"):
            raise DataError(
                f"{what} has temperature={temperature}, expected 0 (the likeliest token) or a number above."
            )
        most = int(count)
        drawn = temperature > 0 if do_sample is None else bool(do_sample)
        if drawn and not temperature > 0:
            raise DataError(f"{what} has do_sample without a temperature; give one above 0, or leave do_sample out.")
        # As in transformers, which draws from the best 50 unless it is told otherwise.
        draws = {name: given.pop(name, config.get(name, value)) for name, value in DRAWN.items()} if drawn else {}
        others = unapplied({**given, "do_sample": drawn}, {"temperature": temperature, **draws} if drawn else {})
        if others := (*strange(given), *(entry for entry in others if entry.split()[0] in given)):
            raise DataError(f"{what} has {', '.join(others)}, which is not done here; leave it out.")
        if not drawn:
            return Wanted(tuple(until), most)
        top_p = None if draws["top_p"] is None or draws["top_p"] >= 1 else float(draws["top_p"])
        return Wanted(tuple(until), most, temperature, int(draws["top_k"] or 0) or None, top_p)


@dataclass(frozen=True)
class Writer:
    """What writes: a model, and what ends a text."""

    model: Model
    reader: RequestReader
    programs: Programs
    end_ids: tuple[int, ...]
    batch: int
    dtype: Any
    seed: int

    @staticmethod
    def of(model: Model, reader: RequestReader, programs: Programs, batch: int, dtype: Any, seed: int) -> "Writer":
        """Texts end with the model's own end tokens, and with the tokenizer's."""
        if not programs.devices.stream:
            model = model.replace(params=jax.device_put(model.params))
        eos = reader.tokenizer.eos_token_id
        own = [eos] if eos is not None and eos < reader.rows else []
        return Writer(model, reader, programs, tuple({*model.architecture.end_ids, *own}), batch, dtype, seed)

    def texts(self, prompts: Sequence[np.ndarray], wanted: Wanted) -> Iterator[tuple[int, str]]:
        """(number, new text) of every prompt, long ones first; the text ends before the first string of `until`."""
        order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        for first in range(0, len(order), self.batch):
            numbers = order[first : first + self.batch]
            for number, said in zip(numbers, self._batch([prompts[n] for n in numbers], wanted, first), strict=True):
                yield number, before_first(self.reader.text(said), (*wanted.until, self.reader.end_text))

    def _batch(self, prompts: Sequence[np.ndarray], wanted: Wanted, first: int) -> list[list[int]]:
        said: list[list[int]] = [[] for _ in prompts]
        live, stops = list(range(len(prompts))), self.stops(wanted.until)
        done, step = 0, FIRST if wanted.until and not wanted.temperature else wanted.max_gen_toks
        while live and done < wanted.max_gen_toks:
            new = min(step, wanted.max_gen_toks - done)
            # Rows that have ended make room for copies of one that goes on: the program keeps its shape.
            rows = [*live, *[live[0]] * (len(prompts) - len(live))]
            out = self._more(
                [np.concatenate([prompts[row], said[row]]).astype(np.int32) for row in rows], new, wanted, first
            )
            on = []
            for place, row in enumerate(live):
                before = len(said[row])
                said[row] += out.ids[place, : out.lengths[place]].tolist()
                stop = stops(said[row], before)
                said[row] = said[row][:stop]
                if stop is None and not out.ended[place]:
                    on.append(row)
            live, done, step = on, done + new, step * FASTER
        return said

    def _more(self, prompts: Sequence[np.ndarray], new: int, wanted: Wanted, first: int) -> Generated:
        if self.programs.devices.stream:
            return streamed_ids(self.model, prompts, new, self.end_ids, self.programs)
        drawing: dict[str, Any] = {}
        if wanted.temperature:  # in one go, so that no number is drawn twice; every batch has its own seed
            drawing = {"temperature": wanted.temperature, "top_k": wanted.top_k, "top_p": wanted.top_p}
            drawing["seed"] = (self.seed + first) % 2**32
        return generate_ids(
            self.model,
            prompts,
            max_new_tokens=new,
            end_ids=self.end_ids,
            dtype=self.dtype,
            programs=self.programs,
            **drawing,
        )

    def stops(self, until: Sequence[str]) -> Callable[[Sequence[int], int], int | None]:
        """A function of new tokens, and how many of them were looked at before: how many there are when a string comes.

        As lm-evaluation-harness looks: at the last tokens, special ones included, as many as the string has and two.
        """
        alone = self.reader.encode(list(until), special=False)
        reach = {text: len(ids) + BACK for text, ids in zip(until, alone, strict=True) if text}

        def stop(said: Sequence[int], before: int) -> int | None:
            for end in range(before + 1, len(said) + 1):
                for text, back in reach.items():
                    if text in self.reader.text(said[max(0, end - back) : end], special=True):
                        return end
            return None

        return stop


def before_first(text: str, until: Sequence[str]) -> str:
    """A text before the first of some strings."""
    for stop in until:
        if stop:
            text = text.split(stop)[0]
    return text


def streamed_ids(
    model: Model, prompts: Sequence[np.ndarray], new: int, end_ids: Sequence[int], programs: Programs
) -> Generated:
    """The likeliest `new` tokens after every prompt, by a whole pass for each: weights come by sublayer, as they are.

    A layer's keys and values would have to wait for its weights to come around again; what is said costs transfers.
    """
    params, rows = on_device(model, programs), [np.asarray(prompt, np.int32) for prompt in prompts]
    count, length = len(rows), -(-(max(map(len, rows)) + new) // STEP) * STEP
    said, counts = np.full((count, new), model.architecture.pad_id, np.int32), np.zeros(count, np.int32)
    ended = np.zeros(count, bool)
    for step in range(new):
        encoded = Encoded(rows, [np.zeros_like(row) for row in rows])
        batch = batch_of([[row] for row in range(count)], encoded, model.architecture, (count, length, 1))
        last = np.array([row * length + len(ids) - 1 for row, ids in enumerate(rows)], np.int32)
        asked = Asked(batch, last, np.zeros(count, np.int32))
        (scores,) = scores_of(params, [asked], model.architecture, programs)
        if not np.isfinite(np.asarray(scores.log_probabilities)[~ended]).all():
            raise NumericalError(f"NaN or Inf in the logits of new token {step}; check the checkpoint's weights.")
        tokens = np.asarray(scores.likeliest)
        for row in np.flatnonzero(~ended).tolist():
            said[row, step], counts[row] = tokens[row], step + 1
            rows[row] = np.append(rows[row], tokens[row])
            ended[row] = tokens[row] in end_ids
        if ended.all():
            break
    return Generated(said, counts, ended)
