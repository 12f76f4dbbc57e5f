"""Whether this device finds what a CPU found: logits, orders of elimination, masks, and what a difference costs.

Stored are the results of a tiny random model and of the embedded one, made on a CPU by `gpu_all.py --store`.
"""

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

import jaxprune as jp
from jaxprune.assets import demo_data_path, demo_model_path
from jaxprune.model.transformer import whole_forward
from jaxprune.pruning.allocation import Curve
from jaxprune.tokens.packing import pack, unpack_logits
from jaxprune.tokens.windows import encoded_for

from . import models
from .book import Book
from .watch import results_of, scoring_in_bfloat16

STORED = Path(__file__).with_name("agreement.npz")
REMOVES, TINY_REMOVES = (0.4, 0.6, 0.8), (0.6,)
TEXTS = 400  # of the embedded model's validation texts that are scored
SHOWN = 64  # texts whose logits are stored


class Case(NamedTuple):
    """A model, what it is calibrated on, and the texts that its outputs are compared on."""

    model: jp.Model
    calibration: jp.Calibration
    texts: jp.Calibration
    labels: np.ndarray | None  # of these texts, in the numbering of the model's outputs; None: nothing to score on


def tiny() -> Case:
    """A random model whose outputs depend on its texts."""
    architecture = models.shrunk(models.BERT)
    calibration, texts = (models.calibration(architecture, count, 16, seed) for seed, count in enumerate((96, SHOWN)))
    return Case(models.random_model(architecture, deviation=0.4), calibration, texts, None)


def embedded() -> Case:
    model, task = jp.load(demo_model_path()), jp.tasks.folder(demo_data_path())
    scored = task.validation[:TEXTS]
    outputs = [model.architecture.labels.index(task.labels[cast(int, example.label)]) for example in scored]
    return Case(model, task.calibration(128, seed=0), jp.Calibration(scored, "validation"), np.array(outputs))


MODELS = {"tiny": tiny, "embedded": embedded}


def logits_of(model: jp.Model, texts: jp.Calibration) -> np.ndarray:
    """[texts, labels]"""
    encoded, _ = encoded_for(model, texts)
    batches = pack(encoded, model.architecture)
    found = [whole_forward(model.params, batch, architecture=model.architecture) for batch in batches]
    return unpack_logits(found, batches)


def results(name: str, removes: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Arrays by name: logits; per budget kept units, logits and score; orders of elimination, per sublayer."""
    case = MODELS[name]()
    model = models.on_device(case.model)
    found: dict[str, Any] = {"digest": models.digest(model)} | outputs(case, model)
    budgets = [jp.Budget(remove, length=16) for remove in removes]
    with results_of("jaxprune.pruning.methods.kprune", "damage_curves") as seen:
        pruned = jp.kprune(model, case.calibration, budgets)
    curves: list[Curve] = seen[0]
    found |= {f"order/{index}": np.asarray(curve.order, np.int16) for index, curve in enumerate(curves)}
    for remove, small in zip(removes, pruned, strict=True):
        for layer, kept in enumerate(small.provenance.record["kept"]):
            found |= {f"{remove}/{what}/{layer}": np.array(kept[what], np.int16) for what in ("heads", "neurons")}
        found |= {f"{remove}/{key}": value for key, value in outputs(case, small).items()}
    return {f"{name}/{key}": np.asarray(value) for key, value in found.items()}


def outputs(case: Case, model: jp.Model) -> dict[str, Any]:
    """The first texts' logits, and the accuracy over all of them where there are labels."""
    logits = logits_of(model, case.texts)
    score = {} if case.labels is None else {"score": np.mean(np.argmax(logits, axis=-1) == case.labels)}
    return {"logits": logits[:SHOWN], **score}


def store() -> None:
    """Write this machine's results, to be compared with; said is which versions made them."""
    if jax.default_backend() != "cpu":
        raise SystemExit("results to compare with are made on a CPU; set JAX_PLATFORMS=cpu")
    arrays: dict[str, Any] = {}
    for name in MODELS:
        arrays |= results(name, REMOVES)
    versions = {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__}
    made = {"versions": versions | {"jaxprune": jp.__version__}, "machine": platform.machine()}
    np.savez_compressed(STORED, about=np.array(json.dumps(made)), **arrays)


@contextmanager
def at(precision: str) -> Iterator[None]:
    """Products as written, all of them in full float32, or scores from bfloat16 products."""
    with ExitStack() as stack:
        if precision == "highest":
            stack.enter_context(jax.default_matmul_precision("highest"))
        if precision == "bfloat16":
            stack.enter_context(scoring_in_bfloat16())
        yield


def measure(book: Book) -> None:
    with np.load(STORED) as file:
        stored = dict(file)
    if book.part == "default":
        book.write("stored by", **json.loads(str(stored["about"])))
    # A CPU computes the same at every precision: there, the embedded model is compared once.
    names = ("tiny",) if book.tiny and book.part != "default" else tuple(MODELS)
    with at(book.part):
        for name in names:
            compare_all(book, name, stored, TINY_REMOVES if book.tiny else REMOVES)


def compare_all(book: Book, name: str, stored: Mapping[str, np.ndarray], removes: tuple[float, ...]) -> None:
    """One line for the dense model and one a budget."""
    found: dict[str, np.ndarray] = {}

    def dense() -> Mapping[str, Any]:
        found.update(results(name, removes))
        if str(found[f"{name}/digest"]) != str(stored[f"{name}/digest"]):
            raise ValueError("this machine's weights are not those that were stored: NumPy drew or read others")
        return {**logits_gap(name, "", found, stored), **orders_gap(name, found, stored)}

    if book.case(f"{name}, dense", dense):
        for remove in removes:
            book.case(f"{name}, {remove:.0%} removed", pruned_gap, name, remove, found, stored)


Arrays = Mapping[str, np.ndarray]


def logits_gap(name: str, prefix: str, found: Arrays, stored: Arrays) -> dict[str, Any]:
    """The largest difference, relative to the largest logit, and texts with another prediction; both scores."""
    ours, theirs = (arrays[f"{name}/{prefix}logits"] for arrays in (found, stored))
    changed = int(np.sum(np.argmax(ours, axis=-1) != np.argmax(theirs, axis=-1)))
    gap = {"logits": float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))), "other_predictions": changed}
    key = f"{name}/{prefix}score"
    return gap | ({"score": float(found[key]), "stored_score": float(stored[key])} if key in found else {})


def orders_gap(name: str, found: Arrays, stored: Arrays) -> dict[str, Any]:
    """How far units are from their stored place in their sublayer's order of elimination, as a share of its length."""
    shifts = []
    for key in (key for key in found if key.startswith(f"{name}/order/")):
        ours, theirs = (np.argsort(arrays[key]) for arrays in (found, stored))
        shifts.append(np.abs(ours - theirs) / max(len(ours), 1))
    every = np.concatenate(shifts)
    moved = sum(bool(shift.any()) for shift in shifts)
    return {"order_shift": float(every.mean()), "order_shift_most": float(every.max()), "sublayers_moved": moved}


def pruned_gap(name: str, remove: float, found: Arrays, stored: Arrays) -> dict[str, Any]:
    """Units kept on one device and not on the other, by kind, and what the pruned models say."""
    counts = {}
    for what in ("heads", "neurons"):
        keys = [key for key in found if key.startswith(f"{name}/{remove}/{what}/")]
        different = [len(np.setxor1d(found[key], stored[key])) for key in keys]
        counts |= {what: sum(different), f"{what}_kept": sum(len(stored[key]) for key in keys)}
        counts[f"layers_{what}"] = sum(map(bool, different))
    return counts | logits_gap(name, f"{remove}/", found, stored)
