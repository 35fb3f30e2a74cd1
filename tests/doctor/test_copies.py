import numpy as np

from utils.doctor.copies import groups_of, near_pairs
from utils.doctor.facts import CROPS, THUMBNAIL, Facts


def facts_of(path, thumbnail, digest):
    """A file whose perceptual hashes are those of every other."""
    hashes = np.zeros(len(CROPS), np.uint64)
    same = {"spread": 50.0, "hashes": hashes, "mirrored": np.uint64(0)}
    return Facts(path, "train", 0, digest, thumbnail=thumbnail, **same)


def test_near_hashes_alone_make_no_copies():
    random = np.random.default_rng(0)
    one, other = (
        random.integers(0, 256, (8, 8), dtype=np.uint8).repeat(THUMBNAIL // 8, 0).repeat(THUMBNAIL // 8, 1) for _ in "ab"
    )
    brighter = (one * 0.5 + 100).astype(np.uint8)
    facts = [facts_of("0.png", one, "a"), facts_of("1.png", other, "b"), facts_of("2.png", brighter, "c")]
    assert near_pairs(facts, 4.0) == [(0, 2)]
    assert near_pairs([facts[0], facts_of("3.png", one, "a")], 4.0) == []  # the same file is no near one


def test_pairs_that_share_a_member_are_one_group():
    assert groups_of(7, [(5, 2), (0, 1), (2, 6)]) == [[0, 1], [2, 5, 6]]
