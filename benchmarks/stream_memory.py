"""Whether memory stays flat while shards are streamed: generated images, as many as are asked for.

  python benchmarks/stream_memory.py --images 1000000

One shard of 10,000 small PNG images is written once and streamed over and over through pipes (`pipe:cat FILE`), so that a
million of images needs 20 MB of disk. Memory is what this process and its loader workers hold of their own, pages that they
share counted once, without the pages of program files, whose part falls and rises with other processes. It is looked at as
the images go by. Writes results/benchmarks/stream_memory.json.
"""

import io
import os
import pathlib
import sys
import tarfile
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks.pairs import save
from utils.core import cli
from utils.core.errors import run
from utils.core.text import table

SHARD = 10_000  # images
OWN = ("Pss_Anon:", "Pss_Shmem:")  # see proc(5), smaps_rollup
GROWTH = 0.05  # of memory from a fifth of the run to its end that counts as flat


def parser():
    p = cli.Parser(__doc__)
    p.add_argument("--images", type=int, default=1_000_000, check=cli.at_least(2 * SHARD), help="how many to stream")
    p.add_argument("--workers", type=int, default=2, check=cli.between(0, 64), help="loader processes")
    p.add_argument("--seconds", type=float, default=240, check=cli.above(0), help="stop after so long, whatever is left")
    return p


def write_shard(path):
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(SHARD):
            stream = io.BytesIO()
            Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(stream, "PNG")
            for suffix, content in (("png", stream.getvalue()), ("cls", b"%d" % (number % 10))):
                member = tarfile.TarInfo(f"{number:06}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def memory():
    """Bytes of this process and of the processes that it started."""
    me, total = os.getpid(), 0
    for place in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if me in (int(place.name), parent):
                lines = (place / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith(OWN)) * 1024
        except (OSError, ValueError):  # it has ended since
            continue
    return total


def stream(folder, args):
    """[(images so far, bytes of memory)], and the seconds."""
    import torch

    from utils.data.reading import Reading
    from utils.data.streams import open_stream, stream_batches

    write_shard(folder / "train-0.tar")
    (folder / "classes.txt").write_text("".join(f"{i}\n" for i in range(10)))
    shards = f"pipe:{{{','.join(['cat'] * (args.images // SHARD))}}} {folder}/train-0.tar"
    split = open_stream(shards, args.images, Reading()).train
    sizes, seen, looks, started = [250] * (args.images // 250), 0, [], time.perf_counter()
    for pixels, _ in stream_batches(split, (8, "bilinear"), sizes, torch.device("cpu"), args.workers, seed=0):
        seen += len(pixels.data)
        if seen % (args.images // 20) < 250:
            looks.append((seen, memory()))
            print(f"{seen:,} images, {looks[-1][1] / 1e6:.0f} MB, {time.perf_counter() - started:.0f} s", flush=True)
        if time.perf_counter() - started > args.seconds:
            break
    looks.append((seen, memory()))
    return looks, seen, time.perf_counter() - started


def main():
    args = parser().parse()
    with tempfile.TemporaryDirectory() as folder:
        looks, seen, seconds = stream(pathlib.Path(folder), args)
    settled = [bytes_ for images, bytes_ in looks if images >= seen / 5]
    growth = settled[-1] / settled[0] - 1
    print(table(["images", "MB"], [[f"{images:,}", f"{bytes_ / 1e6:.0f}"] for images, bytes_ in looks]))
    print(f"{seen:,} of {args.images:,} images in {seconds:.0f} s ({seen / seconds:.0f} images/s)")
    met = growth <= GROWTH
    print(f"memory grew by {growth:+.1%} from a fifth of them on: {'no more' if met else 'more'} than {GROWTH:.0%}")
    save("stream_memory", {"images": seen, "asked": args.images, "seconds": round(seconds, 1), "workers": args.workers,
                           "memory": looks, "growth": growth, "met": met})  # fmt: skip
    return 0


if __name__ == "__main__":
    run(main)
