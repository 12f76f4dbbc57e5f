"""A language model as lm-evaluation-harness asks it: the answers to its three kinds of requests."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..checkpoint.generation import asked_of_generate, unapplied
from ..checks import check_counts, check_seed
from ..doubts import tell
from ..errors import DataError, SettingsError
from ..model import Model
from ..model.heads import head_of
from ..runtime.devices import Devices
from ..runtime.events import OnStep
from ..runtime.programs import Programs
from ..tokens.requests import Continuation, RequestReader
from .continuations import likelihoods
from .until import Wanted, Writer

WRITTEN = 8  # prompts that are continued together


@dataclass(frozen=True, kw_only=True)
class HarnessSettings:
    """How requests are read and computed; `jaxprune.lm_eval` says what each means."""

    max_length: int | None = None
    max_gen_toks: int = 256
    add_bos_token: bool | None = None
    prefix_token_id: int | None = None
    chat_template_args: Mapping[str, Any] | None = None
    batch: int | None = None
    dtype: Any = jnp.float32
    stream: bool = False
    seed: int = 0

    def __post_init__(self):
        check_counts(self, 1, "max_length", "max_gen_toks", "batch")
        check_seed(self.seed)
        if self.stream and jnp.dtype(self.dtype) != jnp.float32:
            raise SettingsError("streamed weights compute in float32; leave dtype out, or stream.")


class HarnessModel:
    """The methods that lm-evaluation-harness calls, without the package: a request is anything with `args`."""

    cache_hook: Any = None  # of the package: keeps answers, so that a run that was stopped goes on

    def __init__(
        self,
        model: Model,
        settings: HarnessSettings = HarnessSettings(),
        programs: Programs | None = None,
        on_step: OnStep | None = None,
    ):
        super().__init__()
        a, longest = model.architecture, settings.max_length
        if not head_of(a).generates:
            raise DataError(f'lm_eval needs a causal_lm head, the model has "{a.head}"; load a language model.')
        if longest is not None and a.positions != "none" and longest > a.max_positions:
            raise SettingsError(f"max_length {longest} is more than the model's {a.limit}; lower it, or leave it out.")
        self._model, self._settings, self._on_step = model, settings, on_step
        programs = Programs() if programs is None else programs
        self._programs = replace(programs, devices=Devices(stream=True)) if settings.stream else programs
        self._reader = RequestReader.of(
            model,
            a.max_positions if longest is None else longest,
            settings.add_bos_token,
            prefix_id=settings.prefix_token_id,
            chat_template_args=settings.chat_template_args,
        )
        self.warnings: tuple[str, ...] = ()
        self._doubt(self._reader.doubts())

    # --- requests

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log probability in nats, greedy) of every (context, continuation), in the order of the requests."""
        pairs = [_texts(number, request, 2) for number, request in enumerate(requests)]
        continuations = self._reader.continuations(pairs)
        self._doubt(self._lost([entry.lost for entry in continuations], "a context and its continuation"))
        self._doubt(self._reader.unknown(entry.said for entry in continuations).doubts("continuations"))
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        for number, log_probability, greedy in self._likelihoods(continuations, "loglikelihood"):
            answers[number] = log_probability, greedy
            self._keep("loglikelihood", pairs[number], answers[number])
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log probability, in nats, of every whole text, in the order of the requests."""
        texts = [_texts(number, request, 1)[0] for number, request in enumerate(requests)]
        windows = self._reader.rolling(texts)
        owners = [number for number, entry in enumerate(windows) for _ in entry]
        left, totals = [len(entry) for entry in windows], [0.0] * len(texts)
        every = [window for entry in windows for window in entry]
        self._doubt(self._reader.unknown(window.said for window in every).doubts("texts to score"))
        for place, log_probability, _ in self._likelihoods(every, "loglikelihood_rolling"):
            number = owners[place]
            totals[number] += log_probability
            left[number] -= 1
            if not left[number]:
                self._keep("loglikelihood_rolling", (texts[number],), totals[number])
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model says after every (context, generation_kwargs), in the order of the requests."""
        asked = [_texts(number, request, 1, more=1) for number, request in enumerate(requests)]
        file, config = asked_of_generate(self._model)
        config = {name: value for name, value in config.items() if value is not None}
        groups: dict[Wanted, list[int]] = {}
        for number, (_, kwargs) in enumerate(asked):
            groups.setdefault(Wanted.of(number, kwargs, self.max_gen_toks, config), []).append(number)
        drawn = any(entry.temperature for entry in groups)
        self._doubt(_not_followed(config, file, drawn))
        if self._programs.devices.stream and drawn:
            raise SettingsError("streamed weights draw no tokens; leave do_sample and temperature out, or stream.")
        prompts = {
            want: self._reader.prompts([asked[number][0] for number in numbers], want.max_gen_toks, numbers)
            for want, numbers in groups.items()
        }
        self._doubt(
            self._lost([lost for group in prompts.values() for _, lost in group], "a prompt and the new tokens")
        )
        batch = self._settings.batch or WRITTEN
        writer = Writer.of(self._model, self._reader, self._programs, batch, self._settings.dtype, self._settings.seed)
        answers, done = [""] * len(asked), 0
        for want, numbers in groups.items():
            for place, text in writer.texts([ids for ids, _ in prompts[want]], want):
                number, done = numbers[place], done + 1
                answers[number] = text
                self._keep("generate_until", asked[number], text)
                self._heard("generate_until", done, len(asked))
        return answers

    # --- what the package asks beside

    @property
    def tokenizer(self) -> Any:
        """transformers' own object."""
        return self._reader.tokenizer

    @property
    def tokenizer_name(self) -> str:
        """What the package keeps prompts under: of the tokenizer and its chat template."""
        template = str(self.chat_template(True)).encode()
        return f"{self.tokenizer.name_or_path.replace('/', '__')}__{hashlib.sha256(template).hexdigest()[:12]}"

    @property
    def eot_token_id(self) -> int | None:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int | None:
        return self._reader.prefix_token_id

    @property
    def max_length(self) -> int:
        return self._reader.longest

    @property
    def max_gen_toks(self) -> int:
        return self._settings.max_gen_toks

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as the tokenizer's chat template writes them. Raises `DataError` where it has none."""
        text, doubts = self._reader.chat(chat_history, add_generation_prompt)
        self._doubt(doubts)
        return text

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that `apply_chat_template` follows; None where none is asked for.

        Raises `DataError` for a name: the package hands one over to be noted down, not to be followed.
        """
        if isinstance(chat_template, str):
            raise DataError(
                f"the chat template {chat_template!r} is asked for by name; name it to lm_eval instead: "
                f"chat_template_args={{'chat_template': {chat_template!r}}}, with apply_chat_template=True."
            )
        if not chat_template:
            return None
        given = (self._reader.chat_template_args or {}).get("chat_template")
        known = self.tokenizer.chat_template
        if isinstance(known, Mapping):
            return known.get(given or "default")
        return known if given is None else given

    def get_model_info(self) -> dict[str, Any]:
        """What results say of the model."""
        leaves = jax.tree.leaves(self._model.params)
        return {
            "model_num_parameters": sum(int(np.size(leaf)) for leaf in leaves),
            "model_dtype": ", ".join(sorted({str(leaf.dtype) for leaf in leaves})),
            "model_source": self._model.provenance.source,
            "compute_dtype": str(jnp.dtype(self._settings.dtype)),
        }

    # --- inside

    def _likelihoods(self, continuations: Sequence[Continuation], phase: str) -> Iterable[tuple[int, float, bool]]:
        """(number, log probability, greedy) of each, as they come."""
        scores = likelihoods(
            self._model, continuations, self._programs, rows=self._settings.batch, dtype=self._settings.dtype
        )
        for done, entry in enumerate(scores, start=1):
            yield entry
            self._heard(phase, done, len(continuations))

    def _lost(self, lost: Sequence[int], what: str) -> tuple[str, ...]:
        count = sum(number > 0 for number in lost)
        if not count:
            return ()
        return (
            f"{what} are longer than the {self.max_length} tokens that are read at once in {count} of {len(lost)} "
            f"requests, and up to {max(lost)} tokens of their beginning are not read.",
        )

    def _doubt(self, doubts: Iterable[str]) -> None:
        doubts = tuple(doubts)
        self.warnings = tuple(dict.fromkeys((*self.warnings, *doubts)))
        tell(doubts)

    def _keep(self, kind: str, request: tuple[Any, ...], answer: Any) -> None:
        if self.cache_hook is not None:
            self.cache_hook.add_partial(kind, request, answer)

    def _heard(self, phase: str, done: int, of: int) -> None:
        if self._on_step is not None:
            self._on_step({"phase": phase, "done": done, "of": of})


def _texts(number: int, request: Any, count: int, more: int = 0) -> tuple[Any, ...]:
    """The arguments of a request, of which the first `count` are texts."""
    arguments = tuple(request.args)
    if len(arguments) != count + more or not all(isinstance(entry, str) for entry in arguments[:count]):
        raise DataError(f"request {number} has {str(arguments)[:80]}, expected {count} texts and {more} settings.")
    return arguments


def _not_followed(config: Mapping[str, Any], file: str, drawn: bool) -> tuple[str, ...]:
    """A doubt where the package's own class would follow the settings of a `file` and we do not."""
    followed = {"temperature": 1.0, "top_k": 1, "top_p": 1.0} if drawn else {}  # a temperature is each request's own
    others = unapplied({**config, "do_sample": drawn}, followed)
    if not others:
        return ()
    return (f'{file} asks for {", ".join(others)}: the package\'s "hf" does that, jaxprune does not.',)
