"""What the dataset doctor finds: each check is one registered function from the facts of all files to findings."""

import pathlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from utils.core.images import CUT_OFF
from utils.core.registry import Registry
from utils.doctor.copies import groups_of, near_pairs, same_files

CHECKS = Registry("check")

UNIFORM, BLACK = 4.0, 1.0  # grey levels; a smaller standard deviation shows next to nothing, also in the dark
DARK, BRIGHT = 20.0, 240.0  # mean grey level
NARROW = 4.0  # long side over short side
OUTLIER = 4.5  # a sharpness of so many robust deviations below the median is blurred
IMBALANCE = 3.0  # images of the largest class over those of the smallest


@dataclass(frozen=True)
class Finding:
    """`kind`: which check; `paths`: the files; `words`: what is wrong; `action`: what to do; `detail`: facts for JSON."""

    kind: str
    paths: tuple
    words: str
    action: str
    detail: dict = field(default_factory=dict)


def find(facts, classes):
    """The findings of all checks, in the order of the table."""
    return [finding for kind, check in CHECKS.items() for finding in check(kind, facts, classes)]


def _each(kind, facts, holds, words, action):
    """A finding for every file that decodes and of which `holds` is true."""
    return [Finding(kind, (f.path,), words(f), action) for f in facts if f.fault is None and holds(f)]


@CHECKS.register("does not decode")
def does_not_decode(kind, facts, classes):
    return [
        Finding(kind, (f.path,), f.fault, "delete or replace") for f in facts if f.fault and not f.fault.startswith(CUT_OFF)
    ]


@CHECKS.register("truncated")
def truncated(kind, facts, classes):
    faults = [f for f in facts if f.fault and f.fault.startswith(CUT_OFF)]
    return [Finding(kind, (f.path,), f.fault, "copy it again") for f in faults]


@CHECKS.register("wrong extension")
def wrong_extension(kind, facts, classes):
    return _each(kind, facts, lambda f: not f.suffix_fits, lambda f: f"holds {f.format}", "rename")


@CHECKS.register("rotated by EXIF")
def rotated(kind, facts, classes):
    return _each(kind, facts, lambda f: f.rotated, lambda f: "is turned when it is read", "nothing, or store it upright")


@CHECKS.register("odd values")
def odd_values(kind, facts, classes):
    return _each(kind, facts, lambda f: f.odd, lambda f: f.odd, "scale the values to the range of the format")


@CHECKS.register("extreme aspect ratio")
def narrow(kind, facts, classes):
    def holds(f):
        return max(f.size) > NARROW * min(f.size)

    return _each(
        kind, facts, holds, lambda f: f"{f.size[0]}×{f.size[1]} px: the centre crop shows a small part", "crop or delete"
    )


@CHECKS.register("nearly uniform")
def uniform(kind, facts, classes):
    def holds(f):
        return f.contrast < (BLACK if f.mean < DARK else UNIFORM)

    return _each(kind, facts, holds, lambda f: f"spread {f.contrast:.1f} of 255 levels", "delete")


@CHECKS.register("dark")
def dark(kind, facts, classes):
    def holds(f):
        return f.mean < DARK and f.contrast >= BLACK

    return _each(kind, facts, holds, lambda f: f"mean grey level {f.mean:.0f} of 255", "brighten or delete")


@CHECKS.register("overexposed")
def overexposed(kind, facts, classes):
    def holds(f):
        return f.mean > BRIGHT and f.contrast >= UNIFORM

    return _each(kind, facts, holds, lambda f: f"mean grey level {f.mean:.0f} of 255", "look at it")


@CHECKS.register("blurred")
def blurred(kind, facts, classes):
    """Far less sharp than the others, on a logarithmic scale: what is sharp depends on what the images show."""
    clear = [f for f in facts if f.fault is None and f.spread >= UNIFORM]
    if len(clear) < 20:
        return []
    values = np.log(np.maximum([f.sharpness for f in clear], 1e-9))
    middle = np.median(values)
    deviation = 1.4826 * np.median(np.abs(values - middle))
    limit = np.exp(middle - OUTLIER * max(deviation, 0.1))
    return [
        Finding(kind, (f.path,), f"sharpness {f.sharpness:.3g}, the median is {np.exp(middle):.3g}", "look at it")
        for f in clear
        if f.sharpness < limit
    ]


def _about_copies(kind, groups, facts, classes, words, actions):
    """Findings of groups of copies; of two classes they contradict each other, of two splits they leak."""
    for group in groups:
        members = [facts[i] for i in group]
        names = sorted({classes[m.label] for m in members})
        splits = sorted({m.split for m in members})
        detail = {"classes": names, "splits": splits}
        where = f"in {' and '.join(splits)}"
        if len(names) > 1:
            words_here, action = f"{words} under {' and '.join(names)}: a label conflict", "keep the right one"
        elif len(splits) > 1:
            words_here, action = f"{words} {where}: what is measured was trained on", f"keep it in {splits[0]} only"
        else:
            words_here, action = f"{words} {where}", actions
        yield Finding(kind, tuple(m.path for m in members), words_here, action, detail)


@CHECKS.register("duplicate")
def duplicate(kind, facts, classes):
    return list(_about_copies(kind, same_files(facts), facts, classes, "the same file", "keep one"))


@CHECKS.register("near-duplicate")
def near_duplicate(kind, facts, classes):
    groups = groups_of(len(facts), near_pairs(facts, UNIFORM))
    return list(_about_copies(kind, groups, facts, classes, "altered copies of one image", "keep one"))


@CHECKS.register("class names alike")
def alike_names(kind, facts, classes):
    """Classes that differ by case, spaces or hyphens: one class written in two ways, often in two splits."""
    spelled = {}
    for name in classes:
        spelled.setdefault("".join(name.casefold().replace("_", " ").replace("-", " ").split()), []).append(name)
    return [
        Finding(kind, _folders(facts, classes, names), f"{' and '.join(map(repr, names))} differ by spelling", "rename one")
        for names in spelled.values()
        if len(names) > 1
    ]


def _folders(facts, classes, names):
    return tuple(sorted({str(pathlib.Path(f.path).parent) for f in facts if classes[f.label] in names}))


@CHECKS.register("imbalance")
def imbalance(kind, facts, classes):
    counts = Counter(classes[f.label] for f in facts if f.split == "train")
    if len(counts) < 2 or max(counts.values()) <= IMBALANCE * min(counts.values()):
        return []
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    words = f"{many:,} images of {most}, {few:,} of {least}"
    return [Finding(kind, (), words, "train with --class_weights or --balanced_sampler")]
