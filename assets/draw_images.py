"""Make the sample images of assets/images/: ten drawings, one a class of Fashion-MNIST, and ten images of its test split.

    python assets/draw_images.py                            # drawn/ alone, which needs no data
    python assets/draw_images.py --data_dir ../shared/data  # fashion_mnist/ too

Every run makes the same files. The drawings are light clothing on black, as the images of the data set are. Of the test split
the first image of each class is taken, whatever a network makes of it.
"""

import argparse
import pathlib

import numpy as np
from PIL import Image, ImageDraw

IMAGES = pathlib.Path(__file__).parent / "images"
GRID, SIDE, FINER = 28, 112, 4  # the unit of the coordinates below is a pixel of the data set; px; drawn so much larger
BLACK, DARK, GREY, MIDDLE, LIGHT, WHITE = 0, 60, 110, 160, 205, 240

# Class: what is drawn one over the other, as (outline, grey level). Outlines are polygons, lines where a width follows.
DRAWINGS = {
    "T-shirt/top": [
        ("10 4, 12 5.5, 16 5.5, 18 4, 21 5, 24.5 10, 21 12.5, 19.5 11, 19.5 25, 8.5 25, 8.5 11, 7 12.5, 3.5 10, 7 5", LIGHT),
        ("10 4, 12 6.2, 16 6.2, 18 4", GREY, 0.8),
    ],
    "Trouser": [
        ("10 2, 18 2, 19 13, 19 26, 15.5 26, 14.3 11, 13.7 11, 12.5 26, 9 26, 9 13", LIGHT),
        ("10 3.5, 18 3.5", GREY, 0.6),
    ],
    "Pullover": [
        ("10 3, 12 4, 16 4, 18 3, 21 5, 25 22, 22 23, 19.5 12, 19.5 25, 8.5 25, 8.5 12, 6 23, 3 22, 7 5", LIGHT),
        ("8.5 24, 19.5 24", MIDDLE, 1.2),
        ("10 3, 12 4.6, 16 4.6, 18 3", MIDDLE, 1.2),
    ],
    "Dress": [
        ("11 2, 12 6, 16 6, 17 2, 17.6 2, 17.5 11, 20.5 26, 7.5 26, 10.5 11, 10.4 2", LIGHT),
        ("10.5 11, 17.5 11", MIDDLE, 0.8),
    ],
    "Coat": [
        ("10 3, 18 3, 21 4, 24 24, 21 24.5, 20 13, 20.5 26, 7.5 26, 8 13, 7 24.5, 4 24, 7 4", MIDDLE),
        ("10 3, 14 10, 18 3", DARK, 0.8),
        ("14 10, 14 26", DARK, 0.7),
        ("9.5 18, 12 18", DARK, 0.6),
        ("16 18, 18.5 18", DARK, 0.6),
    ],
    "Sandal": [
        ("2 20, 8 19, 16 20, 23 15.5, 26 15, 26 21, 24 21, 23.5 18, 17 22, 2 22", LIGHT),
        ("6 19.5, 9 14, 13 19.5", WHITE, 1.0),
        ("17 19, 19.5 11, 24.5 10, 25 15.5", WHITE, 1.0),
    ],
    "Shirt": [
        ("10 3, 14 6, 18 3, 21 4.5, 24.5 16, 21.5 17, 19.5 12, 19.5 26, 8.5 26, 8.5 12, 6.5 17, 3.5 16, 7 4.5", MIDDLE),
        ("14 6, 14 26", GREY, 0.6),
        ("10 3, 11.5 7.5, 14 6, 16.5 7.5, 18 3", WHITE, 0.8),
        ("16 11, 18.5 11, 18.5 14, 16 14, 16 11", GREY, 0.5),
    ],
    "Sneaker": [
        ("2 19, 2.5 17, 9 15, 14 11, 20 12.5, 24.5 11, 26 13, 26 19.5, 2 19.5", MIDDLE),
        ("2 19.5, 26 19.5, 26 21.5, 3 21.5", WHITE),
        ("10 14.8, 12 16.6", WHITE, 0.6),
        ("11.6 13.6, 13.6 15.6", WHITE, 0.6),
        ("13.2 12.4, 15.2 14.4", WHITE, 0.6),
    ],
    "Bag": [
        ("5 11, 23 11, 25 24, 3 24", MIDDLE),
        ("9 11, 9.5 6, 12 4, 16 4, 18.5 6, 19 11", LIGHT, 1.0),
        ("4.6 14.5, 23.4 14.5", DARK, 0.6),
        ("13 13.5, 15 13.5, 15 16, 13 16", WHITE),
    ],
    "Ankle boot": [
        ("13 4, 23 3.5, 23.5 13, 25.5 19, 25.5 22.5, 2 22.5, 2 20, 5 17.5, 12 15.5, 14 12", LIGHT),
        ("2 22.5, 16 22.5, 17 23.5, 21 23.5, 21 25, 25.5 25, 25.5 22.5", GREY),
        ("16.5 4, 17 13, 20 13, 19.8 4", MIDDLE),
    ],
}  # fmt: skip


def file_name(name):
    """`T-shirt/top` -> `t-shirt_top.png`"""
    return name.lower().replace("/", "_").replace(" ", "_") + ".png"


def draw(shapes):
    """The shapes one over the other as a grey Pillow image of SIDE pixels, with smooth edges."""
    scale = SIDE * FINER / GRID
    image = Image.new("L", (SIDE * FINER, SIDE * FINER), BLACK)
    pen = ImageDraw.Draw(image)
    for outline, level, *width in shapes:
        points = [tuple(float(number) * scale for number in point.split()) for point in outline.split(",")]
        if width:
            pen.line(points, fill=level, width=round(width[0] * scale), joint="curve")
        else:
            pen.polygon(points, fill=level)
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def first_of_each(labels):
    """The index of the first image of every label, in the order of the labels."""
    return [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]


def write(folder, images):
    """Write {class: Pillow image} as PNG into `folder` and say so."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        image.save(folder / file_name(name), optimize=True)
    print(f"written: {len(images)} images in {folder}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=pathlib.Path, help="the folder that holds FashionMNIST/raw")
    parser.add_argument("--output", type=pathlib.Path, default=IMAGES, help="default: assets/images/")
    args = parser.parse_args()
    write(args.output / "drawn", {name: draw(shapes) for name, shapes in DRAWINGS.items()})
    if args.data_dir:
        raw = args.data_dir / "FashionMNIST" / "raw"
        labels = np.fromfile(raw / "t10k-labels-idx1-ubyte", np.uint8, offset=8)
        images = np.fromfile(raw / "t10k-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, GRID, GRID)
        found = zip(DRAWINGS, first_of_each(labels), strict=True)
        write(args.output / "fashion_mnist", {name: Image.fromarray(images[index]) for name, index in found})


if __name__ == "__main__":
    main()
