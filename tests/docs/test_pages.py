"""The pages say what the code says: settings, commands, errors and figures are never written twice."""

import dataclasses
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import jaxprune as jp
from docs.generate import commands, errors, results, settings
from docs.generate.cures import CURES
from docs.generate.hook import GENERATED, MARK, PAGES
from jaxprune.cli.main import COMMANDS
from jaxprune.errors import JaxpruneError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"(?<!`)\]\(([^)#\s]+)?(#[\w-]+)?\)")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_readme_is_short():
    assert len(read(ROOT / "README.md").splitlines()) <= 150


@pytest.mark.parametrize("page", SOURCES, ids=name)
def test_links_lead_to_files(page):
    for target, _ in LINK.findall(re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)):
        if target and "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{name(page)} links to {target}"


@pytest.mark.parametrize("page", SOURCES, ids=name)
def test_what_a_page_leaves_to_the_code_can_be_made(page):
    for kind, words in MARK.findall(read(page)):
        assert GENERATED[kind](words).strip()


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r": ([\w/-]+\.md)$", read(ROOT / "mkdocs.yml"), re.MULTILINE))
    assert listed == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} | set(PAGES.values())


def test_every_public_name_is_on_the_page_of_python():
    named = set(re.findall(r"^::: ([\w.]+)$", read(DOCS / "api.md"), re.MULTILINE))
    for entry in dir(jp):
        if not entry.startswith("_") and entry != "tasks":
            one = getattr(jp, entry)
            home = f"{one.__module__}.{one.__qualname__}" if hasattr(one, "__qualname__") else f".{entry}"
            assert any(place.endswith(home) for place in named), entry


def test_a_table_of_settings_has_every_field_with_its_help():
    table = settings.settings_table(jp.KPrune)
    for field in dataclasses.fields(jp.KPrune):
        assert f"| `{field.name}` |" in table
        assert field.metadata["help"] in table
    assert "| `surgeon`, `gates`, `published` | `'surgeon'` |" in table
    assert "| `depth_ratio` | number | depends |" in table
    assert "`search='published'`" in settings.presets_table(jp.KPrune)


def test_the_page_of_commands_has_every_flag():
    page = commands.commands()
    for module in COMMANDS:
        assert f"## jaxprune {module.__name__.rpartition('.')[2]}\n" in page
    for flag in (
        "--remove REMOVE [REMOVE …]",
        "--method NAME[:PRESET]",
        "--json`",
        "--elimination-ridge X",
        "--calibration-texts FILE",
    ):
        assert flag in page


def test_every_error_is_on_the_page_of_errors():
    package = importlib.import_module("jaxprune")
    for module in pkgutil.walk_packages(package.__path__, "jaxprune."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    kinds, waiting = {JaxpruneError}, [JaxpruneError]
    while waiting:
        more = set(waiting.pop().__subclasses__()) - kinds
        kinds |= more
        waiting += more
    table, page = errors.classes_table(), errors.page()
    assert all(f"| `{kind.__name__}` |" in table for kind in kinds if kind.__module__.startswith("jaxprune"))
    raising = {
        path.relative_to(ROOT / "jaxprune").as_posix()
        for path in (ROOT / "jaxprune").rglob("*.py")
        if re.search(r'(?:raise|return) (?:Checkpoint|Data|Budget|Settings|Numerical|Output)Error\(\s*f?"', read(path))
    }
    assert len(raising) > 50
    assert all(f"**`{module}`**" in page for module in raising)
    assert "remove must lie in (0, 1), got ⟨remove⟩. To remove 40 % pass 0.4." in page


def test_a_message_that_does_not_say_what_to_do_has_a_cure_and_no_cure_is_stale():
    told = errors.messages()
    assert [m for m in told if not errors.says_itself(m.text) and not errors.cure_of(m.text)] == []
    assert [part for part in CURES if not any(part in message.text for message in told)] == []


def test_figures_of_readme_stand_in_the_results():
    rows = re.findall(r"^\| (?:sst2|mrpc) \|.*$", read(ROOT / "README.md"), re.MULTILINE)
    measured = results.table("experiments/results/README.md", "options").splitlines()
    assert len(rows) >= 4
    assert set(rows) <= set(measured)


def test_a_table_that_is_not_there_is_an_error():
    with pytest.raises(LookupError, match="no table missing"):
        results.table("experiments/results/README.md", "missing")
    with pytest.raises(LookupError, match="no row"):
        results.table("experiments/results/README.md", "options", "no such method")
