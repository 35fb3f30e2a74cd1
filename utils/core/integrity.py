"""Whether a model file is whole, checked before anything parses it.

Our files end in a seal, the SHA-256 of every byte before it: an archive (`.pth`, TorchScript, `.pt2`) in its zip comment, an
ONNX file in a last metadata entry, which protobuf merges with the entries before it. Both are read as before.
A `.safetensors` file has it in the metadata of its header, and it is the SHA-256 of all bytes with zeros in its own place.
A zip archive from elsewhere is checked by the CRC-32 of its members, which torch stores and does not check itself.
"""

import hashlib
import os

from utils.core.errors import UserError

UNPACKED = 64 << 20  # bytes; what compressed members may unpack to together (torch compresses the code of TorchScript only)
DIGITS = hashlib.sha256().digest_size * 2
ARCHIVE_MARK = b"sha256:"
END_OF_ARCHIVE, END_LENGTH = b"PK\x05\x06", 22  # signature and length of the last record of a zip without a comment
LONGEST_COMMENT = 0xFFFF  # bytes
ONNX_KEY = b"sha256"
_ENTRY = b"\x0a" + bytes([len(ONNX_KEY)]) + ONNX_KEY + b"\x12" + bytes([DIGITS])  # the key (field 1), the head of the value (2)
ONNX_MARK = b"\x72" + bytes([len(_ENTRY) + DIGITS]) + _ENTRY  # ModelProto.metadata_props is field 14
MARKS = (ARCHIVE_MARK, ONNX_MARK)
ROOM = (ONNX_KEY.decode(), "0" * DIGITS)  # entry in the metadata of a safetensors header in which the seal is put
HEADER_MARK = b'"%s":"' % ONNX_KEY
LONGEST_HEADER = 100 << 20  # bytes, as safetensors has it


def sealed(content):
    """The bytes of a zip archive without a comment, an ONNX model, or safetensors with ROOM, with their seal."""
    mark = ONNX_MARK
    room = HEADER_MARK + ROOM[1].encode()
    if content[8:9] == b"{" and room in content:
        return content.replace(room, HEADER_MARK + hashlib.sha256(content).hexdigest().encode(), 1)
    if content.startswith(b"PK"):
        mark = ARCHIVE_MARK
        if content[-END_LENGTH:][:4] != END_OF_ARCHIVE:
            raise ValueError("the archive has a comment already")
        content = content[:-2] + (len(mark) + DIGITS).to_bytes(2, "little")  # the length of the comment
    return content + mark + hashlib.sha256(content).hexdigest().encode()


def is_safetensors(path):
    """Whether a file begins as safetensors do: with the length of a JSON header, which fits into the file, and the header."""
    with open(path, "rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < os.path.getsize(path)


def may_be_archive(path):
    """Whether a file has near its end what a zip archive ends with; for one that has not, no archive need be looked for."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - LONGEST_COMMENT - END_LENGTH))
        return END_OF_ARCHIVE in file.read()


def verify(path):
    """Check a model file by its seal or, without one, a zip archive by its CRC-32; return whether there was a seal.

    A file that has neither passes: there is nothing to check it by. Nothing of it is kept in memory. Raises UserError, naming
    the file, for damage and for members that unpack to more than a model has, and OSError where the file cannot be read.
    """
    _refuse_bombs(path)
    seal = _seal_of(path)
    if seal is None:
        _verify_members(path)
        return False
    digest, parts = seal
    if _digest(path, parts) != digest:
        raise UserError(f"{path} is damaged, or was changed after it was written (its checksum differs); copy or make it again")
    return True


def _seal_of(path):
    """`(digest, what it is of)`, or None: lengths of file that count, and bytes that take the place of as many."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        place = _place_in_header(file, size)
        if place is not None:
            file.seek(place)
            return file.read(DIGITS), (place, ROOM[1].encode(), size - place - DIGITS)
        file.seek(max(0, size - DIGITS - max(map(len, MARKS))))
        tail = file.read()
    found = [mark for mark in MARKS if tail[:-DIGITS].endswith(mark)]
    return (tail[-DIGITS:], (size - DIGITS - len(found[0]),)) if found else None


def _place_in_header(file, size):
    """Where the digits of the seal stand in a safetensors file, or None."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(LONGEST_HEADER, size - 8) or file.read(1) != b"{":
        return None
    found = file.read(length - 1).find(HEADER_MARK)
    return None if found < 0 else 9 + found + len(HEADER_MARK)


def _digest(path, parts):
    """SHA-256, as hexadecimal bytes, of a file whose `parts` are lengths that count, and bytes that replace others."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for part in parts:
            if isinstance(part, bytes):
                file.seek(len(part), os.SEEK_CUR)
                digest.update(part)
                continue
            while part:
                chunk = file.read(min(1 << 20, part))
                if not chunk:
                    break
                digest.update(chunk)
                part -= len(chunk)
    return digest.hexdigest().encode()


def _archive(path):
    """The zip archive, or None for a file that is none. Raises UserError for one that is cut off or whose index is damaged."""
    if not may_be_archive(path):
        return None
    import zipfile  # not above, as below: an ONNX file needs none, and with what it imports it takes milliseconds

    try:
        if not zipfile.is_zipfile(path):
            return None
        archive = zipfile.ZipFile(path)
        if min((member.header_offset for member in archive.infolist()), default=0):
            raise zipfile.BadZipFile("its end is missing")  # what was found is an archive that is stored inside of it
    except (zipfile.BadZipFile, NotImplementedError, ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); copy or make it again") from None
    return archive


def _refuse_bombs(path):
    archive = _archive(path)
    if archive is None:
        return
    import zipfile

    with archive:
        members, size = archive.infolist(), os.path.getsize(path)
    stored = sum(member.file_size for member in members if member.compress_type == zipfile.ZIP_STORED)
    packed = sum(member.file_size for member in members if member.compress_type != zipfile.ZIP_STORED)
    if stored > size or packed > UNPACKED:
        raise UserError(f"{path} unpacks from {size:,} to {stored + packed:,} bytes, as no model does; it is not opened")


def _verify_members(path):
    archive = _archive(path)
    if archive is None:
        return
    import zipfile
    import zlib

    with archive:
        if archive.comment.startswith(ARCHIVE_MARK):
            raise UserError(f"{path} is damaged (its end is missing); copy or make it again")
        try:
            damaged = archive.testzip()
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}); copy or make it again") from None
    if damaged:
        raise UserError(f"{path} is damaged (the checksum of {damaged} differs); copy or make it again")
