"""The Python in README and docs/ runs, from top to bottom of each page, on small models and files written here.

A block after `<!-- compiled only: REASON -->` is compiled, not run. What pages call by a name that could be a reader's
own (`my-texts`, `my-language-model`, `test.txt`, …) lies in the folder that they run in; they write the rest.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from jaxprune.assets import demo_data_path
from tests.cli.conftest import write_data, write_model
from tests.finetuning.conftest import WORDS
from tests.helpers.decoders import language_model

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(<!-- compiled only: .+ -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, bool]]:
    """The Python of a page, each block at the lines where it stands, and whether it is run."""
    text = page.read_text(encoding="utf-8")
    found = [(match[2], match.start(2), match[1] is None) for match in BLOCK.finditer(text)]
    return [("\n" * text.count("\n", 0, start) + code, runs) for code, start, runs in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a reader is taken to have: models, a task's files, texts."""
    root = tmp_path_factory.mktemp("reader")
    write_data(root / "my-texts")
    write_model(root / "my-encoder")
    without_head(root / "my-encoder")
    language_model(root / "my-language-model", "llama")
    random = np.random.RandomState(0)
    text = "\n".join(" ".join(random.choice(WORDS, 12)) for _ in range(200))
    for name in ("test.txt", "c4.txt"):
        (root / name).write_text(text)
    (root / "c4.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in text.splitlines()))
    rows = (demo_data_path() / "train.jsonl").read_text(encoding="utf-8").splitlines()[:64]
    (root / "texts.txt").write_text("\n".join(json.loads(row)["text"].replace("\n", " ") for row in rows))
    return root


def without_head(model: Path) -> None:
    """The checkpoint as pretraining leaves one: of no task."""
    config = json.loads((model / "config.json").read_text())
    for key in ("id2label", "label2id"):
        del config[key]
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_python_of_a_page_runs(page, folder, monkeypatch, tmp_path):
    if not blocks(page):
        return
    for entry in folder.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for code, runs in blocks(page):
        program = compile(code, str(page), "exec")
        if runs:
            exec(program, namespace)


def test_pages_hold_python_and_most_of_it_runs():
    runs = [runs for page in PAGES for _, runs in blocks(page)]
    assert sum(runs) >= 20
    assert len(runs) - sum(runs) <= 4
