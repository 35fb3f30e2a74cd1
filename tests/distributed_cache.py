"""The cache of an image folder, opened as train.py opens it: run by torchrun. Arguments: the image folder, and where to write.

That is who has decoded, and of each process the pictures that it reads.
"""

import json
import pathlib
import sys
import time

import torch

from utils import runtime, stores
from utils.datasets import open_dataset


def main(photos, folder):
    decode_all = stores._decode_all

    def slow_and_noted(*args):
        with open(folder / "decoded", "a") as file:
            print(runtime.rank(), file=file)
        time.sleep(1)  # in which the other would build another
        return decode_all(*args)

    stores._decode_all = slow_and_noted
    runtime.join_group(torch.device("cpu"))
    split = open_dataset(photos, val_fraction=0).train
    with runtime.first_here_first():
        store = stores.open_store(split, 7, "disk", folder / "cache", show=False)
    pictures = [store.gather(torch.tensor([i])).data.flatten().tolist() for i in range(len(store))]
    (folder / f"{runtime.rank()}.json").write_text(json.dumps(pictures))
    runtime.leave_group()


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
