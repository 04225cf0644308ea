"""Categories of a table as texts instead of codes, in an ONNX file: a lookup of ai.onnx.ml (LabelEncoder) for each
column stands before the graph. A text that is no level becomes the code of any other value, an empty one that of a
missing one.
"""

from collections.abc import Sequence
from dataclasses import replace

from dlcli.data.tables.encoding import Column
from dlcli.export.columns import missing_code, other_code
from dlcli.export.signature import Port, Signature

CATEGORIES = "categories"  # the input, see columns.py
MISSING = ""

_ML, _ML_OPSET = "ai.onnx.ml", 3


def with_strings(content: bytes, columns: Sequence[Column]) -> bytes:
    """The ONNX file with an input of texts, (batch, columns), where it had one of the codes of these columns."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(content)
    graph = model.graph
    codes = f"{CATEGORIES}/codes"
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == CATEGORIES:
                node.input[place] = codes
    (given,) = (value for value in graph.input if value.name == CATEGORIES)
    given.type.tensor_type.elem_type = TensorProto.STRING
    made, found = [], []
    for at, column in enumerate(columns):
        texts, which = f"{CATEGORIES}/{at}/texts", f"{CATEGORIES}/{at}/place"
        graph.initializer.append(numpy_helper.from_array(np.array([at], dtype=np.int64), which))
        made.append(helper.make_node("Gather", [CATEGORIES, which], [texts], axis=1))
        found.append(f"{CATEGORIES}/{at}/codes")
        made.append(
            helper.make_node(
                "LabelEncoder",
                [texts],
                found[-1:],
                domain=_ML,
                keys_strings=[*column.levels, MISSING],
                values_int64s=[*range(len(column.levels)), missing_code(column)],
                default_int64=other_code(column),
            )
        )
    made.append(helper.make_node("Concat", found, [codes], axis=1))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*made, *rest])
    model.opset_import.append(helper.make_opsetid(_ML, _ML_OPSET))
    finished: bytes = model.SerializeToString(deterministic=True)
    return finished


def signature_with_strings(signature: Signature) -> Signature:
    """Of such a file."""
    return replace(signature, inputs=tuple(map(_of_texts, signature.inputs)))


def _of_texts(port: Port) -> Port:
    if port.name != CATEGORIES:
        return port
    columns = tuple(
        {"name": each["name"], "kind": each["kind"], "levels": list(each["codes"]), "missing": MISSING}
        for each in port.columns
    )
    return replace(port, dtype="string", columns=columns)
