"""The images under a folder, each once: one walk for training, evaluation, prediction and check_dataset.py."""

import functools
import importlib.util
import os
import pathlib
import stat
from collections import Counter
from dataclasses import dataclass, field

from utils.core.text import plural, printable

NO_IMAGES = frozenset({"EPS", "MPEG", "PDF"})  # Pillow knows their suffixes: programs and films
KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
HEIF = (".heic", ".heics", ".heif", ".heifs", ".hif")  # what Pillow reads with the help of pillow-heif
NO_HEIF = "HEIC needs the package pillow-heif: pip install pillow-heif"
MAX_PIXELS = 100_000_000  # larger images are refused before they are decoded
NO_IMAGE, TAKEN = "no image by the suffix", "taken already under another name"


@functools.cache
def image_suffixes():
    """Every suffix of an image format that Pillow reads, in lower case: {".jpg", ".png", ".avif", …}."""
    from PIL import Image, ImageFile  # here: loading all of its plugins takes a moment that a single file needs not

    Image.init()

    def reads(name):
        opener = Image.OPEN.get("JPEG" if name == "MPO" else name, [None])[0]  # a .mpo file begins as a JPEG
        stub = isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)  # a format that needs a handler
        return opener is not None and not stub and name not in NO_IMAGES

    heif = HEIF if importlib.util.find_spec("pillow_heif") else ()  # imported where one is decoded
    return frozenset([*heif, *(suffix for suffix, name in Image.registered_extensions().items() if reads(name))])


def is_image_name(name):
    """Whether the suffix of a file name is that of an image."""
    return os.path.splitext(name)[1].lower() in image_suffixes()


@dataclass
class Found:
    """`images` in the order of their paths, files before folders; `left_out` as (path, reason)."""

    images: list = field(default_factory=list)  # pathlib.Path
    left_out: list = field(default_factory=list)


def find_images(root):
    """The images at any depth under the folder `root`.

    An image is a regular file, or a link to one, whose suffix Pillow reads. Links are followed, but nothing is taken twice:
    a file or folder that stands under `root` itself comes before a link to it. What is hidden (".name") is passed over;
    everything else that is left out is reported with the reason. Raises OSError for a root that cannot be read.
    """
    root = pathlib.Path(root)
    os.scandir(root).close()
    walk = _Walk()
    walk.folder(root, os.path.realpath(root))
    for link in walk.links:  # grows while folders that links lead to are walked
        walk.follow(link)

    return Found(sorted(walk.found.images, key=reading_order), sorted(walk.found.left_out))


def reading_order(path):
    """A key to sort paths by: the files of a folder come before its folders."""
    *folders, name = path.parts
    return folders, name


def summary(left_out, most=3):
    """`2 files (no image by the suffix): a.txt, b/c.txt`, a line for each reason, the first names of each."""
    lines = []
    for reason, count in Counter(reason for _, reason in left_out).items():
        names = [printable(path) for path, other in left_out if other == reason]
        more = f" and {count - most:,} more" if count > most else ""
        lines.append(f"left out {plural(count, 'file')} ({reason}): {', '.join(names[:most])}{more}")
    return lines


class _Walk:
    """What was found so far, and the places that were visited."""

    def __init__(self):
        self.found = Found()
        self.links = []  # met, to be followed when all else is visited
        self.folders, self.linked = set(), set()  # visited folders, and files that were taken by a link: without links

    def folder(self, path, real):
        """Take what stands in a folder at any depth; `real` is its path without links."""
        pending = [(path, real)]  # the next one is the last
        while pending:
            path, real = pending.pop()
            if real in self.folders:
                self.leave_out(path, TAKEN)
                continue
            self.folders.add(real)
            try:
                with os.scandir(path) as entries:
                    entries = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                self.leave_out(path, f"cannot be read: {error.strerror}")
                continue
            inner = []
            for entry in entries:
                inside, place = path / entry.name, os.path.join(real, entry.name)
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    self.links.append(inside)
                elif entry.is_dir():
                    inner.append((inside, place))
                elif not entry.is_file():
                    self.leave_out(inside, _kind(entry.stat()))
                elif place in self.linked:
                    self.leave_out(inside, TAKEN)
                else:
                    self.file(inside)
            pending += reversed(inner)
            if not entries and is_image_name(path.name):
                self.leave_out(path, "an empty folder")

    def follow(self, link):
        try:
            status, real = link.stat(), os.path.realpath(link)
        except OSError:  # no such file, or links in a circle
            self.leave_out(link, "a link to nothing")
            return
        folder, name = os.path.split(real)
        if stat.S_ISDIR(status.st_mode):
            self.folder(link, real)
        elif not stat.S_ISREG(status.st_mode):
            self.leave_out(link, _kind(status))
        elif real in self.linked or (folder in self.folders and is_image_name(name) and not name.startswith(".")):
            self.leave_out(link, TAKEN)
        else:
            self.linked.add(real)
            self.file(link)

    def file(self, path):
        if is_image_name(path.name):
            self.found.images.append(path)
        else:
            self.leave_out(path, NO_HEIF if path.suffix.lower() in HEIF else NO_IMAGE)

    def leave_out(self, path, reason):
        self.found.left_out.append((path, reason))


def _kind(status):
    return KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")
