"""Exports a checkpoint, loads the file back, and compares it with the checkpoint before it gets its name."""

import numpy as np
import torch

from models.build import build_model
from utils.core.errors import UserError
from utils.core.files import replacing
from utils.core.images import preprocess
from utils.export.writers import quietly
from utils.inference.formats import FORMATS
from utils.inference.predictors import open_predictor, softmax

BATCHES = (1, 2, 7)
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}  # largest |Δlogit| as a part of the range of the checkpoint's logits
GREY_LEVELS = 2  # by which a pixel of a graph that resizes may differ from Pillow's: each of two passes may round otherwise
RARE = 0.001  # part of the pixels that may differ by more than one grey level


class ParityError(UserError):
    """An export that answers otherwise than its checkpoint; `card.parity` is in `.parity`."""

    def __init__(self, message, parity):
        super().__init__(message)
        self.parity = parity


def export_model(model, card, engine, path, *, images, source, fp16=False, with_preprocessing=False, opset=None):
    """Write `model` to `path` for `engine`, compare the file with it, and return its card with the parity certificate.

    `model` is what `load_model` gave beside `card`, `images` a list of Pillow RGB images and `source` says in words where
    they are from. The file gets its name only once the comparison is passed. Raises ParityError where it is not, and
    UserError for a combination that does not exist.
    """
    can, writer = FORMATS[engine].options, FORMATS[engine].load_writer()
    for option, wanted in (("fp16", fp16), ("with_preprocessing", with_preprocessing), ("opset", opset)):
        if wanted and option not in can:
            raise UserError(f"{engine} cannot do this; {_able(option)} can", option=option)
    model = widened(model, card)
    fp16 = fp16 or (card.scheme == "fp16" and "fp16" in can)
    card = card.replace(with_preprocessing=with_preprocessing, parity={}, **_precision(card, engine, fp16))
    with replacing(path) as temporary, torch.no_grad(), quietly():
        program = writer.convert(model, card, fp16, **({"opset": opset} if opset else {}))
        writer.save(program, card, temporary)
        first = open_predictor(temporary, engine, device="cpu")
        tolerance = TOLERANCE["fp16" if fp16 else "fp32"]
        inputs, pixels = _pixels(first, images)
        parity = compare(logits_of(model, inputs), first, images, source, tolerance) | pixels
        check(parity, path)
        card = card.replace(parity=parity)
        writer.save(program, card, temporary)  # the same program: only the certificate is new
        again = open_predictor(temporary, engine, device="cpu")
        probe = first.prepare(images[0])
        if again.card != card or not np.array_equal(first(probe), again(probe)):
            raise ParityError(f"{path} changed when its certificate was written into it", parity)
    return card


def _pixels(predictor, images):
    """What the network of a file sees of `images`, and for the card how far its own preprocessing is from Pillow's, if any.

    The comparison of logits is on the same pixels: a file with preprocessing may round one otherwise than Pillow.
    """
    card = predictor.card
    pillows = [preprocess(image, card) for image in images]
    if not card.with_preprocessing:
        return pillows, {}
    from utils.export.preprocessing_graph import network_inputs

    inputs = network_inputs(predictor.path, [predictor.prepare(image) for image in images])
    return inputs, pixel_differences(inputs, pillows, card.std)


def _able(option):
    return " and ".join(name for name, entry in FORMATS.items() if option in entry.options)


def _precision(card, engine, fp16):
    """The fields of the card of an exported file that say how it computes."""
    if fp16:
        on_cpu = f"fp16 weights, computes in fp32: {FORMATS[engine].shown} has no fp16 kernels for this CPU"
        return {"scheme": "fp16", "quantization": {"arithmetic": {"cpu": on_cpu, "cuda": "computes in fp16"}}}
    if card.scheme:
        return {"quantization": {"arithmetic": {"cpu": f"weights rounded to {card.scheme}, computes in fp32"}}}
    return {}


def widened(model, card):
    """The network in eval mode and fp32: 16-bit weights of a quantized checkpoint become the same values in 32 bits.

    The 16-bit arithmetic of such a checkpoint is chosen by its device at run time, which no exported file can do.
    """
    if card.scheme is None:
        return model.eval()
    plain = build_model(card.architecture, card.num_classes, card.image_size, card.norm_type)
    plain.load_state_dict(model.state_dict())  # copies into fp32, exactly
    return plain.eval()


def pixel_differences(inputs, expected, std):
    """How far pixels are from Pillow's: two lists of float32 (1, 3, S, S), normalised with `std`, to a dict for the card.

    `grey_levels` is the largest difference, of 255; `differing` and `above_one` are the parts of the pixels that differ at
    all and by more than one grey level.
    """
    scale = 255 * np.float32(std).reshape(3, 1, 1)
    off = np.abs(np.concatenate(inputs) - np.concatenate(expected)) * scale
    return {
        "grey_levels": float(off.max()),
        "differing": float((off > 0.5).mean()),
        "above_one": float((off > 1.5).mean()),
    }


def reference_logits(model, card, images, batch_size=32):
    """What the checkpoint answers to Pillow RGB `images` after the one preprocessing: float32 logits (N, C)."""
    return logits_of(model, [preprocess(image, card) for image in images], batch_size)


def logits_of(model, inputs, batch_size=32):
    """What the network answers to a list of float32 (1, 3, S, S): float32 logits (N, C)."""
    batches = (np.concatenate(inputs[i : i + batch_size]) for i in range(0, len(inputs), batch_size))
    with torch.inference_mode():
        return torch.cat([model(torch.from_numpy(batch)) for batch in batches]).float().numpy()


def compare(reference, predictor, images, source, tolerance):
    """Ask `predictor` for all `images` in every batch size, and hold it against `reference` logits (N, C).

    Fewer images than the largest batch are repeated, so that a batch of that size is really asked.

    Returns a dict for the card: `rows` has a dict a batch size with `batch`, `max_dlogit`, `mean_dprob`, `max_dprob`,
    `flips` (other argmax) and `ties` (those flips whose two candidates the checkpoint itself holds equal within twice
    the tolerance); beside it the source and the count of the images, the range of the logits, and the tolerance in
    logits. `tolerance` is a part of that range.
    """
    spread = float(reference.max() - reference.min())
    rows = []
    asked = [i % len(images) for i in range(max(len(images), *BATCHES))]
    reference = reference[asked]
    for batch in BATCHES:
        chunks = ([images[i] for i in asked[start : start + batch]] for start in range(0, len(asked), batch))
        logits = np.concatenate([predictor.answer([predictor.prepare(image) for image in chunk]) for chunk in chunks])
        rows.append({"batch": batch} | differences(reference, logits, 2 * tolerance * spread))
    return {
        "engine": predictor.engine,
        "images": len(images),
        "source": source,
        "logit_range": spread,
        "tolerance": tolerance * spread,
        "rows": rows,
    }


def differences(reference, logits, tie):
    """max |Δlogit|, mean and max |Δprob|, and argmax flips between two (N, C) arrays; `tie` is a margin in logits."""
    dprob = np.abs(softmax(reference) - softmax(logits))
    own, other = reference.argmax(axis=1), logits.argmax(axis=1)
    every = np.arange(len(reference))
    margin = reference[every, own] - reference[every, other]  # (N,) 0 where they agree
    return {
        "max_dlogit": float(np.abs(reference - logits).max()),
        "mean_dprob": float(dprob.mean()),
        "max_dprob": float(dprob.max()),
        "flips": int((own != other).sum()),
        "ties": int(((own != other) & (margin <= tie)).sum()),
    }


def check(parity, path):
    """Raises ParityError for a flip that is no tie and for a difference above what is allowed (also one that is NaN)."""
    refused = f"{path} is not written:"
    for row in parity["rows"]:
        where = f"{refused} at batch {row['batch']} it"
        if row["flips"] > row["ties"]:
            flips = row["flips"] - row["ties"]
            raise ParityError(f"{where} answers {flips} of {parity['images']} images otherwise than the checkpoint", parity)
        if not row["max_dlogit"] <= parity["tolerance"]:
            limit = f"at most {parity['tolerance']:.2g}"
            raise ParityError(f"{where} differs from the checkpoint by {row['max_dlogit']:.2g} in the logits ({limit})", parity)
    if "grey_levels" in parity and not (parity["grey_levels"] < GREY_LEVELS + 0.5 and parity["above_one"] <= RARE):
        raise ParityError(
            f"{refused} its preprocessing differs from Pillow's by up to {parity['grey_levels']:.0f} grey levels, and by more "
            f"than one on {parity['above_one']:.2%} of the pixels (at most {GREY_LEVELS} levels, and {RARE:.1%})",
            parity,
        )
