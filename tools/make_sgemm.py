"""Write infer/dcgan_infer/sgemm.onnx, the yardstick of dcgan-bench: python tools/make_sgemm.py

One MatMul of two square float32 matrices. The second one is fixed, like the weights of a generator, so that onnxruntime
packs it once when the session is opened. It is a constant that the file describes and onnxruntime writes out: that
keeps the file at a few hundred bytes, and no product is faster for the numbers in it. Opset 17 and IR 8 like the
generators, so that any onnxruntime that runs those runs this.
"""

from pathlib import Path

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 1024  # large enough that the product, not the call or the memory, takes the time
FILE = Path(__file__).resolve().parent.parent / "infer" / "dcgan_infer" / "sgemm.onnx"


def sgemm() -> bytes:
    """The model."""
    a, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in "ac")
    shape = numpy_helper.from_array(np.array([SIDE, SIDE], np.int64), "shape")
    value = numpy_helper.from_array(np.array([0.7], np.float32), "value")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["b"], value=value),
        helper.make_node("MatMul", ["a", "b"], ["c"]),
    ]
    graph = helper.make_graph(nodes, "sgemm", [a], [c], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


@click.command()
def main() -> None:
    """Write the model."""
    FILE.write_bytes(sgemm())


if __name__ == "__main__":
    main()
