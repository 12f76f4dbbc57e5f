import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxprune.checkpoint import check_output, check_writable, load, save, write
from jaxprune.checkpoint.manifest import load_own
from jaxprune.errors import CheckpointError, NumericalError, OutputError, SettingsError
from jaxprune.model import Architecture, LayerSizes, Model, Provenance, parameter_shapes
from jaxprune.pruning.measured import Measured

TINY = Architecture(
    family="bert",
    vocab=12,
    hidden=8,
    head_width=4,
    layers=(LayerSizes(groups=2, neurons=6), LayerSizes(groups=1, neurons=0)),
    max_positions=8,
    head="classification",
    labels=("no", "yes"),
)


def random_model(seed: int = 0) -> Model:
    random = np.random.RandomState(seed)
    params = jax.tree.map(
        lambda shape: random.normal(0, 0.4, shape).astype(np.float32),
        parameter_shapes(TINY),
        is_leaf=lambda node: isinstance(node, tuple),
    )
    return Model(TINY, params)


def same(folder: Path, model: Model) -> bool:
    pairs = zip(jax.tree.leaves(load_own(folder).params), jax.tree.leaves(model.params), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- what is written


def test_a_folder_holds_weights_and_manifest_and_no_config(tmp_path):
    assert save(random_model(), tmp_path / "new" / "out") == tmp_path / "new" / "out"
    assert names(tmp_path / "new" / "out") == ["README.md", "jaxprune.json", "model.safetensors"]
    assert names(tmp_path / "new") == ["out"]
    tensors = load_file(tmp_path / "new" / "out" / "model.safetensors")
    assert tensors["layers.0.attention.q.kernel"].shape == (8, 2, 1, 4)
    assert tensors["layers.1.feed_forward.up.kernel"].shape == (8, 0)


def test_others_may_read_the_folder_as_far_as_the_umask_allows(tmp_path):
    mask = os.umask(0)
    os.umask(mask)
    folder = save(random_model(), tmp_path / "out", shard_bytes=500)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~mask
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes == dict.fromkeys(modes, 0o666 & ~mask)


@pytest.mark.parametrize("kind", ["transposed", "strided", "fortran", "jax", "bfloat16", "float64"])
def test_numbers_are_right_however_they_lie_in_memory(tmp_path, kind):
    model = random_model()
    kernel = model.params["embed"]["token"]
    laid = {
        "transposed": lambda: np.ascontiguousarray(kernel.T).T,
        "strided": lambda: np.repeat(kernel, 2, axis=0)[::2],
        "fortran": lambda: np.asfortranarray(kernel),
        "jax": lambda: jnp.asarray(kernel),
        "bfloat16": lambda: jnp.asarray(kernel, jnp.bfloat16),
        "float64": lambda: kernel.astype(np.float64),
    }[kind]()
    expected = np.asarray(laid, np.float32)
    params = {**model.params, "embed": {**model.params["embed"], "token": laid}}
    folder = save(model.replace(params=params), tmp_path / "out")
    np.testing.assert_array_equal(load_own(folder).params["embed"]["token"], expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_numbers_are_rounded_to_the_type_asked_for(tmp_path, dtype):
    model = random_model()
    folder = save(model, tmp_path / "out", dtype=dtype)
    assert {str(array.dtype) for array in load_file(folder / "model.safetensors").values()} == {dtype}
    assert json.loads((folder / "jaxprune.json").read_text())["dtype"] == dtype
    loaded = load_own(folder)
    for one, other in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(model.params), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other.astype(jnp.dtype(dtype)).astype(np.float32))
    again = save(loaded, tmp_path / "again")  # which is float32 in memory
    assert json.loads((again / "jaxprune.json").read_text())["dtype"] == dtype


def test_a_type_that_cannot_hold_the_numbers_or_is_unknown_is_refused(tmp_path):
    model = random_model()
    large = {**model.params, "embed": {**model.params["embed"], "token": 1e5 + model.params["embed"]["token"]}}
    with pytest.raises(NumericalError, match=r"embed\.token .* too large for float16; choose float32"):
        save(model.replace(params=large), tmp_path / "out", dtype="float16")
    with pytest.raises(SettingsError, match="dtype is 'int8', expected one of float32, bfloat16, float16"):
        save(model, tmp_path / "out", dtype="int8")
    assert names(tmp_path) == []


def test_shards_stay_below_the_limit_and_the_index_is_complete(tmp_path):
    limit = 500
    folder = save(random_model(), tmp_path / "out", shard_bytes=limit)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(folder.glob("model-*.safetensors"))
    assert len(files) > 2 and files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    seen, total = {}, 0
    for file in files:
        tensors = load_file(file)
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= limit or len(tensors) == 1
        seen |= dict.fromkeys(tensors, file.name)
        total += size
    assert seen == index["weight_map"] and total == index["metadata"]["total_size"]
    assert not (folder / "model.safetensors").exists()
    assert same(folder, random_model())


def test_the_tokenizer_comes_along_and_nothing_else(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("tokenizer.json", "vocab.txt", "config.json", "model.safetensors", "evil.py"):
        (source / name).write_text(name)
    (source / "merges.txt").symlink_to(source / "vocab.txt")
    (tmp_path / "secret").write_text("…")
    (source / "vocab.json").symlink_to(tmp_path / "secret")  # leads out of the folder: not followed
    folder = save(random_model().replace(provenance=Provenance(str(source))), tmp_path / "out")
    assert names(folder) == [
        "README.md",
        "jaxprune.json",
        "merges.txt",
        "model.safetensors",
        "tokenizer.json",
        "vocab.txt",
    ]
    assert (folder / "tokenizer.json").read_text() == "tokenizer.json"
    assert not (folder / "merges.txt").is_symlink() and (folder / "merges.txt").read_text() == "vocab.txt"


def test_a_model_saved_over_its_own_source_keeps_its_tokenizer(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "vocab.txt").write_text("words")
    folder = save(random_model().replace(provenance=Provenance(str(tmp_path / "source"))), tmp_path / "out")
    save(load_own(folder), folder, overwrite=True)
    assert (folder / "vocab.txt").read_text() == "words"


# --- what is refused


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_named(tmp_path, bad):
    model = random_model()
    model.params["layers"][0]["attention"]["v"]["bias"][0, 0] = bad
    with pytest.raises(NumericalError, match=r"layers\.0\.attention\.v\.bias"):
        save(model, tmp_path / "out")
    assert names(tmp_path) == []


def test_parameters_that_do_not_fit_the_architecture_are_refused(tmp_path):
    model = random_model()
    model.params["head"]["bias"] = np.zeros(3, np.float32)
    with pytest.raises(CheckpointError, match=r"head\.bias is \[3\], expected \[2\]"):
        save(model, tmp_path / "out")
    assert names(tmp_path) == []


def test_an_existing_folder_needs_overwrite(tmp_path):
    folder = save(random_model(), tmp_path / "out")
    with pytest.raises(OutputError, match="exists and is not empty"):
        save(random_model(1), folder)
    assert same(folder, random_model())
    save(random_model(1), folder, overwrite=True)
    assert same(folder, random_model(1))
    assert names(tmp_path) == ["out"]


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "out").mkdir()
    save(random_model(), tmp_path / "out")
    assert same(tmp_path / "out", random_model()) and names(tmp_path) == ["out"]


def test_nothing_of_others_is_ever_replaced(tmp_path):
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter1.txt").write_text("…")
    with pytest.raises(OutputError, match="was not written by jaxprune"):
        save(random_model(), foreign, overwrite=True)
    assert names(foreign) == ["chapter1.txt"]
    mixed = save(random_model(), tmp_path / "mixed")
    (mixed / "notes.txt").write_text("…")
    with pytest.raises(OutputError, match="also holds notes.txt"):
        save(random_model(1), mixed, overwrite=True)
    assert same(mixed, random_model()) and (mixed / "notes.txt").exists()
    (tmp_path / "file").write_text("…")
    (tmp_path / "link").symlink_to(mixed)
    for name in ("file", "link"):
        with pytest.raises(OutputError, match="is not a folder"):
            check_output(tmp_path / name, overwrite=True)
    with pytest.raises(OutputError):
        save(random_model(), tmp_path / "file" / "out")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_parent_is_found_before_the_work(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        check_output(tmp_path / "closed" / "deep" / "out")


# --- full disks, kills


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("where", "name"), [("os", "fsync"), ("os", "rename"), ("shutil", "copyfile")])
def test_a_full_disk_leaves_the_old_folder(tmp_path, monkeypatch, where, name):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "vocab.txt").write_text("words")
    folder = save(random_model(), tmp_path / "out")
    monkeypatch.setattr(write, "_exchange", lambda *_: False)
    monkeypatch.setattr(getattr(write, where), name, no_space)
    model = random_model(1).replace(provenance=Provenance(str(tmp_path / "source")))
    with pytest.raises(OutputError, match="No space left on device") as caught:
        save(model, folder, overwrite=True)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["out", "source"] and same(folder, random_model())


def test_a_file_too_large_for_the_disk_is_an_output_error(tmp_path):
    """The system itself refuses: safetensors reports that by an error of its own."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
        with pytest.raises(OutputError, match="cannot be written"):
            save(random_model(), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


def test_ctrl_c_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "_sync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(random_model(), tmp_path / "out")
    assert names(tmp_path) == []


def test_the_second_rename_failing_puts_the_old_folder_back(tmp_path, monkeypatch):
    folder = save(random_model(), tmp_path / "out")
    rename, calls = os.rename, []

    def second_fails(one, other):
        calls.append(one)
        no_space() if len(calls) == 2 else rename(one, other)

    monkeypatch.setattr(write, "_exchange", lambda *_: False)
    monkeypatch.setattr(write.os, "rename", second_fails)
    with pytest.raises(OutputError):
        save(random_model(1), folder, overwrite=True)
    assert len(calls) == 3 and names(tmp_path) == ["out"] and same(folder, random_model())


def test_systems_without_an_exchange_replace_in_two_steps(tmp_path, monkeypatch):
    folder = save(random_model(), tmp_path / "out")
    monkeypatch.setattr(write, "_exchange", lambda *_: False)
    save(random_model(1), folder, overwrite=True)
    assert same(folder, random_model(1)) and names(tmp_path) == ["out"]


KILL = """
import os, sys
import numpy as np, jax
from jaxprune.checkpoint import save, write
from jaxprune.checkpoint.manifest import load_own
from jaxprune.model import Model
source, folder, point, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
real, calls = getattr(write, point), []
def killed(*arguments):
    calls.append(arguments)
    if len(calls) == count:
        os._exit(9)
    return real(*arguments)
setattr(write, point, killed)
if point == "_exchange":  # killed right after the swap
    def killed(*arguments):
        real(*arguments)
        os._exit(9)
    write._exchange = killed
save(load_own(source), folder, overwrite=True)
"""


@pytest.mark.parametrize(
    ("point", "count", "survivor"),
    [("write_tensors", 1, 0), ("_sync", 1, 0), ("_sync", 3, 0), ("_swap", 1, 0), ("_exchange", 1, 1)],
)
def test_a_kill_leaves_the_old_folder_or_the_new(tmp_path, point, count, survivor):
    if point == "_exchange" and sys.platform not in ("linux", "darwin"):
        pytest.skip("no atomic exchange on this system")
    folder = save(random_model(), tmp_path / "out")
    other = save(random_model(1), tmp_path / "other")
    script = [sys.executable, "-c", KILL, str(other), str(folder), point, str(count)]
    root = str(Path(write.__file__).parents[2])
    done = subprocess.run(script, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert same(folder, random_model(survivor))
    save(random_model(2), folder, overwrite=True)  # what the kill left behind is in nobody's way
    assert same(folder, random_model(2))


def test_the_home_folders_short_name_is_read_as_load_reads_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert save(random_model(), "~/small") == tmp_path / "home" / "small"
    assert load("~/small").architecture == TINY and names(tmp_path) == ["home"]
    for check in (check_output, check_writable, lambda path: Measured(path, resume=False)):
        with pytest.raises(OutputError, match="~/small begins with the home folder's short name"):
            check("~/small")
