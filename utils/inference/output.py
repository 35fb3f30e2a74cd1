"""What was answered, as lines and tables on the screen, as JSON and CSV, and as images with the answer drawn on."""

import json
import os
import pathlib
import sys

from utils.core.errors import SOME_UNREADABLE, UserError
from utils.core.files import check_places, name_that_fits, replacing, write_text
from utils.core.text import csv_text, plural, printable, table
from utils.inference.answers import UNKNOWN, ask, load

NOTES = 3  # images with odd values that are named


def report(predictor, files, options):
    """Answer all `files` (ImageFile) and write what the Options ask for; return the exit status.

    One image gives one line, several give a table. The status is 0, or 3 where some could not be read; UserError
    where none could.
    """
    if options.labelled:
        _must_lie_in_class_folders([file.path for file in files], predictor.card.classes)
    drawn = _drawn(files, options.save_dir) if options.save_dir else []
    check_places(*drawn, *(path for path in (options.json, options.csv) if path != "-"))
    answers, seconds = ask(predictor, files, options)
    faults = [answer for answer in answers if answer.fault]
    for answer in faults:
        print(printable(f"unreadable: {answer.fault}"), file=sys.stderr)
    odd = [answer for answer in answers if answer.odd]
    for answer in odd[:NOTES]:
        print(printable(f"note: {answer.path}: {answer.odd}"), file=sys.stderr)
    if len(odd) > NOTES:
        print(f"note: and {plural(len(odd) - NOTES, 'image')} more with odd values", file=sys.stderr)
    if len(faults) == len(answers):
        raise UserError(f"none of the {plural(len(answers), 'image')} could be read")
    score = _score(answers, predictor.card.classes) if options.labelled else {}
    if "-" not in (options.json, options.csv):
        show = _show_one if len(files) == 1 else _show_many
        show(answers, seconds, predictor, options.show_topk)
    if options.json:
        _write(options.json, _as_json(answers, seconds, predictor, score))
    if score:
        print(_in_words(score), file=sys.stderr if "-" in (options.json, options.csv) else sys.stdout)
    if options.csv:
        _write(options.csv, _as_csv(answers, min(options.topk, predictor.card.num_classes)))
    if options.save_dir:
        _draw_all(files, answers, drawn, options)
    return SOME_UNREADABLE if faults else 0


def _show_one(answers, seconds, predictor, show_topk):
    (answer,) = answers
    print(f"Predicted class: {printable(answer.label)} ({answer.top[0][1]:.2f}) in {seconds:.4f} seconds.")
    rest = answer.top if answer.label == UNKNOWN else answer.top[1:]
    if show_topk and rest:
        names = [printable(name) for name, _ in rest]
        width = max(map(len, names))
        print("\n".join(f"  {name:{width}}  {p:.4f}" for name, (_, p) in zip(names, rest, strict=True)))


def _show_many(answers, seconds, predictor, show_topk):
    answered = [answer for answer in answers if not answer.fault]
    header = ["image", "class", "probability"] + ["then"] * show_topk
    rows = []
    for answer in answered:
        rest = answer.top if answer.label == UNKNOWN else answer.top[1:]
        then = ", ".join(f"{name} {probability:.2f}" for name, probability in rest)
        rows.append([answer.path, answer.label, f"{answer.top[0][1]:.2f}"] + [then] * show_topk)
    import shutil  # not above: one image needs no table

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None  # a file or a pipe takes whole paths
    print(table(header, rows, "<<><"[: len(header)], width))
    speed = f"{len(answered) / seconds:.0f} images/s, {predictor.engine} on {predictor.device}"
    unread = f", {len(answers) - len(answered)} unreadable" if len(answered) < len(answers) else ""
    print(f"{plural(len(answered), 'image')} answered{unread} in {seconds:.2f} seconds ({speed}).")


def _score(answers, classes):
    """How many of the images in class folders got the class of their folder, whatever the threshold."""
    labelled = [(_class_of(answer.path), answer.top[0][0]) for answer in answers if not answer.fault]
    counted = [label == best for label, best in labelled if label in classes]
    accuracy = sum(counted) / len(counted) if counted else None
    return {"accuracy": accuracy, "right": sum(counted), "labelled": len(counted), "answered": len(labelled)}


def _must_lie_in_class_folders(paths, classes):
    """Raise UserError where none of the images lies in a folder that is called as a class: before the first is asked."""
    if not {_class_of(path) for path in paths} & {*classes}:
        raise UserError(f"no image lies in a folder that is called as one of the {len(classes)} classes", option="labelled")


def _class_of(path):
    return pathlib.Path(os.path.abspath(path)).parent.name


def _in_words(score):
    if not score["labelled"]:
        return "accuracy unknown: none of the images in class folders could be read"
    left = score["answered"] - score["labelled"]
    more = f"; {plural(left, 'image')} in other folders do not count" if left else ""
    return f"accuracy {score['accuracy']:.4f}: {score['right']:,} of {plural(score['labelled'], 'image')} right{more}"


def _as_json(answers, seconds, predictor, score):
    images = [
        {
            "image": _printable(answer.path),
            "class": answer.label,
            "probability": answer.top[0][1],
            "top": [{"class": name, "probability": probability} for name, probability in answer.top],
        }
        | ({"note": answer.odd} if answer.odd else {})
        for answer in answers
        if not answer.fault
    ]
    faults = [{"image": _printable(answer.path), "reason": _printable(answer.fault)} for answer in answers if answer.fault]
    about = {"model": _printable(predictor.path), "engine": predictor.engine, "device": predictor.device, "seconds": seconds}
    return json.dumps(about | score | {"images": images, "unreadable": faults}, indent=2, ensure_ascii=False) + "\n"


def _as_csv(answers, topk):
    ranks = [f"{word}_{rank}" for rank in range(1, topk + 1) for word in ("class", "probability")]
    rows = []
    for answer in answers:
        if not answer.fault:
            rest = [cell for name, probability in answer.top for cell in (name, f"{probability:.6f}")]
            rows.append([answer.path, answer.label, f"{answer.top[0][1]:.6f}", *rest])
    return csv_text(["image", "class", "probability", *ranks], rows)


def _printable(text):
    """A path, or text with one in it, as text that can be encoded, whatever bytes the name of the file is made of."""
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _write(path, text):
    if path != "-":
        write_text(path, text)
    elif sys.stdout.isatty():
        sys.stdout.write(text)
    else:  # a program that reads them wants names as they are, which `Harmless` would change
        getattr(sys.stdout, "unfiltered", sys.stdout).write(text)


def _drawn(files, folder):
    """Where a copy of each image is written, with the answer on top of it: as JPEG for a JPEG and as PNG for all others."""
    taken = set()
    return [_free_name(pathlib.Path(folder, file.name), taken) for file in files]


def _draw_all(files, answers, targets, options):
    from utils.inference.drawing import draw  # not above: few runs draw

    for file, answer, target in zip(files, answers, targets, strict=True):
        if answer.fault:
            continue
        with replacing(target) as temporary:
            draw(load(file.path, options.max_pixels), f"{answer.label} {answer.top[0][1]:.2f}").save(temporary)


def _free_name(path, taken):
    """`path` with the suffix that is written, numbered where another image has that name already."""
    suffix = path.suffix.lower() if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
    stem, number = path.stem, 1
    while (path := path.with_name(name_that_fits(stem, f"{'' if number == 1 else f'_{number}'}{suffix}"))) in taken:
        number += 1
    taken.add(path)
    return path
