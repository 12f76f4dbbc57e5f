"""What a user gets before doing anything: a light import, a small wheel, a default model that works."""

import json
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

import jaxprune
from jaxprune import errors
from jaxprune.assets import demo_data_path, demo_model_path

HEAVY = ("transformers", "torch", "datasets", "orbax", "flax.nnx", "matplotlib")
ROWS = {"train.jsonl": 2000, "validation.jsonl": 1000}


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (demo_data_path() / name).read_text(encoding="utf-8").splitlines()]


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_light_and_starts_no_device():
    code = f"""
import logging, os, sys
before = dict(os.environ)
import jaxprune
from jax._src import xla_bridge
print([name for name in {HEAVY} if name in sys.modules])
print(xla_bridge.backends_are_initialized(), dict(os.environ) == before, logging.getLogger().handlers)
"""
    assert python(code) == "[]\nFalse True []\n"


def test_what_is_public_is_there_and_nothing_else():
    names = dir(jaxprune)
    assert names == sorted({*names}) and {"__version__", "tasks", "JaxpruneError", "Family", "load"} <= {*names}
    assert not [name for name in names if name.startswith("_") and name != "__version__"]
    for name in names:
        assert getattr(jaxprune, name) is not None
    # What a type checker reads says the same.
    source = Path(str(jaxprune.__file__)).read_text(encoding="utf-8")
    typed = {match for match in re.findall(r"(\w+) as \1\b", source.partition("__version__ =")[0])}
    assert typed == {*names} - {"tasks", "__version__"}
    with pytest.raises(AttributeError, match="has no attribute 'chance'"):
        _ = jaxprune.chance  # type: ignore[attr-defined]


def test_types_are_said_to_be_there():
    assert (Path(jaxprune.__file__).parent / "py.typed").is_file()


def test_every_error_of_ours_is_caught_by_one_name():
    for error in vars(errors).values():
        if isinstance(error, type) and error.__module__ == errors.__name__ and not issubclass(error, Warning):
            assert issubclass(error, jaxprune.JaxpruneError)
    assert issubclass(jaxprune.JaxpruneError, ValueError)


def test_installed_command_and_version():
    installed = distribution("jaxprune")
    assert installed.version == jaxprune.__version__ == "0.2.0"
    scripts = {entry.name: entry.value for entry in installed.entry_points if entry.group == "console_scripts"}
    assert scripts == {"jaxprune": "jaxprune.cli.main:main"}


def test_package_is_small():
    folder = Path(jaxprune.__file__).parent
    files = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    assert {"model.safetensors", "tokenizer.json", "NOTICE", *ROWS} <= {file.name for file in files}
    assert sum(file.stat().st_size for file in files) <= 4_700_000


def test_demo_data_fits_the_demo_model():
    labels = json.loads((demo_data_path() / "labels.json").read_text())
    config = json.loads((demo_model_path() / "config.json").read_text())
    assert len(set(labels)) == 77
    assert [config["id2label"][str(number)] for number in range(77)] == labels
    for name, count in ROWS.items():
        examples = rows(name)
        assert len(examples) == count
        assert {example["label"] for example in examples} <= set(range(77))
    assert not {row["text"] for row in rows("train.jsonl")} & {row["text"] for row in rows("validation.jsonl")}


def test_demo_data_is_attributed():
    notice = (demo_model_path().parent / "NOTICE").read_text()
    assert "CC BY 4.0" in notice and "Casanueva" in notice and "2020" in notice


def test_demo_model_is_as_good_as_its_readme_says():
    from jaxprune.checkpoint import load
    from jaxprune.evaluation.outputs import text_outputs
    from jaxprune.tasks import Example
    from jaxprune.tokens.tokenizer import Tokenizer

    model = load(str(demo_model_path()))
    assert model.architecture.labels == tuple(json.loads((demo_data_path() / "labels.json").read_text()))
    examples = rows("validation.jsonl")
    encoded = Tokenizer.of(model).encode([Example(row["text"], None, row["label"]) for row in examples], 128)
    accuracy = np.mean(text_outputs(model, encoded).argmax(axis=1) == [row["label"] for row in examples])
    assert accuracy == pytest.approx(
        0.904, abs=0.003
    )  # float32 on other machines: a near-tie or two may fall otherwise
