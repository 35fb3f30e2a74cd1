"""Checkpoints into files for other engines, each loaded back and compared with the checkpoint before it gets its name."""

import io
import logging
import pathlib
import warnings
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

from models import build_model
from utils.card import CARD_KEY
from utils.datasets import dataset_of, open_dataset
from utils.errors import UserError
from utils.predictors import open_predictor, softmax
from utils.preprocess import preprocess
from utils.registry import Registry
from utils.report import replacing

EXPORTERS = Registry("engine")
OPSET = 18  # the first with antialiased Resize, and the one that torch's exporter writes by itself
BATCHES = (1, 2, 7)
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}  # largest |Δlogit| as a part of the range of the checkpoint's logits
PIXEL_TOLERANCE = 0.01  # largest |Δprob| where the graph resizes: it may round a pixel otherwise than Pillow


def verification_images(card, count, dataset=None, data_dir=None, sizes=False):
    """`count` real Pillow RGB images to compare on, and words for what they are.

    They come evenly from the validation split of the data set that is named or that the card names (downloads are left
    to an explicit `dataset`), else from scikit-learn's digits, else they are generated. With `sizes` a fourth of them is
    generated all the same, so that portrait, landscape, large and small pictures are among them.
    """
    generated = count // 4 if sizes else 0
    split, words = _validation_split(card, dataset, data_dir)
    if split is None:
        return generated_images(count), f"{count} generated images"
    chosen = np.linspace(0, len(split) - 1, min(count - generated, len(split))).astype(int)
    images = [split.image(int(index)) for index in chosen] + generated_images(generated)
    return images, f"{len(chosen)} images of {words}" + (f" and {generated} generated ones of many sizes" if generated else "")


def _validation_split(card, dataset, data_dir):
    name = dataset or card.training.get("dataset")
    folder = data_dir or card.training.get("data_dir", "data/")
    if dataset or (name and (pathlib.Path(name).is_dir() or pathlib.Path(folder, name, "raw").is_dir())):
        try:
            opened = dataset_of(card, dataset, data_dir)
        except UserError:
            if dataset:
                raise
        else:
            split = opened.val or opened.held_out or opened.train
            return split, f"{opened.name} ({split.name})"
    try:
        return open_dataset("digits").val, "digits (val)"
    except ImportError:
        return None, None


def generated_images(count, seed=0):
    """Photo-like Pillow RGB images: smooth colour, some edges, grain; sizes from 40 to 640 pixels, upright and across."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        width, height = random.integers(40, 640, 2)
        coarse = Image.fromarray(random.integers(0, 256, (4, 6, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC)).astype(np.int16)
        top, left = random.integers(0, height // 2), random.integers(0, width // 2)
        pixels[top : top + height // 3, left : left + width // 3] += random.integers(-120, 120, 3, dtype=np.int16)
        pixels += random.integers(-12, 13, pixels.shape, dtype=np.int16)
        images.append(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))
    return images


class ParityError(UserError):
    """An export that answers otherwise than its checkpoint; `card.parity` is in `.parity`."""

    def __init__(self, message, parity):
        super().__init__(message)
        self.parity = parity


def export_model(model, card, engine, path, *, images, source, fp16=False, with_preprocessing=False):
    """Write `model` to `path` for `engine`, compare the file with it, and return its card with the parity certificate.

    `model` is what `load_model` gave beside `card`, `images` a list of Pillow RGB images and `source` says in words where
    they are from. The file gets its name only once the comparison is passed. Raises ParityError where it is not, and
    UserError for a combination that does not exist.
    """
    exporter = EXPORTERS[engine]
    if (fp16 or with_preprocessing) and engine != "onnx":
        raise UserError(f"--{'fp16' if fp16 else 'with_preprocessing'} exists for --engine onnx only, not for {engine}")
    model = widened(model, card)
    fp16 = fp16 or (card.scheme == "fp16" and engine == "onnx")
    card = card.replace(scheme="fp16" if fp16 else card.scheme, with_preprocessing=with_preprocessing, parity={})
    with replacing(path) as temporary, torch.no_grad(), quietly():
        program = exporter.convert(model, card, fp16)
        exporter.save(program, card, temporary)
        first = open_predictor(temporary, engine, device="cpu")
        tolerance = TOLERANCE["fp16" if fp16 else "fp32"]
        parity = compare(reference_logits(model, card, images), first, images, source, tolerance)
        check(parity, path)
        card = card.replace(parity=parity)
        exporter.save(program, card, temporary)  # the same program: only the certificate is new
        again = open_predictor(temporary, engine, device="cpu")
        probe = first.prepare(images[0])
        if again.card != card or not np.array_equal(first(probe), again(probe)):
            raise ParityError(f"{path} changed when its certificate was written into it", parity)
    return card


def widened(model, card):
    """The network in eval mode and fp32: 16-bit weights of a quantized checkpoint become the same values in 32 bits.

    The 16-bit arithmetic of such a checkpoint is chosen by its device at run time, which no exported file can do.
    """
    if card.scheme is None:
        return model.eval()
    plain = build_model(card.architecture, card.num_classes, card.image_size, card.norm_type)
    plain.load_state_dict(model.state_dict())  # copies into fp32, exactly
    return plain.eval()


def reference_logits(model, card, images, batch_size=32):
    """What the checkpoint answers to Pillow RGB `images` after the one preprocessing: float32 logits (N, C)."""
    batches = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
    with torch.inference_mode():
        logits = [model(torch.from_numpy(np.concatenate([preprocess(image, card) for image in b]))) for b in batches]
    return torch.cat(logits).float().numpy()


def compare(reference, predictor, images, source, tolerance):
    """Ask `predictor` for all `images` in every batch size, and hold it against `reference` logits (N, C).

    Returns a dict for the card: `rows` has a dict a batch size with `batch`, `max_dlogit`, `mean_dprob`, `max_dprob`,
    `flips` (other argmax) and `ties` (those flips whose two candidates the checkpoint itself holds equal within twice
    the tolerance); beside it the source and the count of the images, the range of the logits, and the tolerance in
    logits. `tolerance` is a part of that range. Where the graph itself resizes, only probabilities are held to a limit.
    """
    spread = float(reference.max() - reference.min())
    card = predictor.card
    rows = []
    for batch in BATCHES:
        chunks = (images[i : i + batch] for i in range(0, len(images), batch))
        logits = np.concatenate([predictor.answer([predictor.prepare(image) for image in chunk]) for chunk in chunks])
        tie = 2 * (PIXEL_TOLERANCE if card.with_preprocessing else tolerance * spread)
        rows.append({"batch": batch} | differences(reference, logits, tie))
    return {
        "engine": predictor.engine,
        "images": len(images),
        "source": source,
        "logit_range": spread,
        "tolerance": None if card.with_preprocessing else tolerance * spread,
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
    """Raises ParityError for a flip that is no tie and for a difference above the tolerance (also one that is NaN)."""
    for row in parity["rows"]:
        where = f"{path} is not written: at batch {row['batch']} it"
        if row["flips"] > row["ties"]:
            flips = row["flips"] - row["ties"]
            raise ParityError(f"{where} answers {flips} of {parity['images']} images otherwise than the checkpoint", parity)
        if parity["tolerance"] is None:
            if not row["max_dprob"] <= PIXEL_TOLERANCE:
                raise ParityError(
                    f"{where} differs by {row['max_dprob']:.2g} in probability (at most {PIXEL_TOLERANCE})", parity
                )
        elif not row["max_dlogit"] <= parity["tolerance"]:
            limit = f"at most {parity['tolerance']:.2g}"
            raise ParityError(f"{where} differs from the checkpoint by {row['max_dlogit']:.2g} in the logits ({limit})", parity)


@contextmanager
def quietly():
    """The exporters warn of their own internals and of deprecated names; what matters here is compared afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _example(card):
    """Two images, because torch.export takes a batch of 1 for a constant."""
    return torch.zeros(2, 3, card.image_size, card.image_size)


def embed_card(onnx_model, card):
    """Put the card into the metadata of an ONNX model, beside what stands there already."""
    import onnx

    known = {prop.key: prop.value for prop in onnx_model.metadata_props}
    onnx.helper.set_model_props(onnx_model, known | {CARD_KEY: card.to_json()})


@EXPORTERS.register("onnx")
class Onnx:
    """`torch.onnx.export`: one file, dynamic batch, opset 18, inputs `input`, outputs `logits`."""

    @staticmethod
    def convert(model, card, fp16=False):
        import onnx

        buffer = io.BytesIO()
        torch.onnx.export(
            model,
            (_example(card),),
            buffer,
            dynamo=True,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
        graph = onnx.load_from_string(buffer.getvalue())
        if fp16:
            graph = _half(graph)
        if card.with_preprocessing:
            from utils.graph_preprocess import prepend_preprocessing

            graph = prepend_preprocessing(graph, card)
        onnx.checker.check_model(graph, full_check=True)
        return graph

    @staticmethod
    def save(graph, card, path):
        import onnx

        embed_card(graph, card)
        onnx.save(graph, str(path))
        onnx.checker.check_model(str(path))


def _half(graph):
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    half = OnnxModel(convert_float_to_float16(graph, keep_io_types=True))
    half.topological_sort()  # the conversion appends the casts of the input at the end, which the checker refuses
    return half.model


@EXPORTERS.register("torchscript")
class TorchScript:
    """`torch.jit.trace`, so that the file holds the operations only; the card is in its extra files."""

    @staticmethod
    def convert(model, card, fp16=False):
        return torch.jit.trace(model, _example(card), check_trace=False)  # the comparison checks more

    @staticmethod
    def save(script, card, path):
        torch.jit.save(script, str(path), _extra_files={CARD_KEY: card.to_json()})


@EXPORTERS.register("pt2")
class Pt2:
    """`torch.export` with a dynamic batch; the card is in its extra files."""

    @staticmethod
    def convert(model, card, fp16=False):
        program = torch.export.export(model, (_example(card),), dynamic_shapes=({0: torch.export.Dim("batch")},))
        program._example_inputs = None  # they would be stored
        return program

    @staticmethod
    def save(program, card, path):
        torch.export.save(program, str(path), extra_files={CARD_KEY: card.to_json()})
