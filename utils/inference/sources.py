"""Which image files are meant: files, folders at any depth, and glob patterns."""

import glob
import os
import pathlib
from dataclasses import dataclass

from utils.core.errors import UserError
from utils.core.images import IMAGE_SUFFIXES


@dataclass
class ImageFile:
    """A file, and what to call a copy of it: its path below the folder that was given."""

    path: str
    name: str


def find_images(patterns):
    """Files, folders (searched at any depth) and glob patterns as a list of ImageFiles, in order, none twice.

    In a folder only files with an image's suffix count, and nothing hidden. A file that is named is taken whatever its
    suffix, also where it is missing: that is reported with the unreadable ones. Raises UserError for a folder or a
    pattern that gives nothing.
    """
    found = {}
    for pattern in patterns:
        if os.path.isdir(pattern):
            inside = list(_images_in(pattern))
            if not inside:
                known = " ".join(sorted(IMAGE_SUFFIXES))
                raise UserError(f"{pattern}: the folder holds no images ({known})", option="image")
            images = [ImageFile(path, os.path.relpath(path, pattern)) for path in inside]
        elif os.path.exists(pattern) or not glob.has_magic(pattern):
            images = [ImageFile(pattern, os.path.basename(pattern))]
        else:
            matches = [path for path in sorted(glob.glob(pattern, recursive=True)) if not os.path.isdir(path)]
            if not matches:
                raise UserError(f"{pattern}: no file matches", option="image")
            images = [ImageFile(path, os.path.basename(path)) for path in matches]
        for image in images:
            found.setdefault(os.path.abspath(image.path), image)
    return list(found.values())


def _images_in(folder):
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(here) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        named_as_images = [name for name in folders if _is_image_name(name)]  # to be reported: no such file can be read
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in named_as_images)
        for name in sorted(files + named_as_images):
            if _is_image_name(name) and not name.startswith("."):
                yield os.path.join(here, name)


def _is_image_name(name):
    return pathlib.Path(name).suffix.lower() in IMAGE_SUFFIXES
