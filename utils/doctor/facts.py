"""What the dataset doctor knows of each image file: every file is read once, in parallel."""

import hashlib
import io
import warnings
from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from utils.core.images import ODD, reads_heif, refusal, to_rgb, why_unreadable
from utils.core.processes import DIED, in_processes
from utils.core.walk import HEIF

CHUNK = 32  # files that a process reads at a time
THUMBNAIL = 64  # px, the side of the grey square that copies are compared by
FINE = 32  # px, the side at which sharpness is measured: the same for images of every size
ORIENTATION, TURNED = 0x0112, range(2, 9)  # EXIF tag, and those of its values that turn or mirror
MOST_LOOKED_AT = 256  # px a side of an image whose contrast is measured: every so many of its pixels
# What of an image a copy may show: everything, or all but a margin at some sides; (left, top, right, bottom) as shares.
CROPS = ((0, 0, 1, 1), (0.05, 0.05, 0.95, 0.95), (0.025, 0.025, 0.975, 0.975),
         *((x, y, x + side, y + side) for side in (0.9, 0.95) for x in (0, 1 - side) for y in (0, 1 - side)))  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """One file. `fault` says why it does not decode; the fields after it are then empty."""

    path: str
    split: str
    label: int
    digest: str  # SHA-256 of the file
    fault: str | None = None
    size: tuple = (0, 0)  # width and height, px, as stored
    mode: str = ""
    format: str = ""
    rotated: bool = False  # by EXIF
    odd: str | None = None  # what is odd about its values, in words
    mean: float = 0.0  # grey level, 0 to 255
    contrast: float = 0.0  # standard deviation of the levels of that colour where it is largest
    spread: float = 0.0  # standard deviation of the grey levels of the image at FINE px
    sharpness: float = 0.0  # variance of the Laplacian over the variance of the grey levels
    hashes: np.ndarray | None = None  # uint64 (len(CROPS),), perceptual
    mirrored: np.uint64 | None = None  # the hash of the mirror image
    thumbnail: np.ndarray | None = None  # uint8 (THUMBNAIL, THUMBNAIL), grey

    @property
    def suffix_fits(self):
        """Whether the suffix is one of the format that the file has."""
        suffix = self.path[self.path.rfind(".") :].lower()
        if suffix in HEIF:  # Pillow knows them only where pillow-heif is loaded
            return self.format == "HEIF"
        own = Image.registered_extensions().get(suffix)
        return self.format == own or {self.format, own} == {"JPEG", "MPO"}  # phones call their files of several JPEGs .jpg


def read_facts(place):
    """`(path, split name, label)` -> Facts."""
    path, split, label = place
    if path.lower().endswith(HEIF):
        reads_heif()
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        return Facts(path, split, label, "", error.strerror or str(error))
    digest = hashlib.sha256(content).hexdigest()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                stored = {"size": image.size, "mode": image.mode, "format": image.format or ""}
                rotated = image.getexif().get(ORIENTATION, 1) in TURNED
                reason = refusal(image)
                if reason:
                    return Facts(path, split, label, digest, reason)
                rgb = to_rgb(image)
    except Exception as error:  # Pillow's plugins raise what their parsers meet
        return Facts(path, split, label, digest, why_unreadable(error, io.BytesIO(content)))
    seen = {"rotated": rotated, "odd": rgb.info.get(ODD), "contrast": _contrast(rgb)}
    return Facts(path, split, label, digest, None, **seen, **stored, **_measured(rgb.convert("L")))


def _contrast(rgb):
    """Of a Pillow RGB image, of which no fine texture and no colour may be averaged away."""
    some = rgb.resize([min(side, MOST_LOOKED_AT) for side in rgb.size], Image.Resampling.NEAREST)
    return float(np.asarray(some, np.float32).std(axis=(0, 1)).max())


def _measured(grey):
    """What is seen in a Pillow image in grey levels."""
    small = grey.resize(
        (THUMBNAIL, THUMBNAIL), Image.Resampling.BOX if min(grey.size) > THUMBNAIL else Image.Resampling.BILINEAR
    )
    levels = np.asarray(grey.resize((FINE, FINE), Image.Resampling.BOX), np.float32)
    laplacian = 4 * levels[1:-1, 1:-1] - levels[:-2, 1:-1] - levels[2:, 1:-1] - levels[1:-1, :-2] - levels[1:-1, 2:]
    crops = [small.resize((FINE, FINE), Image.Resampling.BILINEAR, [THUMBNAIL * share for share in box]) for box in CROPS]
    return {
        "mean": float(levels.mean()),
        "spread": float(levels.std()),
        "sharpness": float(laplacian.var() / max(levels.var(), 1.0)),
        "hashes": np.array([_hash(crop) for crop in crops]),
        "mirrored": _hash(ImageOps.mirror(crops[0])),
        "thumbnail": np.asarray(small),
    }


def _hash(image):
    """The perceptual hash of a grey image as one uint64."""
    return np.packbits(imagehash.phash(image).hash.ravel()).view(">u8")[0].astype(np.uint64)


def read_all(splits, show=None):
    """Facts of every file of the splits, in their order. `show` as tqdm's `disable`, negated: None is a bar on a terminal."""
    places = [(str(p), split.name, int(label)) for split in splits for p, label in zip(split.paths, split.labels, strict=True)]
    hidden, facts = None if show is None else not show, []
    with tqdm(total=len(places), desc="reading", unit="image", leave=False, disable=hidden) as bar:
        for some in in_processes(_read_chunk, places, CHUNK, _lost):
            bar.update(len(some))
            facts += some
    return facts


def _read_chunk(places):
    return [read_facts(place) for place in places]


def _lost(places):
    return [Facts(*place, "", DIED) for place in places]
