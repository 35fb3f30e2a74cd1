"""Damaged and crafted model files of every format: refused in a sentence or answered, never a traceback, a hang or an abort.

A file with a seal is refused or answers as before; so is an archive without one whose members' checksums are wrong.
"""

import io
import random
import zipfile

import pytest
from crafted import rezipped, whole

from utils.core.errors import UserError
from utils.core.integrity import ARCHIVE_MARK, DIGITS, HEADER_MARK, ONNX_MARK, verify
from utils.inference.formats import FORMATS

SUFFIX = {name: entry.suffix for name, entry in FORMATS.items()}
KINDS = sorted(SUFFIX)


def unsealed(content):
    """The same file as somebody else would have written it."""
    if content[8:9] == b"{":
        return content.replace(HEADER_MARK, b'"sha257":"')
    if not content.startswith(b"PK"):
        return content[: -DIGITS - len(ONNX_MARK)]
    return content[: -DIGITS - len(ARCHIVE_MARK) - 2] + b"\0\0"


def flipped(content, chance, bits=1):
    changed = bytearray(content)
    for _ in range(bits):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(content, chance):
    return content[: chance.randrange(len(content))]


def holed(content, chance):
    """A stretch of it as zeros."""
    start = chance.randrange(len(content))
    end = min(len(content), start + chance.choice((16, 512, 4096)))
    return content[:start] + bytes(end - start) + content[end:]


def joined(content, chance):
    """Something before it, or after."""
    more = chance.randbytes(chance.choice((1, 100, 5000)))
    return more + content if chance.random() < 0.5 else content + more


def edited_header(content, chance):
    """Bytes at its start, or of the records at its end, as others."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 2, 8))):
        place = chance.randrange(64) if chance.random() < 0.3 else len(changed) - 1 - chance.randrange(600)
        changed[place] = chance.randrange(256)
    return bytes(changed)


DAMAGE = {"bit": flipped, "cut": cut, "hole": holed, "join": joined, "header": edited_header}


def damaged_member(members, chance):
    """Bytes of one member as others: its checksum is right again, so that torch's own readers see them."""
    name = chance.choice(sorted(members, key=lambda name: len(members[name]))[: len(members) // 2 + 4])
    changed = bytearray(members[name])
    for _ in range(chance.choice((1, 1, 3, 20)) if changed else 0):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return members | {name: bytes(changed)}


def swapped_members(members, chance):
    one, two = chance.sample(sorted(members), 2)
    return members | {one: members[two], two: members[one]}


def lost_member(members, chance):
    gone = chance.choice(sorted(members))
    return {name: value for name, value in members.items() if name != gone}


def shortened_member(members, chance):
    name = chance.choice(sorted(members))
    return members | {name: members[name][: len(members[name]) // 2]}


def moved_member(members, chance):
    """A member under a name that leads elsewhere."""
    name = chance.choice(sorted(members))
    other = chance.choice(["../../x", "/tmp/elsewhere", name + "/", "", "a" * 60_000, name.upper(), "a\0b", "é\n"])
    return {other if key == name else key: value for key, value in members.items()}


EDITS = [damaged_member, damaged_member, damaged_member, swapped_members, lost_member, shortened_member, moved_member]


def crafted(kind, content, chance):
    """An archive whose members were edited; for ONNX, more bits of the unsealed file."""
    if kind in ("onnx", "safetensors"):
        return flipped(unsealed(content), chance, bits=chance.choice((1, 2, 10, 100)))
    return rezipped(content, lambda members: chance.choice(EDITS)(members, chance), seal=chance.random() < 0.5)


def written(folder, kind, contents):
    """The paths of new files."""
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"{number}{SUFFIX[kind]}")
        paths[-1].write_bytes(content)
    return paths


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_answer_as_before_or_not_at_all(kind, ask, tmp_path):
    """A quarter of 400 in each format: sealed files, damaged in each way."""
    chance, content = random.Random(kind), whole()[kind]
    paths = written(tmp_path, kind, [content, *(damage(content, chance) for damage in DAMAGE.values() for _ in range(20))])
    answered, refused = ask("model", paths)
    right = answered[str(paths[0])]
    assert all(answer == right for answer in answered.values())
    assert len(refused) > 90 and all(str(tmp_path) in sentence for sentence in refused.values())


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_others_are_refused_or_answered(kind, ask, tmp_path):
    """Without a seal nothing but the checksums of the members tells damage; what passes must do no harm."""
    chance, content = random.Random(kind), unsealed(whole()[kind])
    contents = [content, *(damage(content, chance) for damage in DAMAGE.values() for _ in range(12))]
    paths = written(tmp_path, kind, contents + [crafted(kind, whole()[kind], chance) for _ in range(40)])
    answered, refused = ask("model", paths)
    assert str(paths[0]) in answered and len(refused) > 30


def compressed(content, times):
    """The archive with its largest member unpacking to `times` MiB of zeros."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        largest = max(source.infolist(), key=lambda info: info.file_size).filename
        for info in source.infolist():
            with archive.open(info.filename, "w") as member:
                if info.filename != largest:
                    member.write(source.read(info))
                    continue
                for _ in range(times):
                    member.write(bytes(1 << 20))
    return target.getvalue()


BOMB = """
import sys, time
from utils.core.errors import UserError
from utils.core.machine import peak_memory
from utils.inference.predictors import open_predictor
before, started = peak_memory(), time.process_time()
try:
    open_predictor(sys.argv[1], device="cpu", otherwise="checkpoint")
except UserError as error:
    print(error)
print(time.process_time() - started, (peak_memory() - before) / 2**20)
"""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if FORMATS[kind].mark])
def test_zip_bombs_cost_nothing(kind, python, tmp_path):
    """Refused in a second of work and 100 MB, by the reader of every archive, and before torch is imported for it."""
    path = tmp_path / f"bomb{SUFFIX[kind]}"
    path.write_bytes(compressed(whole()[kind], 150))
    sentence, figures = python(BOMB, path).splitlines()
    seconds, megabytes = map(float, figures.split())
    assert "as no model does; it is not opened" in sentence and path.name in sentence
    assert seconds < 1 and megabytes < 100


def test_an_archive_called_onnx_is_no_bomb_either(tmp_path):
    path = tmp_path / "bomb.onnx"
    path.write_bytes(compressed(whole()["checkpoint"], 150))
    with pytest.raises(UserError, match="it is not opened"):
        verify(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quick_part(kind, tmp_path):
    """A bit in each of ten places, and the file cut off at five."""
    chance, content = random.Random(kind), whole()[kind]
    contents = [flipped(content[:-80], chance) + content[-80:] for _ in range(10)] + [cut(content, chance) for _ in range(5)]
    for path in written(tmp_path, kind, contents):
        try:
            sealed = verify(path)
        except UserError as error:
            assert path.name in str(error)
        else:
            assert not sealed
