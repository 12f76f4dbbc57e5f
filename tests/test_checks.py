"""Seeds, counts, numbers, truth values and choices are checked where they come in, in the same words."""

import copy
import dataclasses
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.assets import demo_data_path, demo_model_path
from jaxprune.checks import _fits, _is_checked, check_counts, expected, is_number, is_whole
from jaxprune.errors import DataError, JaxpruneError, SettingsError
from jaxprune.finetuning.recap import run_recap
from jaxprune.pruning.by_name import METHODS
from jaxprune.pruning.refit_settings import Fit
from jaxprune.runtime.sampling import Sampling

NAN = float("nan")
# Every settings class, with what it cannot do without.
SETTINGS: dict[Any, dict[str, Any]] = {cls: {} for cls in METHODS.values()}
SETTINGS |= {
    jp.Train: {},
    jp.Recap: {},
    jp.PruneLora: {},
    jp.Lora: {},
    Sampling: {},
    Fit: {},
    jp.Recover: {},
    jp.tasks.Hub: {"name": "org/name", "count": 1},
    jp.Budget: {"remove": 0.5},
}


def made(cls: Any, **given: Any) -> None:
    """Settings as they are made where no type checker is at work, as one is in tests."""
    settings = copy.copy(cls(**SETTINGS[cls]))
    for name, value in given.items():
        object.__setattr__(settings, name, value)
    settings.__post_init__()


def wrong(hint: Any) -> list[Any]:
    """What is of none of the types of an annotation, though it looks like it, or is used as if it were."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, type(int | None)) else (hint,)
    values: list[Any] = []
    for part in parts:
        values += {int: ["16", 1.5, True, NAN], float: ["0.5", True, NAN], bool: ["false", 2]}.get(part, [])
        values += ["nothing"] if typing.get_origin(part) is Literal else []
        values += ["q", 3] if typing.get_origin(part) is tuple else []
    return [value for value in values if expected(hint, value) is not None]


FIELDS = [
    pytest.param(cls, name, value, id=f"{cls.__name__}-{name}-{value!r}")
    for cls in SETTINGS
    for name, hint in typing.get_type_hints(cls).items()
    if name in {field.name for field in dataclasses.fields(cls)}
    for value in wrong(hint)
]


@pytest.mark.parametrize("cls, name, value", FIELDS)
def test_a_field_of_another_type_is_named(cls, name, value):
    with pytest.raises(JaxpruneError, match=rf"^{name} (must|is) ") as error:
        made(cls, **{name: value})
    assert "\n" not in str(error.value)


def test_every_field_of_every_settings_class_is_in_the_table():
    """A settings class is a dataclass whose fields have a help."""
    modules = [
        importlib.import_module(name)
        for _, name, _ in pkgutil.walk_packages(jp.__path__, "jaxprune.")
        if "__main__" not in name
    ]
    classes = {
        cls
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type)
        and dataclasses.is_dataclass(cls)
        and any("help" in f.metadata for f in dataclasses.fields(cls))
    }
    assert classes <= {*SETTINGS}, classes - {*SETTINGS}
    for cls in SETTINGS:
        hints = typing.get_type_hints(cls)
        named = {entry.values[1] for entry in FIELDS if entry.values[0] is cls}
        fields = {field.name for field in dataclasses.fields(cls) if _is_checked(hints[field.name], texts=True)}
        assert named | {"refit"} >= fields, fields - named  # refit: test_prune


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    for owner in (jp, jp.tasks):
        for name in dir(owner):
            if not name.startswith("_") and inspect.isroutine(getattr(owner, name)):
                yield name, getattr(owner, name)
    for cls in (jp.Calibration, jp.Task):
        for name, method in inspect.getmembers(cls, inspect.isroutine):
            if not name.startswith("_"):
                yield f"{cls.__name__}.{name}", method


ARGUMENTS = [
    pytest.param(function, name, value, id=f"{where}-{name}-{value!r}")
    for where, function in public_functions()
    for name, entry in inspect.signature(function).parameters.items()
    if _is_checked(entry.annotation, texts=False)
    for value in wrong(entry.annotation) or [3]
]


@pytest.mark.parametrize("function, name, value", ARGUMENTS)
def test_an_argument_of_another_type_is_named_before_anything_else(function, name, value):
    """Also where others are missing; so every public function is checked, without being called."""
    given = () if name != "settings" else (None,)
    with pytest.raises(SettingsError, match=rf"^{name} (must|is) ") as error:
        function(*given, **{name: value})
    assert "\n" not in str(error.value)


class Odd:
    """What no argument is."""


KNOWN = [
    pytest.param(function, name, id=f"{where}-{name}")
    for where, function in public_functions()
    if function.__module__ != "jaxprune.checks" and where != "listed_sources"
    for name, entry in inspect.signature(function).parameters.items()
    if name == "dtype" or not _fits(entry.annotation, Odd())
]


@pytest.mark.parametrize("function, name", KNOWN)
def test_an_argument_of_another_class_is_named_before_anything_else(function, name):
    with pytest.raises(SettingsError, match=rf"^{name} (is|must be) .*[;,] ") as error:
        function(**{name: Odd()})
    assert "\n" not in str(error.value)


def test_arrays_that_are_none_are_named():
    loose: Any = jp
    model = jp.load(demo_model_path())
    for call, said in (
        (
            lambda: loose.logits(model, "a text"),
            "input_ids is str of <U6, expected whole numbers [rows, length]; give what a tokenizer calls so.",
        ),
        (lambda: loose.logits(model, [[1.5, 2.0]]), "input_ids is list of float64, expected whole numbers"),
        (lambda: loose.logits(model, [[1, 2]], Odd()), "attention_mask is Odd of object, expected"),
        (lambda: loose.generate_ids(model, 3), "prompts is 3, expected lists of whole numbers, or an array"),
        (lambda: loose.tasks.of_ids(3, 3), "ids is 3, expected a row of whole numbers for every"),
        (lambda: loose.Calibration.of_ids([[1, 2]], 3), "mask is 3, expected a row of whole numbers for every"),
    ):
        with pytest.raises(DataError, match="^" + re.escape(said)):
            call()


def test_public_functions_are_in_the_table():
    named = {str(entry.id).split("-")[0] for entry in ARGUMENTS}
    assert named >= {"evaluate", "prune", "kprune", "load", "save", "export", "generate", "compare", "plan", "bench"}
    assert named >= {"finetune", "recap", "prune_lora", "demo", "text", "glue", "folder", "squad", "Task.calibration"}


def test_what_came_and_what_was_expected_is_said():
    for call, says in (
        (lambda: jp.tasks.folder(demo_data_path()).calibration("16"), "count must be a whole number, got '16'."),  # type: ignore
        (lambda: jp.evaluate(None, None, limit=1.5), "limit must be a whole number, got 1.5."),  # type: ignore
        (lambda: jp.compare(None, None, None, seeds=(0, "1")),  # type: ignore
         "seeds must be a sequence, each a whole number, got (0, '1')."),
        (lambda: jp.plan(None, "16", None), "calibration must be a whole number or a Calibration, got '16'."),  # type: ignore
        (lambda: made(jp.Train, keep="first"), "keep must be best or last, got 'first'."),  # type: ignore
        (lambda: made(jp.Recap, moments="none"), "moments must be carried, dropped or bfloat16, got 'none'."),  # type: ignore
        (lambda: made(jp.Lora, train="head/*"), "train must be a sequence of texts, got one text; write ('head/*',)."),  # type: ignore
        (lambda: jp.finetune(None, None, resume="false"), "resume must be True or False, got 'false'."),  # type: ignore
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=f"^{re.escape(says)}$"):
            call()
    with pytest.raises(DataError, match="max_length must be a whole number, got '64'"):
        task = copy.copy(jp.tasks.folder(demo_data_path()))
        object.__setattr__(task, "max_length", "64")
        task.__post_init__()


def test_what_is_of_another_class_than_a_verb_takes_is_named_with_what_to_pass():
    loose: Any = jp
    finetune, prune_lora, plan = loose.finetune, loose.prune_lora, loose.plan
    # As users call them: without the tests' own checks of types.
    recap, recover = map(inspect.unwrap, (run_recap, jp.Recover.__call__))
    model, task = object.__new__(jp.Model), object.__new__(jp.Task)
    texts = jp.Calibration.of_texts(["a text"] * 64)
    for call, said in (
        (lambda: finetune("folder", task), "model is a str; pass what jp.load gives."),
        (lambda: finetune(model, "texts.txt"), "task is a str; pass what jp.tasks.folder, jp.tasks.text or"),
        (lambda: finetune(model, texts), "task is a Calibration; pass"),
        (lambda: finetune(model, task, {"epochs": 1}), "settings is a dict; pass jp.Train(…)."),
        (lambda: finetune(model, task, jp.Recap()), "settings is a Recap; pass jp.Train(…)."),
        (lambda: finetune(model, task, lora=True), "lora is True; pass jp.Lora(…), or leave it out."),
        (lambda: finetune(model, task, teacher="folder"), "teacher is a str; pass what jp.load gives, or leave"),
        (lambda: prune_lora(model, task, jp.Budget(0.3)), "settings is a Budget; pass jp.PruneLora(…)."),
        (lambda: prune_lora(model, task, training=jp.PruneLora()), "training is a PruneLora; pass jp.Train(…)."),
        (lambda: recap(model, task, jp.Train()), "settings is a Train; pass jp.Recap(…)."),
        (lambda: recap(model, None), "task is None; pass what jp.tasks"),
        (lambda: recover(jp.Recover(), model, "folder"), "dense is a str; pass what jp.load gives."),
        (lambda: recover(jp.Recover(), model, model, ["a text"]), "calibration is a list; pass task.calibration(512)"),
        (lambda: finetune(model, task, trainable=3), "trainable is 3; pass a function or a list of them."),
        (lambda: finetune(model, task, trainable=[3]), "trainable is [3]; pass a function or a list"),
        (
            lambda: finetune(model, task, mesh=2),
            "mesh is 2; pass a jax.sharding.Mesh, as jax.make_mesh gives, or leave",
        ),
        (
            lambda: prune_lora(model, task, importance=[[1.0]]),
            "importance is a list; pass jp.Importance(…)",
        ),
        (lambda: finetune(model, task, out=3), "out is 3; pass a path, or leave it out."),
        (lambda: loose.evaluate(model, task, split=["train"]), "split is a list; pass a text."),
        (
            lambda: loose.load("m", labels={0: "bad"}),
            "labels is a dict; pass a list of them or a number, or leave it out.",
        ),
        (lambda: loose.compare(model, task, 3), "budget is 3; pass Budget(remove=0.6) or a list of them."),
        (lambda: loose.tasks.text(3), "data is 3; pass a path, jp.tasks.Hub(…) or a list of them, or leave it out."),
        (lambda: loose.logits(model, [[1]], dtype=int), "dtype is <class 'int'>; pass jnp.float32 or jnp.bfloat16."),
        (lambda: loose.generate(model, "a", dtype=None), "dtype is None; pass jnp.float32 or jnp.bfloat16."),
        (lambda: plan("x", texts, jp.Budget(0.5)), "model is a str; pass what jp.load gives."),
        (lambda: plan(model, texts, 0.5), "budget is 0.5; pass Budget(remove=0.6) or a list of them."),
    ):
        with pytest.raises(JaxpruneError, match="^" + re.escape(said)):
            call()


def test_numbers_of_numpy_are_numbers():
    assert is_whole(np.int64(3)) and not any(map(is_whole, (np.array([1, 2]), np.True_, 3.0, "3")))
    assert is_number(np.float32(0.5)) and is_number(1) and not any(map(is_number, (np.nan, "1", None, True)))
    made(jp.Train, epochs=np.int64(2), learning_rate=np.float32(1e-3), remat=np.True_)
    assert expected(Sequence[int] | None, np.array([1, 2])) is None


def test_a_method_of_another_package_is_checked_as_ours_are():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Theirs(jp.Method):
        name = "theirs"
        keep: int = dataclasses.field(default=1, metadata={"help": "units that stay"})

        def prune(self, run: Any, budgets: Any) -> Any: ...

    texts = jp.Calibration.of_texts(["a b"] * 64)
    with pytest.raises(SettingsError, match="keep must be a whole number, got '2'"):
        jp.prune(jp.load(demo_model_path()), texts, jp.Budget(0.5), Theirs(keep="2"))  # type: ignore


@pytest.mark.parametrize("seed", [-1, 2**32, True])
@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: jp.KPrune(seed=seed),
        lambda seed: jp.Fisher(seed=seed),
        lambda seed: jp.Random(seed=seed),
        lambda seed: jp.Train(seed=seed),
        lambda seed: jp.load(demo_model_path(), seed=seed),
        lambda seed: jp.tasks.folder(demo_data_path()).calibration(8, seed=seed),
    ],
)
def test_seeds_are_checked_where_they_come_in(draw, seed):
    with pytest.raises(SettingsError, match="expected an integer from 0 to 4294967295"):
        draw(seed)


@pytest.mark.parametrize(
    "value, says",
    [(0, "rank must be at least 1, got 0."), (1.5, "rank must be a whole number, got 1.5."),
     (True, "rank must be a whole number, got True."), ("8", "rank must be a whole number, got '8'.")],
)  # fmt: skip
def test_counts_are_whole_and_large_enough(value, says):
    with pytest.raises(SettingsError, match=re.escape(says)):
        check_counts(SimpleNamespace(rank=value), 1, "rank")


def test_settings_check_their_counts():
    check_counts(SimpleNamespace(epochs=np.int64(2), budget=None), 1, "epochs", "budget")
    for make in (lambda: jp.Lora(rank=0), lambda: jp.Train(holdout=-1), lambda: jp.PruneLora(samples=0)):
        with pytest.raises(SettingsError, match="must be at least"):
            make()
