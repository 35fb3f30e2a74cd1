"""Draw docs/images/answers.jpg: photographs that training has not seen, with the answers of a network.

    python docs/make_readme_figure.py

Runs the README's own commands on the photographs of docs/make_photos.py, in a temporary folder, and shows the first two test
images of each class. Takes about a minute on two cores.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import matplotlib.pyplot as plt
from PIL import Image

plt.switch_backend("Agg")

ROOT = pathlib.Path(__file__).parent.parent
EACH = 2  # images of each class


def readme_commands():
    """The lines of the README that run a script on `photos/`, each as a list of words."""
    lines = re.findall(r"^python (\S+\.py .*photos.*?)(?:\s+#.*)?$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    return [line.split() for line in lines]


def answers(folder):
    """The answers to photos/test as predict.py writes them, after the README's other commands have run in `folder`."""
    subprocess.run([sys.executable, ROOT / "docs" / "make_photos.py"], cwd=folder, check=True)
    for script, *flags in readme_commands():
        if script == "predict.py":
            flags = ["-i", "photos/test", *flags[flags.index("-m") :], "--json", "answers.json"]
        subprocess.run([sys.executable, ROOT / script, *flags], cwd=folder, check=True)
    return json.loads((folder / "answers.json").read_text(encoding="utf-8"))["images"]


def draw(folder, images, path):
    """One row of images for each of the first `EACH` of a class; an answer that is wrong says what is right."""
    classes = {}
    for image in images:
        classes.setdefault(pathlib.Path(image["image"]).parent.name, []).append(image)
    figure, axes = plt.subplots(EACH, len(classes), figsize=(1.7 * len(classes), 2.1 * EACH), layout="constrained")
    for column, (name, members) in zip(axes.T, classes.items(), strict=True):
        for axis, image in zip(column, members[:EACH], strict=True):
            right = image["class"] == name
            axis.imshow(Image.open(folder / image["image"]), interpolation="bicubic")
            axis.set_title(
                f"{image['class']} {image['probability']:.2f}" + ("" if right else f"\n(is {name})"),
                fontsize=11,
                color="black" if right else "#c2410c",
            )
            axis.axis("off")
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 90})


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        draw(folder, answers(folder), ROOT / "docs" / "images" / "answers.jpg")


if __name__ == "__main__":
    main()
