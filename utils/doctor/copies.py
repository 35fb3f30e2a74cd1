"""Copies of an image: the same file, and images that show the same: resized, re-encoded, mirrored, or cropped a little.

Candidates are pairs whose perceptual hashes (imagehash's pHash) are near; as unlike images can have near hashes, each pair is
then compared pixel by pixel on small grey thumbnails, aligned as the hashes say.
"""

import numpy as np
from PIL import Image, ImageOps

from utils.doctor.facts import CROPS, FINE, THUMBNAIL

NEAR = 12  # of the 64 bits of two hashes may differ
ALIKE = 0.93  # least correlation of the aligned thumbnails
BLOCK = 512  # images compared with all others at a time, which bounds the memory


def groups_of(count, pairs):
    """The pairs as groups of connected members, each sorted, of which there are `count` in all."""
    parent = list(range(count))

    def root(member):
        while parent[member] != member:
            parent[member] = member = parent[parent[member]]
        return member

    for one, other in pairs:
        parent[root(one)] = root(other)
    groups = {}
    for member in {m for pair in pairs for m in pair}:
        groups.setdefault(root(member), []).append(member)
    return sorted(sorted(group) for group in groups.values())


def same_files(facts):
    """Groups of indices of files that hold the same bytes."""
    by_digest = {}
    for index, fact in enumerate(facts):
        if fact.digest:
            by_digest.setdefault(fact.digest, []).append(index)
    return [group for group in by_digest.values() if len(group) > 1]


def near_pairs(facts, least_spread):
    """Pairs of indices of images that show the same without being the same file.

    Images with a spread of grey levels below `least_spread` are left out: all of them look alike.
    """
    seen = [i for i, fact in enumerate(facts) if fact.thumbnail is not None and fact.spread >= least_spread]
    if len(seen) < 2:
        return []
    whole = np.array([facts[i].hashes[0] for i in seen])
    ways = [np.array([facts[i].hashes[number] for i in seen]) for number in range(len(CROPS))]
    ways.append(np.array([facts[i].mirrored for i in seen]))
    pairs = {}
    for number, hashes in enumerate(ways):
        for start in range(0, len(seen), BLOCK):
            near = np.bitwise_count(hashes[start : start + BLOCK, None] ^ whole[None]) <= NEAR
            for one, other in zip(*np.nonzero(near), strict=True):
                one += start
                if one != other and facts[seen[one]].digest != facts[seen[other]].digest:
                    pairs.setdefault((seen[one], seen[other]), []).append(number)
    found = {tuple(sorted(pair)) for pair, numbers in pairs.items() if _alike(*(facts[i].thumbnail for i in pair), numbers)}
    return sorted(found)


def _alike(one, other, ways):
    """Whether `one`, cropped or mirrored in one of the `ways`, correlates with `other`."""
    target = _standardised(Image.fromarray(other).resize((FINE, FINE), Image.Resampling.BILINEAR))
    image = Image.fromarray(one)
    for way in ways:
        if way < len(CROPS):
            box = [THUMBNAIL * share for share in CROPS[way]]
            view = image.resize((FINE, FINE), Image.Resampling.BILINEAR, box)
        else:
            view = ImageOps.mirror(image).resize((FINE, FINE), Image.Resampling.BILINEAR)
        if (_standardised(view) * target).mean() >= ALIKE:
            return True
    return False


def _standardised(image):
    levels = np.asarray(image, np.float32)
    return (levels - levels.mean()) / max(levels.std(), 1e-6)
