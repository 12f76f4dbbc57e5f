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
    with pytest.raises(CheckpointError, match="no file that torch.save wrote"):
        read_bin(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="has no pickle of tensors"):
        read_bin(path)
    assert not (tmp_path / "flag").exists()


@pytest.mark.parametrize("name", ["_rebuild_tensor_v3", "_rebuild_qtensor"])
def test_quantised_tensors_are_called_that(tmp_path, name):
    with pytest.raises(CheckpointError, match=rf"holds quantised or 8-bit tensors \(torch._utils.{name}\)"):
        read_bin(file(tmp_path, named("x", f"ctorch._utils\n{name}\n".encode())))


# --- files from before PyTorch 1.6


HEAD = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))


def legacy(tmp_path, items: bytes, storages: dict[str, np.ndarray], head: bytes = HEAD):
    path = tmp_path / "pytorch_model.bin"
    data = b"".join(len(numbers).to_bytes(8, "little") + numbers.tobytes() for numbers in storages.values())
    path.write_bytes(head + tiny.state(items) + pickle.dumps([*storages], 2) + data)
    return path


def old(name: str, count: int, offset: int, shape, strides, view=None) -> bytes:
    return named(name, tiny.tensor("0", "float32", count, offset, shape, strides, legacy=True, view=view))


def test_old_files_may_share_storages_and_hold_views(tmp_path):
    items = old("columns", 6, 0, (3, 2), (1, 3)) + old("tail", 6, 0, (2,), (1,), view=("1", 4, 2))
    out = read_bin(legacy(tmp_path, items, {"0": NUMBERS}))
    np.testing.assert_array_equal(out["columns"], NUMBERS.reshape(2, 3).T)
    np.testing.assert_array_equal(out["tail"], [4, 5])


def test_old_files_of_every_type(tmp_path):
    import ml_dtypes

    kinds = ("float32", "float16", "float64", "int64", ml_dtypes.bfloat16)
    arrays = {np.dtype(kind).name: np.arange(6).reshape(2, 3).astype(kind) for kind in kinds}
    tiny.write_legacy_bin(tmp_path / "pytorch_model.bin", {**arrays, "empty": np.zeros((0, 3), np.float32)})
    found = read_bin(tmp_path / "pytorch_model.bin")
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert found["empty"].shape == (0, 3)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_truncated_old_files_are_damaged(tmp_path, share):
    path = tmp_path / "pytorch_model.bin"
    tiny.write_legacy_bin(path, {"w": np.ones((30, 40), np.float32)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_bin(path)


@pytest.mark.parametrize(
    "items",
    [
        old("x", 10**12, 0, (2,), (1,)),  # a storage that the file cannot hold
        old("x", -1, 0, (2,), (1,)),
        old("x", 6, 5, (2,), (1,)),
        old("x", 6, 0, (2,), (1,), view=("1", 5, 2)),
        old("x", 6, 0, (2,), (1,), view=("1", -1, 2)),
        old("x", 5, 0, (2,), (1,)),  # the storage after the pickle is longer
    ],
)
def test_old_files_that_reach_beyond_their_storages_are_refused(tmp_path, items):
    with pytest.raises(CheckpointError, match="is damaged"):
        read_bin(legacy(tmp_path, items, {"0": NUMBERS}))


def test_a_hostile_old_file_does_nothing(tmp_path):
    flag, path = tmp_path / "flag", tmp_path / "pytorch_model.bin"
    hostile = pickle.dumps({"w": Hostile(open, str(flag), "w")}, 2)
    for content in (HEAD + hostile, HEAD[: -len(pickle.dumps({"little_endian": True}, 2))] + hostile):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="asks to run .*open, .*nothing was run"):
            read_bin(path)
    assert not flag.exists()
