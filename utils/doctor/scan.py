"""An image folder as the doctor reads it: also one that training refuses, because its splits have different classes."""

import pathlib

from utils.core.errors import UserError
from utils.data.image_folder import image_folder
from utils.data.splits import check_classes


def scan_folder(root):
    """`(classes, [Split], notices, refusal)` of `root/<split>/<class>/…` or `root/<class>/…`.

    The classes are those of all splits; `refusal` says why train.py does not take the folder, or is None.
    Raises UserError for what is no folder, for a folder without images, and for one that can be read in two ways.
    """
    if not pathlib.Path(root).is_dir():
        raise UserError(
            f"{root} is not a folder; give the one that holds train/<class>/… or the class folders", option="dataset"
        )
    dataset = image_folder(root, complete=False)
    splits = [split for split in (dataset.train, dataset.val, dataset.test) if split]
    refusal = None
    try:
        check_classes(image_folder(root))
    except UserError as error:
        refusal = f"train.py refuses this folder: {error}"
    return dataset.classes, splits, dataset.notices, refusal
