"""The table of augmentations, and the names of what can be chosen in this room, without importing torch."""

import pathlib

from utils.core.registry import Registry, names_in

AUGMENTATIONS = Registry("augmentation")
CACHES = ("auto", "ram", "disk", "off")


def list_augmentations():
    """Names of all augmentations: those of augment.py, then those that were registered elsewhere."""
    written = names_in([pathlib.Path(__file__).with_name("augment.py")], "AUGMENTATIONS")
    return list(dict.fromkeys([*written, *AUGMENTATIONS]))
