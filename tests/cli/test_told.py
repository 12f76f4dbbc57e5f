"""Messages name arguments of Python in the library, flags on the command line."""

import ast
import re
from pathlib import Path

import pytest

import jaxprune
from jaxprune.cli.main import COMMANDS
from jaxprune.cli.told import in_flags

NAMES = {"overwrite", "top_k", "temperature", "data", "fill_zeros", "uniform", "keep_heads", "compensate", "seed"}
FLAG = re.compile(r"(?<![\w-])--[a-z]")


@pytest.mark.parametrize(
    "message, said",
    [
        ("choose another folder, or pass overwrite=True.", "choose another folder, or pass --overwrite."),
        ("top_k has no effect; pass temperature=1.0.", "--top-k has no effect; pass --temperature 1.0."),
        ("needs data=FOLDER with train.jsonl", "needs --data FOLDER with train.jsonl"),
        ("with Budget(uniform=True, keep_heads=True), or", "with --uniform --keep-heads, or"),
        ("(FLAP: Flap(compensate=False))", "(FLAP: --no-compensate)"),
        ("fill it up (fill_zeros=True: the sizes)", "fill it up (--fill-zeros: the sizes)"),
        # What is no setting stays as it is: other names, plain words, places, what was given.
        ("pass tokenizer=FOLDER", "pass tokenizer=FOLDER"),
        ("the temperature of the seed", "the temperature of the seed"),
        ("runs/seed=1/top_k.txt is missing", "runs/seed=1/top_k.txt is missing"),
        ('field "top_k" is missing', 'field "top_k" is missing'),
        ("--mesh data=4 needs 4 devices, there are 1", "--mesh data=4 needs 4 devices, there are 1"),
    ],
)
def test_arguments_become_flags(message, said):
    assert in_flags(message, NAMES) == said


def test_no_message_of_the_library_names_a_flag():
    root = Path(jaxprune.__file__).parent
    for file in root.rglob("*.py"):
        if file.parent == root / "cli":
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                assert not FLAG.search(node.value), f"{file.name} line {node.lineno}: {node.value}"


def test_what_errors_name_are_flags(cli, inputs, tmp_path):
    task = ("--model", inputs.model, "--task", "text-classification", "--data", inputs.data)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "validation.jsonl").write_text('{"text": "a film", "label": 1}\n')
    for words, said in (
        (("prune", *task, "--remove", 0.5, "--out", tmp_path / "full"), "choose another folder, or pass --overwrite."),
        (
            ("export", "--model", inputs.model, "--out", tmp_path / "full"),
            "choose another folder, or pass --overwrite.",
        ),
        (("generate", "--model", "m", "--prompt", "a", "--top-p", 0.5), "leave it out, or pass --temperature 1.0."),
        (("generate", "--model", "m", "--prompt", "a", "--seed", 0), "seed has no effect at temperature 0"),
        (("finetune", *task, "--distill", 0.5, "--out", tmp_path / "out"), "pass --teacher …."),
        (("evaluate", "--model", "m", "--task", "text-classification"), "needs --data FOLDER with train.jsonl"),
        (
            ("prune", *task[:4], "--data", bare, "--remove", 0.5, "--no-evaluate", "--out", tmp_path / "out"),
            "add train.jsonl there, or name a file with --calibration-texts.",
        ),
        (("finetune", *task, "--save-minutes", 0, "--out", tmp_path / "out"), "--save-minutes must be positive, got 0"),
    ):
        run = cli(*words)
        assert run.code == 2 and said in run.err and run.err.count("\n") == 1, run.err


def test_several_budgets_need_a_folder_of_their_own_and_differ(cli, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxprune.tasks.load", lambda *_, **__: pytest.fail("the work began"))
    task = ("--model", inputs.model, "--task", "text-classification", "--data", inputs.data)
    for name in ("jaxprune.json", "jaxprune_export.json", "config.json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
        run = cli("prune", *task, "--remove", 0.3, 0.6, "--out", tmp_path / name)
        assert run.code == 2 and "holds a model; name another folder for 2 of them" in run.err
    for command in ("prune", "plan", "compare"):
        out = () if command == "plan" else ("--out", tmp_path / "out")
        run = cli(command, *task, "--remove", 0.5, 0.3, "0.50", *out)
        assert run.code == 2 and "--remove names 0.5 twice; name every budget once." in run.err


def test_every_command_that_writes_tries_the_place_first(cli, inputs, tmp_path, monkeypatch):
    """A file stands where a folder is to be made: nothing is read before that is said."""
    for name in ("jaxprune.cli.flags.read", "jaxprune.tasks.load", "jaxprune.report.demo.load"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("the work began"))
    (tmp_path / "file").touch()
    wrong = tmp_path / "file" / "out"
    task = ("--task", "text-classification", "--data", inputs.data)
    words = {
        "prune": (*task, "--remove", 0.5),
        "finetune": task,
        "recap": task,
        "compare": (*task, "--remove", 0.5),
        "export": (),
        "demo": (),
        "predict": ("--text", "a film"),
        "embed": ("--input", inputs.data + "/train.jsonl"),
    }
    assert words.keys() == {
        command.__name__.rpartition(".")[2]
        for command in COMMANDS
        if "arguments.out" in Path(str(command.__file__)).read_text(encoding="utf-8")
    }
    for command, given in words.items():
        model = () if command == "demo" else ("--model", inputs.model)
        out = wrong.with_suffix(".npy") if command == "embed" else wrong  # whose ending says what is written
        run = cli(command, *model, *given, "--out", out)
        assert run.code == 2 and f"{tmp_path / 'file'} cannot be written (Not a directory)" in run.err, run.err
    words = (*task, "--out", tmp_path / "out")
    run = cli("finetune", "--model", inputs.model, *words, "--method", "lora", "--adapter-out", wrong)
    assert run.code == 2 and "cannot be written" in run.err
    run = cli("recap", "--model", inputs.model, *words, "--full-out", wrong)
    assert run.code == 2 and "cannot be written" in run.err


def test_end_tokens_are_looked_up_before_the_weights(cli, inputs, monkeypatch):
    monkeypatch.setattr("jaxprune.cli.flags.read", lambda *_, **__: pytest.fail("the model was read"))
    for token in ("</s>", ""):
        run = cli("generate", "--model", inputs.model, "--prompt", "the", "--end-token", token)
        assert run.code == 2 and f"the tokenizer has no token {token!r}" in run.err


def test_a_run_is_planned_with_its_own_flags(cli, inputs, monkeypatch):
    asked = {}

    def plan(model, calibration, budget, method, **where):
        asked.update(where, method=method, types={leaf.dtype.name for leaf in jax_leaves(model)})
        raise jaxprune.JaxpruneError("enough.")

    monkeypatch.setattr("jaxprune.cli.plan.plan", plan)
    words = ("--dtype", "bfloat16", "--stream", "--keep-bytes", "1MB", "--no-refit", "--seed", 3)
    assert cli("plan", "--model", inputs.model, "--remove", 0.5, *words).err == "jaxprune: error: enough.\n"
    assert (asked["stream"], asked["keep_bytes"], asked["types"]) == (True, 10**6, {"bfloat16"})
    assert (asked["method"].refit, asked["method"].seed) == ("none", 3)
    run = cli("plan", "--model", inputs.model, "--remove", 0.5, "--method", "random", "--no-rearrange")
    assert run.code == 2 and "--rearrange is not a setting of random; it has: --refit." in run.err


def jax_leaves(model):
    import jax

    return jax.tree.leaves(model.params)


def test_inspect_says_how_many_labels_and_at_which_length(cli, inputs, tmp_path):
    out = cli("inspect", "--model", "jaxprune/assets/demo/model").out
    assert "classification of 77: " in out and "and 72 more" in out
    words = ("--method", "magnitude", "--seq-len", 9, "--out", tmp_path / "small")
    assert cli("prune", "--model", inputs.model, "--remove", 0.5, *words).code == 0
    assert "of params (FLOPs at 9 tokens)" in " ".join(cli("inspect", "--model", tmp_path / "small").out.split())
