"""What a file that is called plain text shows itself to be: JSON, a table, an archive; judged by what it holds."""

import contextlib
import json
import re
from collections.abc import Sequence
from typing import Literal

_NO_TEXT = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
# JSON that goes on after the first line: of one whole text a line nothing begins so.
_BEGINS_JSON = re.compile(r'\s*[\[{]\s*|\s*\[\s*\{.*|\s*\[\s*".*"\s*[,\]]\s*')
_BEGINS_RECORD = re.compile(r'\s*\[?\s*\{\s*"text"\s*:')
_NUMBER = re.compile(r'"?[+-]?(\d+\.?\d*|\.\d+)"?')  # a class by its number, or a rating
# What columns of tables are called; two of these and nothing else make no text.
COLUMNS = frozenset(
    """
    text text1 text2 text_a text_b text_pair texts sentence sentence1 sentence2 sentences question question1 question2
    premise hypothesis label labels label_text class category target score rating intent sentiment id idx index
    """.split()
)
_TAGGED = re.compile(r"\S+(?:[ \t]+\S+)*[ \t]+(O|[BIES]-\S+)\s*")  # a word, what is known of it, its tag
_ROWS, _WORDS = 20, 1000  # lines from which on a column of labels is no accident; different labels that are looked at
_CURE = 'write one text a line, or JSON lines with "text".'


QUOTED = "tabs part texts as they are here: write JSON lines"
_DOUBLED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')  # a cell as CSV writes one with quotes in it


def quoted(cells: Sequence[str]) -> bool:
    """Whether a cell has its quotes doubled and others around it, as pandas and spreadsheets write tables."""
    return any(_DOUBLED.fullmatch(cell.strip()) and cell.strip('" ') for cell in cells)


def not_plain(begin: str, use: Literal["texts", "prompts", "running"]) -> str | None:
    """What the beginning of a file shows it to be, for a message; None where that may be plain text.

    That is the first line that is not blank; of a running text, which may well be a document of JSON or a table, as
    much as there is: only records with a "text" are no such text. Prompts may begin JSON that a model is to go on with.
    """
    line = begin.lstrip().partition("\n")[0].rstrip()
    if _NO_TEXT.search(line) or line.startswith("BZh"):
        return "holds bytes that no text has (an archive?); unpack it."
    with contextlib.suppress(ValueError, RecursionError):
        whole = json.loads(line)
        first = whole[0] if isinstance(whole, list) and whole else whole
        if isinstance(first, dict) and (use != "running" or "text" in first):
            return "holds JSON objects, and its name says plain text; call it .jsonl."
    if use == "running" and _BEGINS_RECORD.match(begin):
        return "holds JSON objects, and its name says plain text; call it .json."
    if use == "texts" and _BEGINS_JSON.fullmatch(line):
        return "holds JSON, and its name says plain text; call it .json, and write an object for each text."
    for mark in "\t,;" if use != "running" else ():
        names = [name.strip(" \"'").casefold() for name in line.split(mark)]
        if len(names) > 1 and COLUMNS.issuperset(names):
            return f"is a table (its first line names columns: {', '.join(names)}); {_CURE}"
    return None


class LabelColumns:
    """Looks for labels at the end of every line: second texts are no numbers, and not the same few words.

    Texts that are not `paired` may have tabs in them, and a number after them or after a comma.
    """

    def __init__(self, paired: bool = True) -> None:
        self.rows, self.paired = 0, paired
        self._tabs = self._numbers = self._commas = True  # so far, of every line
        self._words: set[str] = set()
        self._counts: set[int] = set()  # of columns, where the last is a tag, else 0; two of them are enough
        self._tags: set[str] = set()  # their first letters

    def see(self, line: str) -> None:
        """Look at one more line."""
        self.rows += 1
        if len(self._counts) < 2:
            tagged = _TAGGED.fullmatch(line)
            self._counts.add(len(line.split()) if tagged else 0)
            self._tags.add(tagged[1][0] if tagged else "")
        if self._tabs:
            _, tab, last = line.rpartition("\t")
            self._tabs = bool(tab) and len(last.split()) == 1
            self._numbers = self._numbers and _NUMBER.fullmatch(last.strip()) is not None
            if len(self._words) < _WORDS:
                self._words.add(last.strip())
        if self._commas:
            _, comma, last = line.rpartition(",")
            self._commas = bool(comma) and _NUMBER.fullmatch(last.strip()) is not None

    def wrong(self) -> str | None:
        """What the lines show together, for a message. Where it could be an accident it takes many of them."""
        few = self.rows >= _ROWS and len(self._words) < min(_WORDS, self.rows / 8)
        if len(self._counts) == 1 and "O" in self._tags and len(self._tags) > 1:
            return "has a word and its tag in every line, as CoNLL has; write one text a line, or JSON lines."
        if self.rows and self._tabs and (few or (self._numbers and self.paired)):
            instead = ", not second texts" if self.paired else ""
            return f"has labels after its tabs ({', '.join(sorted(self._words)[:3])}){instead}; {_CURE}"
        if self.rows >= _ROWS and self._commas and self.paired:
            return f"has a number after the last comma of every line, as tables have; {_CURE}"
        return None
