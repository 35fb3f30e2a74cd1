"""The cache of an image folder, opened as train.py opens it: run by torchrun. Arguments: the image folder, and where to write.

That is who has decoded, and of each process the images that it reads.
"""

import json
import pathlib
import sys
import time

import torch

from utils.data import cache
from utils.data.cache import open_store
from utils.data.datasets import open_dataset
from utils.runtime import distributed


def main(photos, folder):
    decode_all = cache._decode_all

    def slow_and_noted(*args):
        with open(folder / "decoded", "a") as file:
            print(distributed.rank(), file=file)
        time.sleep(1)  # in which the other would build another
        return decode_all(*args)

    cache._decode_all = slow_and_noted
    distributed.join_group(torch.device("cpu"))
    split = open_dataset(photos, val_fraction=0).train
    with distributed.first_here_first():
        store = open_store(split, 7, "disk", folder / "cache", show=False)
    images = [store.gather(torch.tensor([i])).data.flatten().tolist() for i in range(len(store))]
    (folder / f"{distributed.rank()}.json").write_text(json.dumps(images))
    distributed.leave_group()


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
