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

CROPS = {"train": 40, "test": 8}  # images of each class
SIDES = (48, 80)  # side of a crop in pixels: from, below
# class: photograph, and for each split the boxes (left, top, right, bottom) in pixels that its crops lie in
CLASSES = {
    "flower": ("flower.jpg", {"train": [(175, 100, 305, 345)], "test": [(305, 100, 435, 345)]}),
    "leaf": ("flower.jpg", {"train": [(0, 0, 150, 427)], "test": [(450, 0, 640, 360)]}),
    "sky": ("china.jpg", {"train": [(340, 0, 640, 120), (0, 0, 95, 90)], "test": [(345, 122, 560, 202)]}),
    "temple": ("china.jpg", {"train": [(85, 130, 200, 345), (200, 230, 330, 345)], "test": [(205, 132, 320, 228)]}),
    "tree": (
        "china.jpg",
        {
            "train": [(0, 340, 200, 427), (360, 300, 465, 427), (560, 250, 640, 427)],
            "test": [(467, 300, 558, 427), (560, 160, 640, 248)],
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
            for number in range(count):
                left, top, right, bottom = boxes[split][number % len(boxes[split])]
                side = int(random.integers(*SIDES))
                x, y = int(random.integers(left, right - side + 1)), int(random.integers(top, bottom - side + 1))
                crop = photographs[photograph].crop((x, y, x + side, y + side))
                crop.save(folder / f"{number:02}.jpg", quality=95)


if __name__ == "__main__":
    root = sys.argv[1] if len(sys.argv) > 1 else "photos"
    if root.startswith("-"):
        sys.exit(__doc__)
    make_photos(root)
    print(f"{root}: {len(CLASSES)} classes, {' and '.join(f'{n} {split}' for split, n in CROPS.items())} images of each")
