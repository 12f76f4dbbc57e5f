"""`format="stablehlo"`: the forward pass as one program for every platform, which JAX alone loads and runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from ..checkpoint.config import family_of
from ..checkpoint.generation import write_generation
from ..checkpoint.manifest import EXPORTED, check_finite, manifest_of, manifest_text, named_parameters
from ..checkpoint.notes import write_tokenizer
from ..checkpoint.sentence_files import write_sentence
from ..checkpoint.write import write_folder
from ..doubts import tell
from ..errors import NumericalError, SettingsError
from ..model.architecture import Architecture
from ..model.heads import head_of
from ..model.model import Model
from ..model.padded import image_batch, logits, plain_batch
from ..model.transformer import forward
from ..runtime.precision import rounds_products
from .exported import Exported, pooled_prompt, probe, ready_to_export, source_config, with_head
from .stablehlo_step import check_generates, step_arguments, step_difference, step_of

PROGRAM, STEP, WEIGHTS = "model.stablehlo", "step.stablehlo", "weights.npz"
PLATFORMS = ("cpu", "cuda", "tpu")
PLACES = ("inside", "beside")
LARGEST = 2**31 - 2**24  # bytes of a program; its format holds no more
TOLERANCE = 1e-5  # of the largest output; it is the very program of `jaxprune.logits`
ROUNDED = 1e-2  # where the device rounds what it multiplies, which the two may do at different places


def export_stablehlo(
    model: Model,
    folder: str | Path,
    *,
    weights: str = "inside",
    generation: bool = False,
    overwrite: bool = False,
    tokenizer: Any = None,
) -> Exported:
    """Write `model` as a program of jax.export, with its weights in it or in a file of NumPy's beside it; see `export`.

    It takes token ids, mask and, where the model has them, token types, int32 [rows, length] of any size up to the
    model's positions, or the pixels of images, and gives what `jaxprune.logits` does; with weights beside they come
    before, a dict by name.
    With `generation` a second program reads prompts and goes on token by token (`stablehlo_step`).
    """
    folder = Path(folder)
    if weights not in PLACES:
        raise SettingsError(f"weights is {weights!r}, expected one of {', '.join(PLACES)}.")
    if generation:
        check_generates(model.architecture)
    source = source_config(model)
    model = ready_to_export(model, folder, overwrite, tokenizer)
    arrays: dict[str, Any] = {
        name: np.asarray(leaf, np.float32) for name, leaf in named_parameters(model.params)[0].items()
    }
    for name, array in arrays.items():
        check_finite(name, array, "the model")
    size = sum(array.nbytes for array in arrays.values())
    if weights == "inside" and size > LARGEST:
        raise SettingsError(f"{size} bytes of weights do not fit into one program; write them with weights='beside'.")
    config = with_head(source, family_of(source, "the model's source_config"), model.architecture)
    beside = weights == "beside"
    programs = {PROGRAM: program_of(model, arrays, beside)}
    errors = {PROGRAM: program_error(model, programs[PROGRAM], arrays if beside else None)}
    if generation:
        programs[STEP] = _serialised(step_of(model), step_arguments(model.architecture), arrays, beside)
        errors[STEP] = step_error(model, programs[STEP], arrays if beside else None)
    files = [*programs, *([WEIGHTS] if beside else [])]
    warnings = [*pooled_prompt(model.architecture)]

    def fill(part: Path) -> None:
        for name, written in programs.items():
            (part / name).write_bytes(written)
        if beside:
            np.savez(part / WEIGHTS, **arrays)
        (part / "config.json").write_text(manifest_text(config), encoding="utf-8")
        warnings.extend(write_tokenizer(model, part))
        write_generation(model, part)
        write_sentence(model, part, {})

    def told() -> dict[str, Any]:
        made = {"format": "stablehlo", "weights": weights, "files": files, "platforms": PLATFORMS}
        return manifest_of(model) | {"export": {**made, "errors": errors, "warnings": warnings}}

    write_folder(folder, EXPORTED, told, fill, overwrite)
    tell(warnings)
    total = sum((folder / name).stat().st_size for name in files)
    return Exported(folder, config, total, tuple(warnings), "float32", errors)


def program_of(model: Model, arrays: dict[str, Any], beside: bool) -> bytes:
    """The serialised program, for every platform, of any number of rows and tokens."""
    a, (names, structure) = model.architecture, named_parameters(model.params)
    as_batch = plain_batch if a.patches is None else image_batch

    def run(weights: dict[str, Any], *given: Any) -> Any:
        params = structure.unflatten([weights[name] for name in names])
        out = forward(params, as_batch(a, *given), a).logits
        assert out is not None  # a whole forward pass ends with the head
        return out[:, 0] if head_of(a).per_text else out

    return _serialised(run, _arguments(a), arrays, beside)


def _arguments(a: Architecture) -> list[Any]:
    """What the program takes behind the weights, with rows and tokens left open."""
    if a.patches is not None:
        (rows,) = jax_export.symbolic_shape("rows")
        pixels = (rows, a.patches.channels, a.patches.height, a.patches.width)
        return [jax.ShapeDtypeStruct(pixels, jnp.float32)]
    bounded = a.positions != "none"
    scope = jax_export.SymbolicScope([f"length <= {a.max_positions}"] if bounded else [])
    rows, length = jax_export.symbolic_shape("rows, length", scope=scope)
    return [jax.ShapeDtypeStruct((rows, length), jnp.int32)] * inputs(a)


def _serialised(function: Callable[..., Any], specs: list[Any], arrays: dict[str, Any], beside: bool) -> bytes:
    """A function of weights by name and further arguments as a program, with the weights in it or not."""
    if beside:
        shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}
        return bytes(_exported(function)(shapes, *specs).serialize())
    held = {name: jnp.asarray(array) for name, array in arrays.items()}
    return bytes(_exported(lambda *given: function(held, *given))(*specs).serialize())


def inputs(architecture: Architecture) -> int:
    """How many arrays the program takes: ids, mask and, where a model has them, types; of images, their pixels."""
    if architecture.patches is not None:
        return 1
    return 3 if architecture.token_types > 1 else 2


def _exported(function: Callable[..., Any]) -> Callable[..., jax_export.Exported]:
    return jax_export.export(jax.jit(function), platforms=PLATFORMS)


def program_error(model: Model, written: bytes, arrays: dict[str, np.ndarray] | None) -> float:
    """The largest difference between what a program gives and what the model does, on rows of random tokens.

    Raises `NumericalError` where it is more than rounding.
    """
    whole = np.float32 if model.architecture.patches is not None else np.int32
    given = [jnp.asarray(array, whole) for array in probe(model.architecture, 3, 24)]
    expected = np.asarray(logits(model, *given))
    program = jax_export.deserialize(bytearray(written))
    before = [] if arrays is None else [arrays]
    got = np.asarray(program.call(*before, *given[: inputs(model.architecture)]))
    return _checked(float(np.abs(got - expected).max()), float(np.abs(expected).max()))


def step_error(model: Model, written: bytes, arrays: dict[str, np.ndarray] | None) -> float:
    """The same of a program for generation, on rows of random tokens and one more."""
    call, before = jax_export.deserialize(bytearray(written)).call, [] if arrays is None else [arrays]
    return _checked(*step_difference(model, lambda *given: call(*before, *given)))


def _checked(difference: float, largest: float) -> float:
    if not difference <= (ROUNDED if rounds_products() else TOLERANCE) * max(largest, 1.0):
        raise NumericalError(
            f"the program gives outputs that differ by {difference:.2g} (the largest is {largest:.2g}); nothing was "
            "written, please report it."
        )
    return difference
