"""How long check_dataset.py takes for a folder of generated photographs.

    python benchmarks/dataset_check.py --images 10000

The images are JPEG files of 256×256 px in ten classes: coarse noise, enlarged, with fine noise on it, so that each is another.
The time is that of the whole process. Writes results/benchmarks/dataset_check.json.
"""

import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks.pairs import save
from utils.core import cli
from utils.core.errors import UserError, run

SIDE, CLASSES = 256, 10  # px of an image; class folders


def parser():
    p = cli.Parser(__doc__)
    p.add_argument("--images", type=int, default=10_000, check=cli.at_least(CLASSES), help="how many to check")
    return p


def write_images(folder, count):
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(CLASSES):
        (folder / f"class_{number}").mkdir()
    fine = random.integers(0, 25, (SIDE, SIDE, 3), dtype=np.uint8)
    for number in range(count):
        coarse = Image.fromarray(random.integers(30, 200, (8, 8, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        image = Image.fromarray(np.minimum(pixels, 230) + np.roll(fine, number, axis=number % 2))
        image.save(folder / f"class_{number % CLASSES}" / f"{number}.jpg", quality=90)


def main():
    args = parser().parse()
    script = pathlib.Path(__file__).parent.parent / "check_dataset.py"
    with tempfile.TemporaryDirectory() as folder:
        write_images(pathlib.Path(folder), args.images)
        started = time.perf_counter()
        done = subprocess.run([sys.executable, str(script), "-d", folder], capture_output=True, text=True)
        seconds = time.perf_counter() - started
    if done.returncode not in (0, 1):
        raise UserError(f"check_dataset.py ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    print(f"{args.images:,} images of {SIDE}×{SIDE} px checked in {seconds:.1f} s ({args.images / seconds:.0f} images/s)")
    facts = {"images": args.images, "side": SIDE, "seconds": round(seconds, 1), "found": done.returncode == 1}
    save("dataset_check", facts)
    return 0


if __name__ == "__main__":
    run(main)
