"""A `.bin` is a pickle in a zip: only tensors may come out of it, and nothing may run."""

import pickle
import zipfile

import numpy as np
import pytest

from jaxprune.checkpoint import load
from jaxprune.checkpoint.pickle_free import read_bin
from jaxprune.errors import CheckpointError
from tests.helpers import tiny

NUMBERS = np.arange(6, dtype=np.float32)


def file(tmp_path, items: bytes, data=None, **options):
    path = tmp_path / "pytorch_model.bin"
    tiny.write_zip(path, tiny.state(items), {"0": NUMBERS.tobytes()} if data is None else data, **options)
    return path


def named(name: str, value: bytes) -> bytes:
    return pickle.dumps(name, 2)[2:-1] + value


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_strided_and_shared_storages(tmp_path):
    rows = named("rows", tiny.tensor("0", "float32", 6, 0, (2, 3), (3, 1)))
    columns = named("columns", tiny.tensor("0", "float32", 6, 0, (3, 2), (1, 3)))
    tail = named("tail", tiny.tensor("0", "float32", 6, 4, (2,), (1,)))
    scalar = named("scalar", tiny.tensor("0", "float32", 6, 5, (), ()))
    out = read_bin(file(tmp_path, rows + columns + tail + scalar))
    np.testing.assert_array_equal(out["rows"], NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(out["columns"], NUMBERS.reshape(2, 3).T)
    np.testing.assert_array_equal(out["tail"], [4, 5])
    assert out["scalar"] == 5


@pytest.mark.parametrize("wrap", [False, True], ids=["top", "inside"])
@pytest.mark.parametrize(
    "payload, name",
    [
        (lambda flag: Hostile(open, flag, "w"), "open"),
        (lambda flag: Hostile(eval, f"open({flag!r}, 'w')"), "eval"),
        (lambda flag: Hostile(exec, f"open({flag!r}, 'w')"), "exec"),
        (lambda flag: Hostile(getattr, flag, "upper"), "getattr"),
        (lambda flag: Hostile(__import__("os").system, f"touch {flag}"), "system"),
    ],
)
def test_a_hostile_pickle_is_refused_and_does_nothing(tmp_path, payload, name, wrap):
    flag = tmp_path / "flag"
    hostile = pickle.dumps({"weight": payload(str(flag))} if wrap else payload(str(flag)), 2)
    folder = tiny.write(tmp_path / "model", tiny.config("bert"), {}, "bin")
    tiny.write_zip(folder / "pytorch_model.bin", hostile, {})
    with pytest.raises(CheckpointError, match=rf"asks to run \S+\.{name}, .*nothing was run") as caught:
        load(folder)
    assert not flag.exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "module, name",
    [
        ("collections", "OrderedDict.fromkeys"),
        ("collections", "namedtuple"),
        ("torch", "load"),
        ("torch.FloatStorage", "__class__"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("builtins", "print"),
        ("jaxprune.checkpoint.pickle_free", "read_bin"),
        ("numpy._core.multiarray", "_reconstruct"),
    ],
)
@pytest.mark.parametrize("opcode", ["old", "new"])
def test_only_exact_names_are_allowed(tmp_path, module, name, opcode):
    old = f"c{module}\n{name}\n".encode()
    new = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)) + b"\x93"
    with pytest.raises(CheckpointError, match="asks to run"):
        read_bin(file(tmp_path, named("x", old if opcode == "old" else new)))


def test_setting_attributes_runs_nothing(tmp_path):
    """BUILD calls `__setstate__` of what it is given; no object that is allowed has one that does anything."""
    weight = tiny.tensor("0", "float32", 6, 0, (6,), (1,))
    attributes = b"}(" + named("_metadata", b"N") + named("__setstate__", b"N") + b"u"
    changed = b"ccollections\nOrderedDict\n)R" + attributes + b"b"
    with pytest.raises(CheckpointError, match="x is a OrderedDict, expected a tensor"):
        read_bin(file(tmp_path, named("w", weight) + named("x", changed)))


@pytest.mark.parametrize(
    "shape, strides, offset",
    [
        ((7,), (1,), 0),
        ((2, 3), (3, 1), 1),
        ((2,), (6,), 0),
        ((2,), (-1,), 1),
        ((2,), (1,), -1),
        ((-2,), (1,), 0),
        ((10**12,), (0,), 0),
        ((2, 3), (3,), 0),
        ((2**62, 2**62), (1, 1), 0),
    ],
)
def test_tensors_that_reach_beyond_their_storage_are_refused(tmp_path, shape, strides, offset):
    path = file(tmp_path, named("x", tiny.tensor("0", "float32", 6, offset, shape, strides)))
    with pytest.raises(CheckpointError, match="is damaged"):
        read_bin(path)


def test_a_storage_shorter_than_it_says(tmp_path):
    path = file(tmp_path, named("x", tiny.tensor("0", "float32", 100, 0, (100,), (1,))))
    with pytest.raises(CheckpointError, match="is damaged"):
        read_bin(path)


def test_a_missing_storage(tmp_path):
    path = file(tmp_path, named("x", tiny.tensor("../../0", "float32", 6, 0, (6,), (1,))))
    with pytest.raises(CheckpointError, match="is damaged"):
        read_bin(path)


def test_compressed_archives_are_refused(tmp_path):
    """They could unpack to any size."""
    path = file(tmp_path, named("x", tiny.tensor("0", "float32", 6, 0, (6,), (1,))), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed"):
        read_bin(path)


@pytest.mark.parametrize("value", [{"a": 1}, {"a": {"b": "c"}}, {1: 2}, [1], "text", None])
def test_anything_but_a_dict_of_tensors_is_refused(tmp_path, value):
    path = tmp_path / "pytorch_model.bin"
    tiny.write_zip(path, pickle.dumps(value, 2), {})
    with pytest.raises(CheckpointError, match="expected a tensor|expected a dict of tensors"):
        read_bin(path)


def test_plain_pickles_and_zips_without_one_are_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps(Hostile(open, str(tmp_path / "flag"), "w"), 2))
    with pytest.raises(CheckpointError, match="from before PyTorch 1.6"):
        read_bin(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="has no pickle of tensors"):
        read_bin(path)
    assert not (tmp_path / "flag").exists()
