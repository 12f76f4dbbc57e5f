"""A graph as an ONNX file, and its weights in eight bits."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .. import __version__
from ..doubts import without_others
from ..runtime.onnx import PIXELS
from .onnx_parts import IR, OPSET, Graph

LARGEST = 2**31 - 2**24  # bytes of a file; what protobuf holds, less some for names
WEIGHTS_BESIDE = "_data"  # behind the name of a file: the weights of a model that is larger


def as_onnx(graph: Graph) -> Any:
    """An `onnx.ModelProto`."""
    from onnx import TensorProto, helper, numpy_helper

    def node(number: int) -> Any:
        operator, inputs, outputs, attributes = graph.nodes[number]
        given = {name: getattr(TensorProto, value) if name == "to" else value for name, value in attributes.items()}
        return helper.make_node(operator, inputs, outputs, name=outputs[0], **given)

    proto = helper.make_graph(
        [node(number) for number in range(len(graph.nodes))],
        "jaxprune",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT if name == PIXELS else TensorProto.INT64, list(of))
            for name, of in graph.inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(of)) for name, of in graph.outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(
        proto, opset_imports=[opset], ir_version=IR, producer_name="jaxprune", producer_version=__version__
    )


def write_onnx(graph: Graph, file: Path, largest: int = LARGEST) -> None:
    """Write a graph to a file; weights that are more than `largest` bytes beside it, in `file` + "_data"."""
    from onnx import save_model

    size = sum(array.nbytes for array in graph.constants.values())
    beside = f"{file.name}{WEIGHTS_BESIDE}" if size > largest else None
    save_model(
        as_onnx(graph), str(file), save_as_external_data=beside is not None, location=beside, size_threshold=1024
    )


def write_int8(graph: Graph, file: Path, largest: int = LARGEST) -> None:
    """Write a graph with matrices and embeddings in eight bits, a scale for every column of a matrix.

    A table of embeddings has one scale: onnxruntime quantises what a Gather reads as a whole.
    Activations are quantised as they come (dynamically). Without a scale a column, and with embeddings left out, a
    small classifier lost 1.4 points and stayed three times as large.
    """
    from onnx import load_model, save_model
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory(dir=file.parent) as folder:
        whole = Path(folder) / "whole.onnx"
        write_onnx(_untied(graph), whole, largest)
        large = whole.with_name(f"{whole.name}{WEIGHTS_BESIDE}").exists()
        with without_others():  # advice to preprocess, which this graph does not need
            quantize_dynamic(
                str(whole), str(file), per_channel=True, weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul", "Gemm", "Gather"], use_external_data_format=large,
            )  # fmt: skip
    if large:  # the quantiser calls it NAME.data
        made = load_model(str(file))
        file.with_name(f"{file.name}.data").unlink()
        beside = f"{file.name}{WEIGHTS_BESIDE}"
        save_model(made, str(file), save_as_external_data=True, location=beside, size_threshold=1024)


def _untied(graph: Graph) -> Graph:
    """The graph with a matrix of its own for a head that is the token table.

    onnxruntime's quantiser turns the one of a Gemm around, and with it, as late as 1.22, what tokens are looked up in.
    """
    nodes, constants = [], dict(graph.constants)
    for node in graph.nodes:
        if node.operator == "Gemm":
            x, table = node.inputs
            constants["head.weight"] = np.array(constants[table].T, order="C")
            node = node._replace(operator="MatMul", inputs=(x, "head.weight"), attributes={})
        nodes.append(node)
    return replace(graph, nodes=nodes, constants=constants)
