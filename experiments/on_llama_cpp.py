"""GGUF files run by llama.cpp, through the package llama_cpp (llama-cpp-python): logits, speed, K-quants.

One thread, on the CPU, with llama.cpp's own defaults: keys and values of what was read in float16, no flash attention.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp  # pyright: ignore[reportMissingImports]
import numpy as np

PROMPT, NEW = 128, 32  # tokens that are read at once, and then one by one


def built() -> str:
    """Version and instruction sets, for the page of results."""
    sets = llama_cpp.llama_print_system_info().decode().replace("CPU : ", "").split("|")
    used = [entry.partition("=")[0].strip() for entry in sets if entry.strip().endswith("= 1")]
    return f"llama.cpp of llama-cpp-python {llama_cpp.__version__} ({', '.join(used)}), one thread"


def opened(file: Path, length: int, every: bool = False) -> Any:
    """A model that reads up to `length` tokens; with `every` it keeps the logits of all of them."""
    return llama_cpp.Llama(
        str(file), n_ctx=length, n_batch=length, n_ubatch=length, n_threads=1, n_threads_batch=1, logits_all=every,
        verbose=False,
    )  # fmt: skip


def logits_by(file: Path, length: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function from token ids to logits, [tokens, vocab]."""
    model = opened(file, length, every=True)

    def run(ids: np.ndarray) -> np.ndarray:
        model.reset()
        model.eval(ids.tolist())
        return model.scores[: len(ids)]

    return run


def steps(file: Path, ids: np.ndarray) -> dict[str, Callable[[], Any]]:
    """What is timed of a file: a prompt is read, then tokens one by one, as when they are generated."""
    model, prompt, new = opened(file, PROMPT + NEW), ids[:PROMPT].tolist(), ids[PROMPT : PROMPT + NEW].tolist()

    def read() -> None:
        model.reset()
        model.eval(prompt)

    def write() -> None:
        model.n_tokens = PROMPT  # what was written before is forgotten
        for token in new:
            model.eval([token])

    return {"prompt": read, "generation": write}


def quantised(file: Path, kind: str) -> Path:
    """A file in one of llama.cpp's own kinds, made of a float16 one as its tool `llama-quantize` does it."""
    made = file.with_name(f"{file.stem}-{kind}.gguf")
    if not made.exists():
        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
        settings.nthread = 1
        failed = llama_cpp.llama_model_quantize(str(file).encode(), str(made).encode(), ctypes.byref(settings))
        if failed:
            raise SystemExit(f"llama.cpp could not make {kind} of {file}")
    return made
