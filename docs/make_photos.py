"""Make a small image folder of real photographs to try the toolkit on, without a network.

    python docs/make_photos.py              # writes photos/train/<class>/ and photos/test/<class>/
    python docs/make_photos.py other_name/

scikit-learn comes with two photographs: china.jpg by danielbuechele and flower.jpg by vultilion, both CC BY 2.0. The images
are square crops of them. Training and test crops come from different parts of a photograph, so no pixel is in both.
"""

import pathlib
import sys

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

CROPS = {"train": 30, "test": 8}  # images of each class
SIDES = (48, 80)  # side of a crop in pixels: from, below
APART = 10  # least distance of two crops' centres in pixels, or they would be nearly the same image
# class: photograph, and for each split the boxes (left, top, right, bottom) in pixels that its crops lie in
CLASSES = {
    "flower": ("flower.jpg", {"train": [(175, 100, 305, 345)], "test": [(305, 100, 435, 345)]}),
    "lake": ("china.jpg", {"train": [(345, 190, 480, 290)], "test": [(480, 180, 560, 290)]}),
    "temple": ("china.jpg", {"train": [(85, 130, 200, 345), (200, 230, 330, 345)], "test": [(205, 132, 320, 228)]}),
    "tree": (
        "china.jpg",
        {
            "train": [(0, 340, 200, 427), (330, 290, 465, 427), (0, 150, 82, 300), (560, 240, 640, 350)],
            "test": [(467, 290, 558, 427), (560, 140, 640, 238)],
        },
    ),
}


def make_photos(root):
    """Write `root`/<split>/<class>/<number>.jpg, the same files in every run."""
    random = np.random.default_rng(0)
    sample = load_sample_images()
    photographs = {
        pathlib.Path(name).name: Image.fromarray(pixels) for name, pixels in zip(sample.filenames, sample.images, strict=True)
    }
    for name, (photograph, boxes) in CLASSES.items():
        for split, count in CROPS.items():
            folder = pathlib.Path(root, split, name)
            folder.mkdir(parents=True, exist_ok=True)
            for number, box in enumerate(crops(random, boxes[split], count)):
                photographs[photograph].crop(box).save(folder / f"{number:02}.jpg", quality=95)


def crops(random, boxes, count):
    """`count` squares inside of the boxes, in turn from each, no two of them around nearly the same pixel."""
    found, centres = [], []
    while len(found) < count:
        left, top, right, bottom = boxes[len(found) % len(boxes)]
        side = int(random.integers(*SIDES))
        x, y = int(random.integers(left, right - side + 1)), int(random.integers(top, bottom - side + 1))
        centre = np.array((x + side / 2, y + side / 2))
        if all(np.hypot(*(centre - other)) >= APART for other in centres):
            found.append((x, y, x + side, y + side))
            centres.append(centre)
    return found


if __name__ == "__main__":
    root = sys.argv[1] if len(sys.argv) > 1 else "photos"
    if root.startswith("-"):
        sys.exit(__doc__)
    make_photos(root)
    print(f"{root}: {len(CLASSES)} classes, {' and '.join(f'{n} {split}' for split, n in CROPS.items())} images of each")
