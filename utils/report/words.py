"""The summary of a run in sentences."""

from utils.core.text import plural


def percent(share, digits=1):
    """`98.3 %`"""
    return f"{100 * share:.{digits}f} %"


def summary(run, confusion):
    """Sentences on a Run and its Confusion, the most important first."""
    return [words for words in (_accuracy(run), _chosen(run), _weakest(run), _confused(run, confusion), _calibration(run),
                                _files(run), _data(run)) if words]  # fmt: skip


def _accuracy(run):
    result, count = run.result, len(run.split)
    low, high = result["Acc@1 95 % interval"]
    return (
        f"{run.card.architecture} at {run.card.image_size} px answers {int(run.correct.sum()):,} of "
        f"{plural(count, 'image')} of {run.dataset.name} ({run.split.name}) right: {percent(result['Acc@1'])}, "
        f"and with 95 % confidence from {percent(low)} to {percent(high)} of images like these."
    )


def _chosen(run):
    if not run.curves or not run.curves.chosen:
        return None
    chosen_by_val = run.curves.held_out and run.curves.is_best
    on = "the best on the held-out images" if chosen_by_val else "the latest"
    too_good = chosen_by_val and run.split_chose_epoch
    again = " These are the images reported on here, so the accuracy is a little too good." if too_good else ""
    return f"The weights are those of epoch {run.curves.chosen} of {run.curves.last}, {on}.{again}"


def _weakest(run):
    rows = {name: values for name, values in run.result["per class"].items() if values["support"]}
    name, values = min(rows.items(), key=lambda item: item[1]["F1"])
    return f"The weakest class is {name}: {percent(values['recall'])} of its images are answered right, F1 {values['F1']:.3f}."


def _confused(run, confusion):
    if not confusion.pairs:
        return "No image is answered wrong."
    pair = confusion.pairs[0]
    times = {1: "once", 2: "twice"}.get(pair.count, f"{pair.count:,} times")
    return f"The most frequent mistake: {run.classes[pair.row]} is taken for {run.classes[pair.column]}, {times}."


def _calibration(run):
    error = run.result["expected calibration error"]
    confidence = run.evaluation.logits.softmax(1).max(1).values.mean().item()
    points = 100 * (confidence - run.result["Acc@1"])
    return (
        f"It gives its answers a mean probability of {percent(confidence)}, {abs(points):.1f} points too "
        f"{'high' if points > 0 else 'low'}; the expected calibration error is {percent(error)}."
    )


def _files(run):
    if not run.files:
        return None
    asked = [file for file in run.files if not file.fault]
    if not asked:
        return f"Of {plural(len(run.files), 'exported file')} none could be read."
    worst = min(asked, key=lambda file: file.agreeing)
    share = f"all {plural(worst.images, 'image')}" if worst.agreeing == worst.images else \
        f"{worst.agreeing:,} of {plural(worst.images, 'image')}"  # fmt: skip
    if len(asked) == 1:
        return f"The exported file {worst.name} answers {share} that it was asked about as the checkpoint does."
    return f"{len(asked)} exported files were asked too; the one that differs most, {worst.name}, answers {share} alike."


def _data(run):
    if run.findings is None:
        return None
    total = sum(map(len, run.findings.values()))
    return f"Looking through the files of the data set brought {plural(total, 'finding')}." if total else \
        "Nothing was found wrong with the files of the data set."  # fmt: skip
