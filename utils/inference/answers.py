"""Pictures in, answers out, for both predict scripts: finding them, asking in batches, and showing what was answered."""

import csv
import glob
import io
import json
import os
import pathlib
import sys
import time
from dataclasses import dataclass

import numpy as np
from PIL import Image

from utils.core.cli import at_least, between
from utils.core.errors import SOME_UNREADABLE, UserError
from utils.core.files import replacing, write_text
from utils.core.images import IMAGE_SUFFIXES, MAX_PIXELS, load_image
from utils.core.text import table
from utils.inference.predictors import softmax

UNKNOWN = "unknown"  # the answer under --threshold


@dataclass
class Picture:
    """A file, and what to call its copy under --save_dir: its path below the folder that was given."""

    path: str
    name: str


@dataclass
class Answer:
    """What the network says of one picture, or why it could not be asked."""

    path: str
    top: list = ()  # (class, probability), the likeliest first
    label: str | None = None  # the class, or UNKNOWN
    fault: str | None = None


def add_flags(parser):
    """The flags that both predict scripts share: which pictures, and where the answers go."""
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument("-i", "--image", required=True, nargs="+", metavar="FILE|FOLDER|GLOB", help="what to classify")
    pictures.add_argument("--batch_size", type=int, default=32, check=at_least(1), help="images at a time")
    pictures.add_argument("--max_pixels", type=int, default=MAX_PIXELS, check=at_least(1), help="refuse larger images")
    answers = parser.add_argument_group("answers")
    answers.add_argument("--topk", type=int, default=5, check=at_least(1), metavar="K", help="print the K likeliest, not one")
    answers.add_argument(
        "--threshold", type=float, default=0.0, check=between(0, 1), metavar="P", help="answer unknown below P"
    )
    answers.add_argument("--json", metavar="FILE|-", help="write the answers as JSON; - is standard output")
    answers.add_argument("--csv", metavar="FILE|-", help="write the answers as CSV; - is standard output")
    answers.add_argument("--save_dir", metavar="DIR", help="write the pictures with the answer drawn on")


def flags_agree(args):
    """Faults of output flags that do not go together."""
    faults = []
    if args.json == args.csv == "-":
        faults.append("--json - and --csv - both want standard output; give one of them a file")
    for flag, path in (("--json", args.json), ("--csv", args.csv)):
        if path and os.path.isdir(path):
            faults.append(f"{flag} {path} is a folder; name a file")
    if args.save_dir and os.path.exists(args.save_dir) and not os.path.isdir(args.save_dir):
        faults.append(f"--save_dir {args.save_dir} is a file; name a folder")
    return faults


def wanted(args):
    """The named values that `report` takes, from the parsed flags."""
    names = ("topk", "batch_size", "threshold", "max_pixels", "json", "csv", "save_dir")
    return {name: getattr(args, name) for name in names} | {"show_topk": "topk" in args.given}


def find_pictures(patterns):
    """Files, folders (searched at any depth) and glob patterns as a list of Pictures, in order, none twice.

    In a folder only files with an image's suffix count, and nothing hidden. A file that is named is taken whatever its
    suffix, also where it is missing: that is reported with the unreadable ones. Raises UserError for a folder or a
    pattern that gives nothing.
    """
    found = {}
    for pattern in patterns:
        if os.path.isdir(pattern):
            inside = list(_images_in(pattern))
            if not inside:
                known = " ".join(sorted(IMAGE_SUFFIXES))
                raise UserError(f"--image {pattern}: the folder holds no images ({known})")
            pictures = [Picture(path, os.path.relpath(path, pattern)) for path in inside]
        elif os.path.exists(pattern) or not glob.has_magic(pattern):
            pictures = [Picture(pattern, os.path.basename(pattern))]
        else:
            matches = [path for path in sorted(glob.glob(pattern, recursive=True)) if not os.path.isdir(path)]
            if not matches:
                raise UserError(f"--image {pattern}: no file matches")
            pictures = [Picture(path, os.path.basename(path)) for path in matches]
        for picture in pictures:
            found.setdefault(os.path.abspath(picture.path), picture)
    return list(found.values())


def _images_in(folder):
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(here) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        named_as_images = [name for name in folders if _is_image_name(name)]  # to be reported: no such file can be read
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in named_as_images)
        for name in sorted(files + named_as_images):
            if _is_image_name(name) and not name.startswith("."):
                yield os.path.join(here, name)


def _is_image_name(name):
    return pathlib.Path(name).suffix.lower() in IMAGE_SUFFIXES


def report(predictor, pictures, *, topk, show_topk, batch_size, threshold, max_pixels, json, csv, save_dir):
    """Answer all pictures and write what was asked for; return the exit status.

    One picture gives one line, several give a table. The status is 0, or 3 where some could not be read; UserError
    where none could. `show_topk` prints the `topk` classes too, which JSON and CSV always hold.
    """
    Image.MAX_IMAGE_PIXELS = None  # load_image keeps `max_pixels` itself, before anything is decoded
    ask = _Asker(predictor, min(topk, predictor.card.num_classes), threshold, max_pixels)
    if len(pictures) == 1:
        answers, seconds = ask.one(pictures[0])  # raises its fault itself
    else:
        answers, seconds = ask.many(pictures, batch_size)
    faults = [answer for answer in answers if answer.fault]
    for answer in faults:
        print(f"unreadable: {answer.fault}", file=sys.stderr)
    if len(faults) == len(answers):
        raise UserError(f"none of the {len(answers)} images could be read")
    if "-" not in (json, csv):
        show = _show_one if len(pictures) == 1 else _show_many
        show(answers, seconds, predictor, show_topk)
    if json:
        _write(json, _as_json(answers, seconds, predictor))
    if csv:
        _write(csv, _as_csv(answers, ask.topk))
    if save_dir:
        _draw_all(pictures, answers, save_dir, max_pixels)
    return SOME_UNREADABLE if faults else 0


@dataclass
class _Asker:
    """A predictor with what is asked of it."""

    predictor: object
    topk: int
    threshold: float
    max_pixels: int

    def one(self, picture):
        """`([Answer], seconds)`: the seconds of preprocessing and network, without reading the file."""
        image = _load(picture.path, self.max_pixels)
        start = time.perf_counter()
        logits = self.predictor.answer([self.predictor.prepare(image)])
        return self._judge([picture.path], logits), time.perf_counter() - start

    def many(self, pictures, batch_size):
        """`(answers, seconds)` of everything. One batch of prepared pictures is in memory at a time, decoded by threads."""
        from concurrent.futures import ThreadPoolExecutor  # not above: one picture is answered sooner without these two

        from tqdm import tqdm

        if self.predictor.card.with_preprocessing:
            batch_size = 1  # pictures of full size, each its own
        answers, start = [], time.perf_counter()
        bar = tqdm(total=len(pictures), unit="image", leave=False, disable=None)  # None: only on a terminal
        with bar, ThreadPoolExecutor(min(batch_size, os.cpu_count())) as threads:
            for first in range(0, len(pictures), batch_size):
                batch = pictures[first : first + batch_size]
                answers += self._batch([picture.path for picture in batch], threads)
                bar.update(len(batch))
        return answers, time.perf_counter() - start

    def _batch(self, paths, threads):
        prepared = list(threads.map(self._prepare, paths))  # arrays, and Answers for those that cannot be read
        arrays = [item for item in prepared if not isinstance(item, Answer)]
        if not arrays:
            return prepared
        readable = [path for path, item in zip(paths, prepared, strict=True) if not isinstance(item, Answer)]
        judged = iter(self._judge(readable, self.predictor.answer(arrays)))
        return [item if isinstance(item, Answer) else next(judged) for item in prepared]

    def _prepare(self, path):
        try:
            return self.predictor.prepare(_load(path, self.max_pixels))
        except UserError as error:
            return Answer(path, fault=str(error))

    def _judge(self, paths, logits):
        if not np.isfinite(logits).all():
            path = paths[int(np.argmin(np.isfinite(logits).all(axis=1)))]
            raise UserError(f"{self.predictor.path} answers {path} with numbers that are not finite; its weights are damaged")
        classes, answers = self.predictor.card.classes, []
        for path, probabilities in zip(paths, softmax(logits), strict=True):
            best = np.argsort(-probabilities, kind="stable")[: self.topk]
            top = [(classes[i], float(probabilities[i])) for i in best]
            answers.append(Answer(path, top, top[0][0] if top[0][1] >= self.threshold else UNKNOWN))
        return answers


def _load(path, max_pixels):
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise UserError(f"{path} is not a file")
    return load_image(path, max_pixels)


def _show_one(answers, seconds, predictor, show_topk):
    (answer,) = answers
    print(f"Predicted class: {answer.label} ({answer.top[0][1]:.2f}) in {seconds:.4f} seconds.")
    rest = answer.top if answer.label == UNKNOWN else answer.top[1:]
    if show_topk and rest:
        width = max(len(name) for name, _ in rest)
        print("\n".join(f"  {name:{width}}  {probability:.4f}" for name, probability in rest))


def _show_many(answers, seconds, predictor, show_topk):
    answered = [answer for answer in answers if not answer.fault]
    header = ["image", "class", "probability"] + ["then"] * show_topk
    rows = []
    for answer in answered:
        rest = answer.top if answer.label == UNKNOWN else answer.top[1:]
        then = ", ".join(f"{name} {probability:.2f}" for name, probability in rest)
        rows.append([_printable(answer.path), answer.label, f"{answer.top[0][1]:.2f}"] + [then] * show_topk)
    print(table(header, rows, align="<<><"[: len(header)]))
    speed = f"{len(answered) / seconds:.0f} images/s, {predictor.engine} on {predictor.device}"
    unread = f", {len(answers) - len(answered)} unreadable" if len(answered) < len(answers) else ""
    count = f"{len(answered)} image{'s' * (len(answered) != 1)}"
    print(f"{count} answered{unread} in {seconds:.2f} seconds ({speed}).")


def _as_json(answers, seconds, predictor):
    images = [
        {
            "image": _printable(answer.path),
            "class": answer.label,
            "probability": answer.top[0][1],
            "top": [{"class": name, "probability": probability} for name, probability in answer.top],
        }
        for answer in answers
        if not answer.fault
    ]
    faults = [{"image": _printable(answer.path), "reason": answer.fault} for answer in answers if answer.fault]
    about = {"model": str(predictor.path), "engine": predictor.engine, "device": predictor.device, "seconds": seconds}
    return json.dumps(about | {"images": images, "unreadable": faults}, indent=2, ensure_ascii=False) + "\n"


def _as_csv(answers, topk):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ranks = [f"{word}_{rank}" for rank in range(1, topk + 1) for word in ("class", "probability")]
    writer.writerow(["image", "class", "probability", *ranks])
    for answer in answers:
        if not answer.fault:
            rest = [cell for name, probability in answer.top for cell in (name, f"{probability:.6f}")]
            writer.writerow([_printable(answer.path), answer.label, f"{answer.top[0][1]:.6f}", *rest])
    return text.getvalue()


def _printable(path):
    """A path as text that can be printed and encoded, whatever bytes its name is made of."""
    return os.fsencode(path).decode("utf-8", "replace")


def _write(path, text):
    if path == "-":
        sys.stdout.write(text)
        return
    write_text(path, text)


def _draw_all(pictures, answers, folder, max_pixels):
    """Write a copy of every answered picture, the answer on top of it, as JPEG for a JPEG and as PNG for all others."""
    from utils.inference.drawing import draw  # not above: only --save_dir needs it

    taken = set()
    for picture, answer in zip(pictures, answers, strict=True):
        if answer.fault:
            continue
        target = _free_name(pathlib.Path(folder, picture.name), taken)
        with replacing(target) as temporary:
            draw(_load(picture.path, max_pixels), f"{answer.label} {answer.top[0][1]:.2f}").save(temporary)


def _free_name(path, taken):
    """`path` with the suffix that is written, numbered where another picture has that name already."""
    suffix = path.suffix.lower() if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
    stem, number = path.stem, 1
    while (path := path.with_name(f"{stem}{'' if number == 1 else f'_{number}'}{suffix}")) in taken:
        number += 1
    taken.add(path)
    return path
