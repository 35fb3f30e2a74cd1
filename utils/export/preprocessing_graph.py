"""The one preprocessing as ONNX nodes in front of a network, so that a file takes decoded images of any size."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

PREFIX = "prepare_"  # of every name that is added, so that none meets one of the network's
PILLOWS = {"antialias": 1, "exclude_outside": 1, "coordinate_transformation_mode": "half_pixel"}  # no weight outside
RESIZE = {  # Pillow's antialiased filters, by the name that cards have for them
    "bilinear": {"mode": "linear"} | PILLOWS,
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5} | PILLOWS,
}
OUTPUT = "network input"  # stands for the name that the network has given it
STEPS = [  # operator, inputs, output, attributes
    ("Shape", ["image"], "shape", {}),
    ("Gather", ["shape", "index0"], "count", {}),
    ("Gather", ["shape", "index3"], "channels", {}),
    ("Gather", ["shape", "spatial"], "sides", {}),  # (H, W)
    ("ReduceMin", ["sides"], "shorter", {"keepdims": 1}),
    ("Mul", ["sides", "short"], "scaled", {}),
    ("Div", ["scaled", "shorter"], "new_sides", {}),
    ("Gather", ["sides", "index0"], "height", {}),
    ("Gather", ["sides", "index1"], "width", {}),
    ("Gather", ["new_sides", "index0"], "new_height", {}),
    ("Gather", ["new_sides", "index1"], "new_width", {}),
    ("Mul", ["width", "tall_limit"], "tall_from", {}),
    ("Greater", ["height", "tall_from"], "tall", {}),
    ("Less", ["new_height", "height"], "shrinks", {}),
    ("And", ["tall", "shrinks"], "vertical_first", {}),
    ("Concat", ["new_height", "width"], "after_vertical", {"axis": 0}),
    ("Concat", ["height", "new_width"], "after_horizontal", {"axis": 0}),
    ("Where", ["vertical_first", "after_vertical", "after_horizontal"], "first_sides", {}),
    ("Concat", ["count", "first_sides", "channels"], "first_shape", {"axis": 0}),
    ("Resize", ["image", "", "", "first_shape"], "first_pass", RESIZE),
    ("Concat", ["count", "new_sides", "channels"], "new_shape", {"axis": 0}),
    ("Resize", ["first_pass", "", "", "new_shape"], "resized", RESIZE),
    ("Sub", ["new_sides", "crop"], "spare", {}),
    ("Cast", ["spare"], "spare_float", {"to": TensorProto.FLOAT}),
    ("Div", ["spare_float", "two"], "half_spare", {}),
    ("Round", ["half_spare"], "rounded", {}),  # halves to even, as Python's round and so torchvision's CenterCrop
    ("Cast", ["rounded"], "starts", {"to": TensorProto.INT64}),
    ("Add", ["starts", "crop"], "ends", {}),
    ("Slice", ["resized", "starts", "ends", "spatial"], "cropped", {}),
    ("Cast", ["cropped"], "pixels", {"to": TensorProto.FLOAT}),
    ("Div", ["pixels", "full"], "unit", {}),
    ("Sub", ["unit", "mean"], "centred", {}),
    ("Div", ["centred", "std"], "normalised", {}),
    ("Transpose", ["normalised"], OUTPUT, {"perm": [0, 3, 1, 2]}),
]


def prepend_preprocessing(graph, card):
    """A network's ONNX model behind its preprocessing: takes `image`, uint8 RGB (N, H, W, 3), any H and W.

    Resize sees uint8 in NHWC, as that is where ONNX Runtime computes as Pillow does, rounding to whole grey levels after
    each pass; one Resize a pass, because Pillow's order of the two depends on the shape. Each pass may round exact halves
    otherwise than Pillow, so a value is within two grey levels, and within one on all but a thousandth of an image's values.
    Sizes are computed as integers, so that long sides are truncated as by `int`.
    """
    own = {"": "", "image": "image", OUTPUT: graph.graph.input[0].name}  # all other names get the prefix
    nodes = []
    for number, (kind, inputs, output, attributes) in enumerate(STEPS):
        attributes = attributes[card.interpolation] if kind == "Resize" else attributes
        takes, gives = ([own.get(name, PREFIX + name) for name in names] for names in (inputs, [output]))
        nodes.append(helper.make_node(kind, takes, gives, name=f"{PREFIX}{number}", **attributes))
    whole = onnx.ModelProto()
    whole.CopyFrom(graph)
    network_nodes = list(whole.graph.node)
    del whole.graph.node[:], whole.graph.input[:]
    whole.graph.node.extend([*nodes, *network_nodes])
    whole.graph.input.append(helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3]))
    whole.graph.initializer.extend(numpy_helper.from_array(value, PREFIX + name) for name, value in _constants(card).items())
    return whole


def network_inputs(path, prepared):
    """What the preprocessing in the ONNX file at `path` makes of uint8 (1, H, W, 3) images: a list of float32 (1, 3, S, S)."""
    whole = onnx.load(path)
    nodes = [node for node in whole.graph.node if node.name.startswith(PREFIX)]
    numbers = [number for number in whole.graph.initializer if number.name.startswith(PREFIX)]
    ends = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "preprocessing", whole.graph.input, ends, numbers)
    alone = helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)
    session = onnxruntime.InferenceSession(alone.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(None, {"image": image})[0] for image in prepared]


def _constants(card):
    """The numbers that STEPS take by name."""
    return {
        "two": np.float32(2),
        "full": np.float32(255),
        "mean": np.float32(card.mean),
        "std": np.float32(card.std),
        "spatial": np.int64([1, 2]),
        "index0": np.int64([0]),
        "index1": np.int64([1]),
        "index3": np.int64([3]),
        "short": np.int64([card.resize_size]),
        "crop": np.int64([card.image_size] * 2),
        "tall_limit": np.int64([tall_limit()]),
    }


def tall_limit():
    """From how many widths of height on Pillow shrinks vertically first: 2, or 100 before Pillow changed it.

    Asked of the Pillow that is installed, by resizing noise: the order shows in the rounding.
    """
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (105, 48, 3), dtype=np.uint8))
    shape, method = (37, 80), Image.Resampling.BILINEAR
    vertical_first = noise.resize((48, 80), method).resize(shape, method)
    return 2 if noise.resize(shape, method).tobytes() == vertical_first.tobytes() else 100
