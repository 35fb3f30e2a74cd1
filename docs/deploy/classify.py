"""Classify images with ONNX Runtime, numpy and Pillow, and nothing else of this project: copy this file where you need it.

    python classify.py MODEL.onnx IMAGE…

MODEL.onnx is written by `export.py -e onnx --with_preprocessing`: its graph resizes, crops and normalises.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def opened(path):
    """The image upright and in RGB; what is transparent is shown on black."""
    with open(path, "rb") as file:
        image = ImageOps.exif_transpose(Image.open(file))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
    return image.convert("RGB")


def main(model, *images):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    classes = json.loads(session.get_modelmeta().custom_metadata_map["model_card"])["classes"]
    for path in images:
        image = opened(path)
        (logits,) = session.run(["logits"], {"image": np.asarray(image)[None]})[0]
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        print(f"{path}  {classes[logits.argmax()]} {probabilities.max():.2f}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
