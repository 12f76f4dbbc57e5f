"""The script that compares runtimes: what it keeps, and the page it makes of that."""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "runtimes.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("runtimes", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def accuracy(runtime, **line):
    return {"model": "dense", "runtime": runtime, "texts": 9, "largest_error": 1e-6, "largest_logit": 3.0, "flipped": 0,
            "accuracy": 0.5, "bytes": 2_000_000, **line}  # fmt: skip


def speed(runtime, model, ms):
    ratios = [1.0, 2.0, 3.0]
    return {"model": model, "runtime": runtime, "shape": "1 x 32", "turns": 5, "ms": ms, "times_dense": ratios,
            "times_dense_onnxruntime": None}  # fmt: skip


def test_lines_of_a_section_replace_its_former_ones_and_make_the_page(script, tmp_path, monkeypatch):
    args = argparse.Namespace(out=tmp_path / "results" / "lines.jsonl")
    for name, lines in (
        ("accuracy", [accuracy("JAX"), accuracy("onnxruntime")]),
        ("speed", [speed("JAX", "dense", 2.0), speed("JAX", "60% removed", 1.0)]),
        ("accuracy", [accuracy("JAX", flipped=3)]),
        ("speed", []),  # what it needs is missing: what was measured stays
    ):
        monkeypatch.setitem(script.SECTIONS, name, lambda _, lines=lines: lines)
        script.run_section(name, args)
    lines = script.read_lines(args.out)
    assert [(line["section"], line["runtime"]) for line in lines] == [
        ("speed", "JAX"),
        ("speed", "JAX"),
        ("accuracy", "JAX"),
    ]
    page = script.table_text(lines)
    assert "| dense | JAX | 1.0e-06 | 3 | 0.5000 | 2.0 |" in page
    assert "1 x 32 tokens, 5 turns:" in page and "| JAX | 60% removed | 1.00 | 2.00 (1.00–3.00) | – |" in page
    assert "A language model" not in page and "jaxprune" in lines[0]["versions"]


def test_turns_change_their_order(script):
    called = []
    timed = {name: lambda name=name: called.append(name) for name in ("a", "b")}
    seconds = script.in_turns(timed, 3)
    assert called == [*"aabb", *"ab", *"ba", *"ab"]  # twice each to warm up
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3}
    assert script.quartiles(np.array([3.0, 1.0, 2.0])) == [1.5, 2.0, 2.5]


def decoder(runtime, model, **line):
    return {"section": "decoder", "model": model, "runtime": runtime, "windows": 3, "perplexity": 20.5,
            "bytes": 4_000_000, "versions": {"jax": "1"}, "machine": "a machine", **line}  # fmt: skip


def test_a_language_models_page_has_speeds_of_those_that_were_timed(script):
    timed = {"by": "llama.cpp of somewhere", "turns": 5, "prompt_tokens_per_second": 200.04,
             "prompt_times_dense": [1.0, 1.25, 1.5], "generation_tokens_per_second": 50.0,
             "generation_times_dense": [1.0, 1.0, 1.0]}  # fmt: skip
    page = script.table_text([decoder("JAX", "dense"), decoder("llama.cpp Q8_0", "20% removed", **timed)])
    assert "| dense | JAX | 20.5000 | 4 | – | – | – | – |" in page
    speeds = "200.0 | 1.25 (1.00–1.50) | 50.0 | 1.00 (1.00–1.00) |"
    assert f"| 20% removed | llama.cpp Q8_0 | 20.5000 | 4 | {speeds}" in page
    assert "llama.cpp of somewhere, on the same windows" in page and "medians of 5 turns" in " ".join(page.split())
    assert "thread" not in script.table_text([decoder("JAX", "dense")])


def test_perplexity_is_that_of_all_tokens_but_the_first(script):
    """Of equal logits it is the number of tokens; of a sure and right model it is 1."""
    windows = [np.array([1, 2, 3]), np.array([0, 3, 3])]
    assert script.perplexity(lambda ids: np.zeros((3, 4), np.float32), windows) == pytest.approx(4.0)
    sure = lambda ids: 100 * np.eye(4, dtype=np.float32)[[*ids[1:], 0]]  # noqa: E731
    assert script.perplexity(sure, windows) == pytest.approx(1.0)


def test_what_is_missing_is_named(script, tmp_path, capsys):
    args = argparse.Namespace(model=tmp_path / "no model", data=tmp_path, out=tmp_path / "lines.jsonl")
    script.run_section("accuracy", args)
    assert not args.out.exists()
    assert f"the section is left out: {tmp_path / 'no model'} is missing" in capsys.readouterr().err


def test_the_committed_page_is_made_of_the_committed_lines(script):
    lines = SCRIPT.parent / "results" / "runtimes.jsonl"
    assert lines.with_suffix(".md").read_text(encoding="utf-8") == script.table_text(script.read_lines(lines))
