"""The file of a cache: decoded images of several sizes, one after the other, with a check sum over everything.

images | sizes, int64 (n, 2) | what is odd about the images, as JSON | FOOTER | CRC
"""

import json
import struct
import zlib

import numpy as np

MAGIC = b"images 2"  # another number makes older files unreadable, so that they are built again
FOOTER = struct.Struct("<8sQQQ")  # MAGIC, and the bytes of images, sizes and JSON
CRC = struct.Struct("<I")  # CRC-32 of all that is before it
PIECE = 1 << 24  # bytes that are checked at a time


class Writer:
    """Takes the images of an open binary file, then its end."""

    def __init__(self, file):
        self.file, self.bytes, self.crc = file, 0, 0

    def write(self, content):
        """Append the bytes of images."""
        self._put(memoryview(content).cast("B"))

    def finish(self, sizes, odd):
        """sizes: int64 (n, 2), heights and widths; odd: a dict for JSON."""
        images = self.bytes
        sizes, odd = sizes.astype("<i8").tobytes(), json.dumps(odd).encode()
        self._put(sizes)
        self._put(odd)
        self._put(FOOTER.pack(MAGIC, images, len(sizes), len(odd)))
        self.file.write(CRC.pack(self.crc))

    def _put(self, content):
        self.file.write(content)
        self.bytes += len(content)
        self.crc = zlib.crc32(content, self.crc)


def read(path):
    """`(images, sizes, odd)`: uint8 (bytes,) mapped from the file, int64 (n, 2), and a dict; None for a damaged file.

    All of the file is read once, for its check sum.
    """
    if path.stat().st_size == 0:  # nothing can be mapped
        return None
    data = np.memmap(path, mode="c")  # copy-on-write: torch wants writable memory, and the file stays as it is
    content, crc = data[: -CRC.size], data[-CRC.size :].tobytes()
    if len(content) < FOOTER.size or crc != CRC.pack(_crc_of(content)):
        return None
    magic, images, sizes, odd = FOOTER.unpack(content[-FOOTER.size :].tobytes())
    if magic != MAGIC or images + sizes + odd + FOOTER.size != len(content):
        return None
    heights_widths = np.array(data[images : images + sizes]).view("<i8").reshape(-1, 2)
    return data[:images], heights_widths, json.loads(data[images + sizes :][:odd].tobytes())


def _crc_of(data):
    crc = 0
    for start in range(0, len(data), PIECE):
        crc = zlib.crc32(data[start : start + PIECE], crc)
    return crc
