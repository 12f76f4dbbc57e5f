"""A model as lm-evaluation-harness asks it: `simple_evaluate(model=jp.lm_eval(model), tasks=["hellaswag"])`."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

import jax.numpy as jnp

from ..errors import SettingsError
from ..model import Model
from ..runtime.events import OnStep
from ..runtime.programs import Programs
from .harness import HarnessModel, HarnessSettings


def lm_eval(
    model: Model,
    *,
    tokenizer: Any = None,
    max_length: int | None = None,
    max_gen_toks: int = 256,
    add_bos_token: bool | None = None,
    prefix_token_id: int | None = None,
    chat_template_args: Mapping[str, Any] | None = None,
    batch: int | None = None,
    dtype: Any = jnp.float32,
    stream: bool = False,
    seed: int = 0,
    programs: Programs | None = None,
    on_step: OnStep | None = None,
) -> Any:
    """What `lm_eval.simple_evaluate(model=…)` takes: a language model, dense or pruned, as a `lm_eval.api.model.LM`.

    Requests become tokens as its own class for models of transformers makes them ("hf"), whose settings `max_length`
    (tokens read at once; default: all positions), `max_gen_toks`, `add_bos_token`, `prefix_token_id` and
    `chat_template_args` are. What is too long loses its beginning, and a warning says so (`.warnings`).

    `batch` rows run together (default: as many as suit the device; 8 where text is generated), texts of about one
    length. `dtype` is the compute type; "hf" takes the checkpoint's own, which is often half precision. With `stream`
    weights come to the device one sublayer at a time (load the model with `host=True`). `seed` is of what is drawn.
    `tokenizer` takes the place of the model's own: a folder, or a loaded one. `on_step` hears of
    {"phase": the kind of request, "done", "of"}.

    Raises `SettingsError` where the package is missing or a setting is outside its range, `DataError` for a model that
    is no language model, and `CheckpointError` where it has no tokenizer.
    """
    settings = HarnessSettings(
        max_length=max_length,
        max_gen_toks=max_gen_toks,
        add_bos_token=add_bos_token,
        prefix_token_id=prefix_token_id,
        chat_template_args=chat_template_args,
        batch=batch,
        dtype=dtype,
        stream=stream,
        seed=seed,
    )
    return _with_harness()(model.with_tokenizer(tokenizer), settings, programs, on_step)


def check_installed() -> None:
    """Raise `SettingsError` where the package, an extra, is missing."""
    if find_spec("lm_eval") is None:
        raise SettingsError("lm-evaluation-harness is missing; install it: pip install 'jaxprune[lm-eval]'.")


@cache
def _with_harness() -> Callable[..., Any]:
    """The class that the package takes for one of its own. Raises `SettingsError` where it is missing."""
    check_installed()
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]

    class Jaxprune(HarnessModel, LM):  # results name their model by its class
        pass

    return Jaxprune
