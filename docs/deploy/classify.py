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
    try:
        with open(path, "rb") as file:
            image = ImageOps.exif_transpose(Image.open(file))
    except OSError as error:
        sys.exit(f"{path} is not an image that can be read ({error})")
    if image.mode.startswith("I") or image.mode == "F":
        sys.exit(f"{path} is grey of more than 8 bits, which Pillow would cut off: make it one of 8 bits")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
    return image.convert("RGB")


def main(model, *images):
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception as error:  # one of ONNX Runtime's own
        sys.exit(f"{model} is not an ONNX file that can be run ({error})")
    if [value.name for value in session.get_inputs()] != ["image"]:
        sys.exit(f"{model} is not a file of export.py -e onnx --with_preprocessing")
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
