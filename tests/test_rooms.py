"""The plan of the package: rooms in one order, each importing only those above it; late imports say why."""

import ast
from collections import defaultdict
from pathlib import Path
from typing import get_args

import pytest

import jaxprune
from jaxprune.model.architecture import HeadKind, Problem
from jaxprune.model.heads import HEADS
from jaxprune.tasks.example import Kind

ROOT = Path(jaxprune.__file__).parent
ROOMS = (
    "errors", "doubts", "checks", "settings", "jsonio", "assets",
    "model",  # pure functions of arrays
    "runtime",  # where arrays live, compiled programs and their books
    "checkpoint",  # folders in and out
    "tasks",  # examples, labels, metric names
    "tokens",  # texts to batches
    "evaluation",  # batches to answers and scores
    "pruning",
    "finetuning",
    "exports",
    "report",
    "cli",
    "__main__",
)  # fmt: skip
# The paper's own search is a preset of K-prune: its settings class names both.
VARIANTS = {("pruning.methods.kprune", "pruning.methods.kprune_published")}
# What is imported in functions only, and why.
LATE = {
    "transformers": "takes seconds; only tokenizers of a checkpoint's own class need it",
    "tokenizers": "token ids need no tokenizer",
    "datasets": "takes a second, and may be missing: only the hub's data needs it",
    "huggingface_hub": "only names on the hub need it",
    "orbax": "a third of a second: only runs that keep states pay for it",
    "flax": "only its msgpack checkpoints and its modules need it",
    "matplotlib": "only plots need it",
    "onnx": "only its files need it, and it may be missing",
    "gguf": "only its files need it, and it may be missing",
    "onnxruntime": "only its files need it, and it may be missing",
    "PIL": "only image files need it, and it may be missing",
    "rich": "only what a person looks at needs it",
    "lm_eval": "an extra: only its benchmarks need it",
    "resource": "there is none on Windows",
}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in ROOT.rglob("*.py")}


def imports(module: str) -> list[tuple[str, ast.stmt, bool]]:
    """What a module imports of the package, by module; the statement, and whether it stands in a function."""
    file = FILES[module]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    seen = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = [*package[: len(package) - node.level + 1], *([node.module] if node.module else [])]
                target = ".".join(base)
            elif node.module and node.module.split(".")[0] == "jaxprune":
                target = node.module.removeprefix("jaxprune").removeprefix(".")
            else:
                continue
            dotted = [f"{target}.{alias.name}".removeprefix(".") for alias in node.names]
            names = [name if name in FILES else target for name in dotted]
        elif isinstance(node, ast.Import):
            names = [a.name.removeprefix("jaxprune.") for a in node.names if a.name.split(".")[0] == "jaxprune"]
        seen += [(name, node, id(node) in inside) for name in names]
    return seen


def room(module: str) -> int:
    return ROOMS.index(module.split(".")[0])


@pytest.mark.parametrize("module", sorted(set(FILES) - {""}))
def test_a_room_imports_only_rooms_above_it(module):
    below = [name for name, _, _ in imports(module) if name and room(name) > room(module)]
    assert not below, f"{module} imports {below}"


def test_no_circle_of_imports_late_ones_included():
    graph = {module: {name for name, _, _ in imports(module) if name} - {module} for module in FILES if module}
    # A package's own file may gather what is in it; its parts then import each other, not it.
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' -> '.join((*path, module))}"
        if module in done:
            return
        for name in graph[module]:
            walk(name, (*path, module))
        done.add(module)

    for module in graph:
        walk(module, ())


def test_no_method_imports_another():
    methods = {module for module in FILES if module.startswith("pruning.methods.")}
    assert len(methods) > 6
    between = {(module, name) for module in methods for name, _, _ in imports(module) if name in methods}
    assert between == VARIANTS
    shared = {module for module in FILES if module.startswith("pruning.")} - methods - {"pruning.methods"}
    known = {name for module in shared for name, _, _ in imports(module)}
    assert not known & methods  # shared parts know no method
    # Two know that there are some: the table of names, and the verb, whose default is one of them.
    knowing = {module for module in shared if "pruning.methods" in {name for name, _, _ in imports(module)}}
    assert knowing == {"pruning.by_name", "pruning.prune"}


def test_nothing_of_the_package_is_imported_late():
    late = [f"{module}: {name}" for module in FILES for name, _, inside in imports(module) if inside]
    assert not late


def test_late_imports_are_of_packages_that_cost():
    seen = set()
    for file in FILES.values():
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.ImportFrom) and not node.level:
                        seen.add((node.module or "").split(".")[0])
                    elif isinstance(node, ast.Import):
                        seen |= {alias.name.split(".")[0] for alias in node.names}
    assert seen == LATE.keys()


def test_one_name_is_one_thing():
    homes = defaultdict(set)
    for module, file in FILES.items():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].add(module)
    several = {name: modules for name, modules in homes.items() if len(modules) > 1}
    # A command of the command line is its two functions; a task and a checkpoint are both loaded (`jp.tasks.load`).
    assert several.keys() <= {"run", "add_arguments", "load"}
    assert all(module.startswith("cli.") for name in ("run", "add_arguments") for module in several[name])


# What a kind of head, of labels or of task is called; "none" is a word of other settings too.
WORDS = {*get_args(HeadKind), *get_args(Problem), *get_args(Kind), *(row.name for row in HEADS.values())} - {"none"}
NAMES_OF_TASKS = {"squad", "squad2", "validation_mismatched"}


def asks_for_a_kind(node: ast.AST) -> bool:
    """Whether an expression compares a head, a problem or a kind of task with the name of one, or a task with its own.

    `"causal_lm" in family.heads` looks a row up, and comparing two models' heads asks for no kind.
    """
    if isinstance(node, ast.MatchValue):
        return isinstance(node.value, ast.Constant) and node.value.value in WORDS
    if not isinstance(node, ast.Compare):
        return False
    entries = [
        entry
        for side in (node.left, *node.comparators)
        for entry in (side.elts if isinstance(side, ast.Tuple | ast.Set | ast.List) else [side])
    ]
    said = {entry.value for entry in entries if isinstance(entry, ast.Constant) and isinstance(entry.value, str)}
    whose = {entry.attr if isinstance(entry, ast.Attribute) else getattr(entry, "id", None) for entry in entries}
    if isinstance(node.ops[0], ast.In | ast.NotIn) and isinstance(node.comparators[0], ast.Name | ast.Attribute):
        return False
    return bool(said & (WORDS | NAMES_OF_TASKS)) or bool(said and whose & {"head", "problem"})


ASKING = ('a.head == "none"', 'task.kind in ("regression", "x")', 'kind != "causal_lm"', '"squad2" == task.name')
OTHERS = ("a.head != b.head", 'fit.kind == "none"', '"causal_lm" in family.heads')


def test_what_counts_as_asking_for_a_kind():
    told = [[asks_for_a_kind(ast.parse(text, mode="eval").body) for text in texts] for texts in (ASKING, OTHERS)]
    assert all(told[0]) and not any(told[1])


def test_nobody_asks_for_a_kind_of_head_or_task():
    """What depends on one is a field of its row, or stands in a table keyed by its name."""
    asking = [
        f"{module}:{node.lineno}"
        for module, file in FILES.items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.expr) and asks_for_a_kind(node)
    ]
    assert not asking


def test_what_was_found_has_a_name():
    unnamed = [
        f"{module}:{node.lineno}"
        for module, file in FILES.items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Name) and node.id == "found") or (isinstance(node, ast.arg) and node.arg == "found")
    ]
    assert not unnamed
