"""Docstrings for the site: what is plain text in ours and would be markup in Markdown stays plain."""

import re
from typing import Any

import griffe  # pyright: ignore[reportMissingImports] - the extra docs brings it

DOCTEST = re.compile(r"^(>>> .*(?:\n.+)*)", re.MULTILINE)


def as_markdown(text: str) -> str:
    """A docstring whose examples are code, and whose shapes, "[batch][sublayer]", are no links.

    >>> as_markdown("weights, [batch][unit]")
    'weights, [batch]\\\\[unit]'
    """
    blocks = DOCTEST.split(text)  # prose and examples in turn
    prose = [re.sub(r"\]\[", r"]\\[", block) for block in blocks[::2]]
    code = [f"```pycon\n{block}\n```" for block in blocks[1::2]]
    return "".join(part for pair in zip(prose, [*code, ""], strict=True) for part in pair)


class PlainDocstrings(griffe.Extension):
    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
