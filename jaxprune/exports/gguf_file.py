"""Keys and tensors as a GGUF file, by the package gguf."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .gguf_tensors import KINDS, Tensor


def write_gguf(
    file: Path, architecture: str, keys: Mapping[str, Any], tensors: Sequence[tuple[str, tuple[int, ...], str]],
    read: Iterator[Tensor],
) -> int:  # fmt: skip
    """Write a file; `tensors` are names, shapes and types, `read` gives their numbers in the same order.

    Whole numbers are written as uint32, or in lists as int32, other numbers as float32. Returns the bytes of all
    tensors.
    """
    # Late: the package is an extra, and takes a while.
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quant_shape_to_byte_shape, quantize

    writer = GGUFWriter(str(file), architecture)  # which writes general.architecture
    for key, value in keys.items():
        _add(writer, key, value)
    size = 0
    for name, shape, kind in tensors:
        stored = GGMLQuantizationType[KINDS[kind].name]
        in_bytes = quant_shape_to_byte_shape(shape, stored)
        count = int(np.prod(in_bytes))
        writer.add_tensor_info(name, in_bytes, np.dtype(np.uint8), count, raw_dtype=stored)
        size += count
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for (name, shape, kind), tensor in zip(tensors, read, strict=True):
        assert (tensor.name, tensor.array.shape) == (name, shape)
        data = quantize(np.ascontiguousarray(tensor.array, np.float32), GGMLQuantizationType[KINDS[kind].name])
        writer.write_tensor_data(np.ascontiguousarray(data).view(np.uint8))
    writer.close()
    return size


def _add(writer: Any, key: str, value: Any) -> None:
    """Add a key by the type of its value; an empty list and an empty text are left out."""
    if isinstance(value, list):
        writer.add_array(key, value)
    else:
        kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        kinds[type(value)](key, value)
