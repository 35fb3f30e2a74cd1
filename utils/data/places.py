"""Where the encoded bytes of an image lie: in a file of its own (a pathlib.Path), or in a part of a larger file (a Piece).

What else holds images has `file`, `size`, `content()` and `facts()` as Piece has, and is small to pickle.
"""

import hashlib
import io
import os
import pathlib
from dataclasses import dataclass

from utils.core.errors import UserError

SAMPLED, SAMPLE = 64, 1 << 16  # images of which the content is compared too, and bytes of each at its start and end


@dataclass(frozen=True, slots=True)
class Piece:
    """`size` bytes from `start` on in `file`, stored uncompressed; `name` is what the file calls them."""

    file: pathlib.Path
    start: int
    size: int
    name: str

    def __str__(self):
        return f"{self.file}/{self.name}"

    def content(self):
        """A binary stream of the bytes. Raises OSError where the file is gone."""
        with open(self.file, "rb") as file:
            file.seek(self.start)
            return io.BytesIO(file.read(self.size))

    def facts(self):
        """What tells the image from others, beside its file: values for JSON."""
        return [str(self), self.start, self.size]


def is_file(place):
    """Whether an image is a file of its own."""
    return isinstance(place, pathlib.Path)


def source_of(place):
    """What `Image.open` takes: the path, or a stream of the bytes."""
    return place if is_file(place) else place.content()


def content_of(place):
    """The encoded bytes. Raises OSError."""
    return place.read_bytes() if is_file(place) else place.content().getvalue()


def files_of(places):
    """The files that the images lie in, each once, in the order of their first image."""
    return list(dict.fromkeys(place if is_file(place) else place.file for place in places))


def size_of(place):
    """Bytes of the encoded image. Raises OSError."""
    return os.stat(place).st_size if is_file(place) else place.size


def tail_of(place, count):
    """Up to `count` bytes from the end of the encoded image. Raises OSError."""
    if not is_file(place):
        return content_of(place)[-count:]
    with open(place, "rb") as file:
        file.seek(max(0, os.path.getsize(place) - count))
        return file.read()


def facts_of(places):
    """What tells these images from others, for JSON: size and times of each file, and of some images the content.

    The time of the last change of the entry (ctime) is set by the system alone: a file that was replaced by one of the same
    size and time has another. Raises UserError for a file that cannot be read.
    """
    try:
        status = [(str(path), path.stat()) for path in files_of(places)]
        content = [_sample(place) for place in places[:: max(1, -(-len(places) // SAMPLED))]]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})") from None
    pieces = [place.facts() for place in places if not is_file(place)]
    return [(path, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in status] + content + pieces


def _sample(place):
    if not is_file(place):
        return hashlib.sha256(content_of(place)).hexdigest()
    with open(place, "rb") as file:
        content = file.read(SAMPLE)
    return hashlib.sha256(content + tail_of(place, SAMPLE)).hexdigest()
