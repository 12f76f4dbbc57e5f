"""The page of errors, made from the source: every message that the package can raise, by room and module.

Only errors that a user's input can cause (subclasses of `JaxpruneError`) are listed, wherever one is constructed.
What differs from case to case stands in angle brackets: remove must lie in (0, 1), got ⟨remove⟩.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from docs.generate.cures import CURES
from docs.generate.settings import cell

ROOT = Path(__file__).parents[2]
# What a message says when it names its own cure: what was expected, or after a semicolon or a full stop what to do.
HINTS = ("expected", "must", "; ", ". ", "only ", "needs ", "there are ", "at least", "at most")


class Message(NamedTuple):
    """One error that the package constructs."""

    kind: str  # the error's class
    module: str  # such as pruning/budget.py
    line: int
    text: str

    @property
    def room(self) -> str:
        return self.module.split("/")[0] if "/" in self.module else ""


def classes(root: Path = ROOT) -> dict[str, str]:
    """Every subclass of `JaxpruneError` in the package, with the first line of its docstring."""
    bases, words = {}, {}
    for _, tree in trees(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
                words[node.name] = (ast.get_docstring(node) or "").split("\n")[0]
    chosen = {"JaxpruneError"}
    while more := {name for name, of in bases.items() if chosen & set(of)} - chosen:
        chosen |= more
    return {name: words[name] for name in words if name in chosen}


def messages(root: Path = ROOT) -> list[Message]:
    """Every message in the order of the source; one that is handed through as a variable is its maker's."""
    kinds, out = classes(root), []
    for module, tree in trees(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds and node.args:
                text = template(node.args[0])
                if any(
                    part.strip(" .:;")
                    for part in text.split("⟨")[0:1] + [p.partition("⟩")[2] for p in text.split("⟨")[1:]]
                ):
                    out.append(Message(node.func.id, module, node.lineno, text))
    return sorted(out, key=lambda message: (message.module, message.line))


def page(root: Path = ROOT, cures: Mapping[str, str] = CURES) -> str:
    """The tables of all messages, by room."""
    everything, parts = messages(root), []
    for room in dict.fromkeys(sorted({message.room for message in everything})):
        parts.append(f"### {room or 'the package itself'}")
        here = [message for message in everything if message.room == room]
        for module in dict.fromkeys(message.module for message in here):
            rows = [f"**`{module}`**", "", "| error | message | cure |", "| --- | --- | --- |"]
            for kind, text in dict.fromkeys((m.kind, m.text) for m in here if m.module == module):
                rows.append(f"| `{kind}` | {cell(text)} | {cell(cure_of(text, cures)) or 'as it says'} |")
            parts.append("\n".join(rows))
    return "\n\n".join(parts)


def classes_table(root: Path = ROOT) -> str:
    rows = ["| class | what is at fault |", "| --- | --- |"]
    return "\n".join(rows + [f"| `{name}` | {cell(words)} |" for name, words in classes(root).items()])


def cure_of(text: str, cures: Mapping[str, str] = CURES) -> str:
    """What was written by hand for this message; nothing where it says itself what to do."""
    return " ".join(cure for part, cure in cures.items() if part in text)


def says_itself(text: str) -> bool:
    return any(hint in text.rstrip(".") for hint in HINTS)


def template(node: ast.expr) -> str:
    """A message with ⟨names⟩ in place of what differs."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    if isinstance(node, ast.FormattedValue):
        return f"⟨{name_of(node.value)}⟩"
    return f"⟨{name_of(node)}⟩"


def name_of(node: ast.expr) -> str:
    """The last name in an expression: enough to tell a reader what stands there."""
    if isinstance(node, ast.Attribute):
        return node.attr.strip("_")
    if isinstance(node, ast.Name):
        return node.id.strip("_").lower()
    names = [
        n.attr if isinstance(n, ast.Attribute) else n.id
        for n in ast.walk(node)
        if isinstance(n, ast.Attribute | ast.Name)
    ]
    names = [
        name
        for name in names
        if name not in ("str", "len", "type", "int", "list", "map", "repr", "sorted", "join", "__name__")
    ]
    return names[0].strip("_").lower() if names else "…"


def trees(root: Path) -> Iterator[tuple[str, ast.Module]]:
    package = root / "jaxprune"
    for path in sorted(package.rglob("*.py")):
        yield path.relative_to(package).as_posix(), ast.parse(path.read_text(encoding="utf-8"))
