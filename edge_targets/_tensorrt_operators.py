"""Which operators TensorRT's ONNX parser lists, and in which types: a graph is checked before it is shipped.

From `docs/operators.md` of onnx/onnx-tensorrt as it was for TensorRT 10.15 (operator sets 9 to 24). Of its table, what a
decoder could need is here, and only where the table of TensorRT 8.5 (operator sets up to 17) lists the operator too: it
is there in every version between, 10.3 and 10.13 among them. That 4-bit codes are dequantized is said by its changelog
for 10.0. Split into equal parts by `num_outputs` came with operator set 18; 9.0 already took in ONNX 1.14, with set 19.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_FLOATS = frozenset({"FLOAT", "FLOAT16", "BFLOAT16"})
_NUMBERS = _FLOATS | {"INT32", "INT64"}
_ANYTHING = _NUMBERS | {"BOOL"}

SUPPORTED: dict[str, frozenset[str]] = {
    **dict.fromkeys(("Cos", "Sin", "Erf", "Exp", "Log", "Sigmoid", "Sqrt", "Tanh", "Reciprocal"), _FLOATS),
    **dict.fromkeys(("Gemm", "MatMul", "Einsum", "Softmax", "Clip", "Floor", "Ceil", "Round"), _FLOATS),
    **dict.fromkeys(("Abs", "Add", "Div", "Max", "Min", "Mul", "Neg", "Pow", "Sub", "Sum", "Range"), _NUMBERS),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Equal", "Greater"), _NUMBERS),
    **dict.fromkeys(("GreaterOrEqual", "Less", "LessOrEqual", "Pad"), _NUMBERS),
    **dict.fromkeys(("Cast", "Concat", "Constant", "Expand", "Flatten", "Gather", "Identity"), _ANYTHING),
    **dict.fromkeys(("Reshape", "Shape", "Slice", "Split", "Squeeze", "Tile", "Transpose"), _ANYTHING),
    **dict.fromkeys(("Unsqueeze", "Where"), _ANYTHING),
    **dict.fromkeys(("And", "Not", "Or"), frozenset({"BOOL"})),
    "DequantizeLinear": frozenset({"INT4", "INT8"}),
    "QuantizeLinear": _FLOATS,
}
"""Types by their names in ONNX; those of what an operator works on, not of the shapes, axes and places it is given."""
_WORKED_ON = {"Where": 1}
"""The input whose type counts, where it is not the first."""


def unsupported(model: Any) -> Iterator[str]:
    """What TensorRT's parser does not list: a line for each node whose operator or type it is."""
    types = _types_of(model)
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            yield f"{node.name}: {node.op_type} is not ONNX's own but {node.domain}'s"
        elif node.op_type not in SUPPORTED:
            yield f"{node.name}: {node.op_type} is not listed"
        else:
            listed = SUPPORTED[node.op_type]
            given = types.get(node.input[_WORKED_ON.get(node.op_type, 0)]) if node.input else None
            for kind in (given, types.get(node.output[0]) if node.op_type == "Cast" else given):
                if kind is None:
                    yield f"{node.name}: the type that {node.op_type} works on cannot be inferred"
                    break
                if kind not in listed:
                    yield f"{node.name}: {node.op_type} is listed for {', '.join(sorted(listed))}, not for {kind}"
                    break


def _types_of(model: Any) -> dict[str, str]:
    """The type of every value. Inferred on a copy without weights, which may be larger than a protobuf takes."""
    import onnx
    from onnx import TensorProto, helper

    graph = model.graph
    weights = [helper.make_tensor_value_info(held.name, held.data_type, held.dims) for held in graph.initializer]
    bare = helper.make_graph(graph.node, graph.name, [*graph.input, *weights], graph.output)
    inferred = onnx.shape_inference.infer_shapes(
        helper.make_model(bare, opset_imports=model.opset_import, ir_version=model.ir_version)
    ).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    return {value.name: TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in values}
