"""Any model file behind one call: float32 (N, 3, H, W) in, float32 logits (N, C) out, whatever engine runs it.

Nothing here needs torch: each reader of utils.inference.formats imports its runtime itself.
"""

import ctypes
import os
import pathlib

import numpy as np

from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.core.images import middle, preprocess
from utils.core.integrity import verify
from utils.core.machine import saturates
from utils.core.text import file_part
from utils.inference.formats import FORMATS, format_of

RAW_LONGEST = 64  # an image for a graph that resizes it is at most so many times as long as wide; else that takes gigabytes


def open_predictor(path, engine=None, classes=None, device="auto", image_size=None, *, model=None, threads=None, **options):
    """Open a model file and return its Predictor: `.card`, `.engine`, `.device`, `prepare(image)`, and a call.

    `engine` follows from the file unless given; `options` are those of `format_of`. `device` is auto, cpu or cuda; with auto
    a file or an engine that cannot use CUDA takes the CPU. `threads` limits the engine's own. A file without a card needs
    `classes`, a checkpoint without one `model`; it is then fed by the ImageNet numbers at `image_size`, the size that its
    input is fixed to, or 224. Raises UserError for a file that is missing, damaged or of another kind, a contradiction with its
    card, and a device that is not there.
    """
    path = pathlib.Path(path)
    engine = format_of(path, engine, **options)
    verify(path)
    predictor = FORMATS[engine].load_reader()(path, device, threads)
    predictor.engine = engine
    predictor.take_card(classes, image_size, model)
    return predictor


def cuda_devices():
    """How many CUDA devices the driver shows; 0 without a driver. Asks the driver itself, so it needs no framework."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def wants_cuda(device):
    """Whether to try CUDA for `auto`, `cpu` or `cuda`. Raises UserError for `cuda` where there is no driver or device."""
    if device == "cpu":
        return False
    if cuda_devices():
        return True
    if device == "cuda":
        raise UserError("cuda: there is no CUDA driver or no device here; leave it out, or take cpu", option="device")
    return False


class Predictor:
    """What the readers share: the card, preparing one image, and feeding batches in the size that the file takes.

    A reader is called with (path, device, threads). It sets `device` ("cpu" or "cuda") and `card_text` (JSON as text or bytes,
    or None), where its file fixes them also `fixed_batch`, `fixed_size` (pixels) and `num_outputs`, and gives `_run(batch)`,
    which may raise RuntimeError for a batch that does not fit.
    """

    engine = None  # its name in FORMATS; `open_predictor` sets it
    device = "cpu"
    card = card_text = None
    fixed_batch = fixed_size = num_outputs = None
    probable = None  # whether it answers with probabilities, which only a file without a card does; None before it is asked

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def take_card(self, classes=None, image_size=None, model=None):
        """Read the card of the file, or make one of `classes`; what is given must agree with what the file says."""
        if self.card_text:
            card = ModelCard.from_json(self.card_text, self.path)
            given = {"model": (model, card.architecture), "image_size": (image_size, card.image_size)}
            for option, (wanted, own) in given.items():
                if wanted not in (None, own):
                    raise UserError(f"{wanted} contradicts the card of {self.path}, which says {own}", option=option)
        elif classes is None:
            raise UserError(f"{self.path} has no model card; give a file that names its classes, one a line", option="classes")
        else:
            if image_size and self.fixed_size and image_size != self.fixed_size:
                raise UserError(f"{image_size}: {self.path} takes only {self.fixed_size} pixels", option="image_size")
            card = ModelCard(model or file_part(self.path.stem, 100), classes, image_size or self.fixed_size or 224)
        if self.fixed_size not in (None, card.image_size):
            raise UserError(f"the card of {self.path} says {card.image_size} px, but the file takes only {self.fixed_size}")
        count = self.num_outputs or card.num_classes
        if classes is not None and len(classes) != count:
            raise UserError(f"{len(classes)} classes are named, but {self.path} answers with {count}", option="classes")
        if card.num_classes != count:
            raise UserError(f"the card of {self.path} names {card.num_classes} classes, but the file answers with {count}")
        try:
            self.card = card.renamed(classes)
        except UserError as error:
            raise UserError(f"the names do not suit {self.path}: {error}", option="classes") from None

    @property
    def shown(self):
        """What runs the file, as tables and reports call it."""
        return FORMATS[self.engine].shown

    @property
    def bytes(self):
        """The size of the file on disk."""
        return os.path.getsize(self.path)

    @property
    def arithmetic(self):
        """What computes here, in words."""
        return self.card.arithmetic(self.device)

    def warning(self):
        """One sentence where the file's 8-bit weights meet a CPU on which the fast integer kernels saturate, else None."""
        if self.device != "cpu" or self.card.weight_bits != 8 or not saturates():
            return None
        return (
            f"{self.path} has 8-bit integer weights, whose sums saturate on this CPU (no VNNI): exact but slower kernels are "
            "used here, and programs that do not ask for them get wrong answers; quantize.py's scheme int8 is right everywhere"
        )

    def prepare(self, image):
        """Pillow RGB image -> what the file takes for it: float32 (1, 3, S, S), or uint8 (1, H, W, 3) as it is."""
        return np.asarray(middle(image, RAW_LONGEST))[None] if self.card.with_preprocessing else preprocess(image, self.card)

    def answer(self, prepared):
        """A list of what `prepare` gave -> float32 logits (N, C); images of several sizes go through one by one."""
        if len({array.shape for array in prepared}) == 1:
            return self(np.concatenate(prepared))
        return np.concatenate([self(array) for array in prepared])

    def __call__(self, batch):
        """float32 (N, 3, S, S), or uint8 (N, H, W, 3) for a file `with_preprocessing` -> float32 logits (N, C)."""
        kind = np.uint8 if self.card.with_preprocessing else np.float32
        if batch.dtype != kind:
            raise UserError(f"{self.path} takes {np.dtype(kind)} images, not {batch.dtype}; see its card: with_preprocessing")
        size = self.fixed_batch or len(batch)
        try:
            logits = np.concatenate([self._padded(batch[i : i + size], size) for i in range(0, len(batch), size)])
        except RuntimeError as error:
            if len(batch) > 1 and not self.fixed_batch and not self.card_text:  # made for one image at a time, by others
                self.fixed_batch = 1
                return self(batch)
            reason = str(error).strip().splitlines()
            raise UserError(f"{self.path} does not take {batch.shape} images ({reason[-1] if reason else error})") from None
        if logits.shape[1] != self.card.num_classes:
            named, option = f"{self.card.num_classes} classes are named", None if self.card_text else "classes"
            raise UserError(f"{named}, but {self.path} answers with {logits.shape[1]}", option=option)
        if self.probable is None and not self.card_text:  # asked once: the answers to one image do not hang on the others
            self.probable = are_probabilities(logits)
        return np.log(np.maximum(logits, 1e-12)) if self.probable else logits

    def predict(self, images):
        """The same call for tensors: float32 (N, 3, S, S) on any device -> float32 logits (N, C) on the CPU."""
        import torch  # not above: whoever has a tensor has imported it

        return torch.from_numpy(self(images.cpu().contiguous().numpy()))

    def _padded(self, part, size):
        """One call of the engine with exactly `size` images: the last part is filled up with black."""
        missing = size - len(part)
        filled = np.concatenate([part, np.zeros_like(part, shape=(missing, *part.shape[1:]))]) if missing else part
        logits = np.asarray(self._run(filled), dtype=np.float32)
        if logits.ndim != 2 or len(logits) != size:
            raise RuntimeError(f"it answers {filled.shape} with {logits.shape} instead of one row of logits an image")
        return logits[: len(part)]

    def _run(self, batch):
        raise NotImplementedError


def are_probabilities(outputs):
    """Whether rows (N, C) are probabilities, as of a file that ends in a softmax; perhaps in steps of 1/256, as in int8."""
    rounding = min(max(1e-3, outputs.shape[1] / 512), 0.1)
    return bool(outputs.min() >= 0 and outputs.max() <= 1 and np.allclose(outputs.sum(axis=1), 1, rtol=0, atol=rounding))


def softmax(logits):
    """Logits (N, C) -> probabilities (N, C), in float64 so that the rows add up to 1."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
