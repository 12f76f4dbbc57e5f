"""What mkdocs does beside rendering: pages from other parts of the repository, and tables from the code.

`<!-- generated: KIND ARGUMENTS -->` in a page becomes what `GENERATED[KIND]` returns. Links to Markdown files outside
docs/ are links to their pages, so that they work in the repository and on the site.
"""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from docs.generate import commands, errors, results, settings  # noqa: E402 - found by the line above

# Files outside docs/ -> their pages.
PAGES = {
    "experiments/results/README.md": "results/index.md",
    "experiments/results/decoders.md": "results/decoders.md",
    "experiments/results/prune_lora.md": "results/prune_lora.md",
    "experiments/results/recap.md": "results/recap.md",
    "experiments/results/digits.md": "results/digits.md",
    "experiments/results/recovery.md": "results/recovery.md",
    "experiments/results/embeddings.md": "results/embeddings.md",
    "experiments/results/memory_lm.md": "results/memory_lm.md",
    "experiments/results/step_speed.md": "results/step_speed.md",
    "experiments/results/runtimes.md": "results/runtimes.md",
    "experiments/results/input_pipeline.md": "results/input_pipeline.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
MARK = re.compile(r"^<!-- generated: (\w+) ?(.*?) -->$", re.MULTILINE)
LINK = re.compile(r"\]\((?:\.\./)+([\w./-]+\.md)(#[\w-]+)?\)")


def settings_of(name: str) -> Any:
    import jaxprune

    return getattr(jaxprune, name)


GENERATED = {
    "settings": lambda name: settings.settings_table(settings_of(name)),
    "presets": lambda name: settings.presets_table(settings_of(name)),
    "commands": lambda _: commands.commands(),
    "errors": lambda _: errors.page(),
    "errorclasses": lambda _: errors.classes_table(),
    "families": lambda _: results.families(),
    "table": lambda words: results.table(*words.split(" ", 2)),
}


def generated(markdown: str) -> str:
    """A page with every mark replaced. Raises `KeyError` for an unknown kind."""
    return MARK.sub(lambda match: GENERATED[match[1]](match[2]), markdown)


def on_config(config: Any) -> Any:
    sys.path.insert(0, str(ROOT))  # again: mkdocs restores the path once a hook is loaded
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File  # pyright: ignore[reportMissingImports] - the extra docs brings it

    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    up = "../" * page.file.src_uri.count("/")
    linked = LINK.sub(
        lambda match: f"]({up}{PAGES[match[1]]}{match[2] or ''})" if match[1] in PAGES else match[0], markdown
    )
    return generated(linked)
