"""Which image files are meant: files, folders at any depth, and glob patterns."""

import glob
import os
import sys
from dataclasses import dataclass

from utils.core import walk
from utils.core.errors import UserError
from utils.core.inputs import absent
from utils.core.text import printable

MOST_NAMED = 3  # of the files that are missing


@dataclass
class ImageFile:
    """A file, and what to call a copy of it: its path below the folder that was given."""

    path: str
    name: str


def find_images(patterns):
    """Files, folders (searched at any depth) and glob patterns as a list of ImageFiles, in order, none twice.

    Of a folder the images that `utils.core.walk` finds count; what else is in it is named on standard error. A file that
    is named is taken whatever its suffix, also where it is missing: that is reported with the unreadable ones. Raises
    UserError for a folder or a pattern that gives nothing.
    """
    found = {}
    for pattern in patterns:
        if os.path.isdir(pattern):
            inside = _images_in(pattern)
            if not inside:
                known = " ".join(sorted(walk.image_suffixes()))
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
            found.setdefault(os.path.realpath(image.path), image)
    files = list(found.values())
    if not any(os.path.lexists(image.path) for image in files):
        raise UserError("; ".join(f"{image.path} {absent(image.path)}" for image in files[:MOST_NAMED]))
    return files


def _images_in(folder):
    """Paths of the images under a folder, and of what has an image's name and cannot be read: that is reported."""
    found = walk.find_images(folder)
    odd = [path for path, reason in found.left_out if walk.is_image_name(path.name) and reason != walk.TAKEN]
    for line in walk.summary([item for item in found.left_out if item[0] not in odd]):
        print(printable(line), file=sys.stderr)
    return [str(path) for path in sorted([*found.images, *odd], key=walk.reading_order)]
