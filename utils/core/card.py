"""The model card: what a file must say of itself so that nobody has to say it again."""

import dataclasses
import json
from dataclasses import dataclass, field

from utils.core.errors import UserError

CARD_KEY = "model_card"  # under this name in ONNX metadata and in the extra files of TorchScript and .pt2
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
UNMARKED_BITS = {"int8": 8, "int8-dynamic": 8}  # of files from before their cards said so
ALIASES = {"fashioncnn": "custom"}  # other names of architectures, which people may give


def architecture(name):
    """The name under which cards and the registry know an architecture."""
    return ALIASES.get(name, name)


def resize_size(image_size):
    """Short side before the centre crop, in pixels: 256 for 224, and in that proportion for every other size."""
    return round(image_size * 256 / 224)


@dataclass
class ModelCard:
    """Architecture, classes, preprocessing and facts of one trained network.

    `image_size` and `resize_size` are in pixels; `mean` and `std` are per RGB channel on the 0-1 scale. `scheme` names the
    quantization of the weights, `training` holds what the training run wants remembered (data set, epochs, scores), and
    `parity` is the certificate that an export was compared with its checkpoint. `quantization` holds `weight_bits` and
    `cpu_features`, the instruction sets of the CPU that quantized it; only integer files have it.
    """

    architecture: str
    classes: list
    image_size: int = 224
    resize_size: int | None = None
    interpolation: str = "bilinear"
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    norm_type: str = "BN"
    scheme: str | None = None
    with_preprocessing: bool = False  # the graph itself resizes, crops and normalises uint8 (N, H, W, 3)
    training: dict = field(default_factory=dict)
    parity: dict = field(default_factory=dict)
    quantization: dict = field(default_factory=dict)
    version: int = 1

    def __post_init__(self):
        self.architecture = architecture(self.architecture)
        self.classes = [str(name) for name in self.classes]
        self.mean, self.std = tuple(self.mean), tuple(self.std)
        if self.resize_size is None:
            self.resize_size = resize_size(self.image_size)

    @property
    def result_name(self):
        """File name of results that depend on the architecture alone: `resnet18`, `resnet18_32px_7classes_GN`."""
        unusual = {f"{self.image_size}px": self.image_size != 224, f"{self.num_classes}classes": self.num_classes != 10}
        unusual[self.norm_type] = self.norm_type != "BN"
        return "_".join([self.architecture, *(name for name, differs in unusual.items() if differs)])

    @property
    def num_classes(self):
        return len(self.classes)

    @property
    def weight_bits(self):
        """Bits of the integer weights, 7 or 8; None for a file that has none."""
        return self.quantization.get("weight_bits", UNMARKED_BITS.get(self.scheme))

    def replace(self, **changes):
        """A copy with some fields changed; a new `image_size` brings its own `resize_size`."""
        if "image_size" in changes:
            changes.setdefault("resize_size", None)
        return dataclasses.replace(self, **changes)

    def to_dict(self):
        return dataclasses.asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    def to_json(self):
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_dict(cls, values, source="the file"):
        """Raises UserError for a card that this version cannot read; unknown keys of a later version are left out."""
        names = {f.name for f in dataclasses.fields(cls)}
        try:
            card = cls(**{key: value for key, value in values.items() if key in names})
            bits = card.weight_bits
        except (TypeError, AttributeError) as error:
            raise UserError(f"the model card in {source} is not readable ({error}); name architecture and classes") from None
        if bits not in (None, 7, 8):
            raise UserError(f"the model card in {source} says that its integer weights have {bits} bits; 7 and 8 are known")
        if card.interpolation != "bilinear":
            raise UserError(f"the model card in {source} asks for {card.interpolation} resizing; only bilinear is known here")
        return card

    @classmethod
    def from_json(cls, text, source="the file"):
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UserError(f"the model card in {source} is not JSON ({error}); name architecture and classes") from None
        return cls.from_dict(values, source)


def read_classes(path):
    """Class names from a text file, one a line, blank lines ignored. Raises UserError where there are none."""
    try:
        with open(path, encoding="utf-8") as file:
            names = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(f"{path} cannot be read ({reason})", option="classes") from None
    if not names:
        raise UserError(f"{path} holds no class names; write one a line", option="classes")
    return names
