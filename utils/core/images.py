"""The one inference preprocessing, from a file to the network's input, with numpy and Pillow only."""

import functools
import os
import warnings

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from utils.core.errors import UserError
from utils.core.text import plural
from utils.core.walk import HEIF, MAX_PIXELS, NO_HEIF

LONGEST = 4  # of an image so many times as long as wide, or longer, resizing gives the middle alone
MOST_RESIZED = 1 << 22  # pixels: as many of such an image are resized without a thought for the memory
SMALL_PART = 4  # values that all lie in this part (a quarter) of their range most likely have fewer bits
FILTERS = {"bilinear": (Image.Resampling.BILINEAR, 1), "bicubic": (Image.Resampling.BICUBIC, 2)}  # and its reach, in pixels
PROGRAMS = ("EPS", "WMF")  # drawn by Ghostscript or Windows: not with a stranger's file
CUT_OFF = "it is cut off"  # how the reason begins for a file that ends too early
ODD = "odd values"  # key in `info` of a loaded image: what is odd about its values, in words
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # TIFF tags; of the second, 0 says that white is zero
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # 64 MB: long descriptions are no reason to refuse an image


@functools.cache
def reads_heif():
    """Whether HEIC files can be read; from the first call on Pillow knows them."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def to_rgb(image):
    """A Pillow image of any mode as RGB, upright.

    The EXIF orientation is applied; of an animation the first frame counts; what is transparent is shown on black, as
    plain `convert("RGB")` would show whatever colour lies hidden there; grey of more than 8 bits is scaled by the range of
    its format, not clipped; floating-point grey is taken as 0-1 where it fits in it and as 0-255 otherwise. Where the values
    do not fit, as 12-bit values in a 16-bit format, `info[ODD]` of the result says so in words; it holds nothing else.
    """
    tags = getattr(image, "tag_v2", {})
    bits, inverted = tags.get(BITS_PER_SAMPLE, (16,))[0], tags.get(PHOTOMETRIC) == 0
    halved = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))  # Pillow keeps the upper 8 bits of colours
    image, odd = _upright(image), None
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        values[values == image.info.get("transparency", np.nan)] = 0
        low, high = (values.min(), values.max()) if values.size else (0, 0)
        white = 2.0 ** min(bits, 16) - 1 if image.mode != "F" else 1.0 if low >= 0 and high <= 1 else 255.0
        if inverted:  # Pillow does this itself for up to 8 bits
            values, low, high = white - values, white - high, white - low
        odd = _odd_range(low, high, white)
        image = Image.fromarray(np.clip(values * (255 / white), 0, 255).round().astype(np.uint8), "L")
    rgb = _on_black(image)
    if halved and not odd:
        high = max(high for _, high in rgb.getextrema())
        odd = high and _odd_range(0, 256 * high + 255, 65535)
    rgb.info = {ODD: odd} if odd else {}
    return rgb


def _upright(image):
    """An image turned by its EXIF orientation, where it has a readable one."""
    image.load()  # what is wrong with the pixels is said, what is wrong with the description of a sound image is not
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow raises SyntaxError, struct.error, … for an EXIF block that is none
        return image


def _odd_range(low, high, white):
    """What is odd about grey levels from `low` to `high` in a format whose white is `white`, in words, or None."""
    if high > white or low < 0:
        return f"its values go from {low:,.6g} to {high:,.6g}, and what is outside of 0 to {white:,.0f} was cut off"
    if white > 255 and 0 < high <= white / SMALL_PART:
        left = int(255 * high / white) + 1
        return f"its values end at {high:,.0f} of {white:,.0f}, so it is nearly black, in {plural(left, 'grey level')} of 256"
    return None


def _on_black(image):
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert("RGB")


def refusal(image, max_pixels=MAX_PIXELS):
    """Why an opened image is not decoded, in words that follow its name, or None."""
    width, height = image.size
    if image.format in PROGRAMS:
        return f"holds {image.format}, which a program would have to run"
    return f"has {width}×{height} pixels, over the limit of {max_pixels:,}" if width * height > max_pixels else None


def why_unreadable(error, content):
    """The reason for which Pillow raised `error`, in plain words; `content` is a binary stream of the file."""
    message, start = " ".join(str(error).split()), content.read(512)
    size = content.seek(0, os.SEEK_END)
    if not start:
        return "it is empty"
    if isinstance(error, UnidentifiedImageError):
        return "it holds text, not an image" if _is_text(start) else "its content is not that of an image"
    if "truncated" in message.lower():
        return f"{CUT_OFF} after {plural(size, 'byte')}"
    return f"its content is damaged or of a rare kind{message and f' ({message[:120]})'}"


def _is_text(start):
    """Whether the first bytes of a file are text, as those of a web page are; a last character may be cut in two."""
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        text = start[: error.start].decode() if error.start > len(start) - 4 else "\0"
    return text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable()


def load_image(path, max_pixels=MAX_PIXELS):
    """Decode one file into a Pillow RGB image, upright. Anything else than a path has `content()`, a binary stream.

    Raises UserError, naming the file, for one that is missing, is no image, is cut off, has more than `max_pixels` pixels
    (checked before anything is decoded), or for which there is not enough memory.
    """
    if str(path).lower().endswith(HEIF) and not reads_heif():
        raise UserError(f"{path}: {NO_HEIF}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # From a path Pillow maps uncompressed TIFF into memory, and then turns an image that is not upright into stripes.
            with path.content() if hasattr(path, "content") else open(path, "rb") as content, Image.open(content) as image:
                reason = refusal(image, max_pixels)
                if reason:
                    raise UserError(f"{path} {reason}")
                return to_rgb(image)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except MemoryError:
        raise UserError(f"{path} cannot be decoded: there is not enough memory for it") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path} has too many pixels to decode safely") from None
    except Exception as error:  # Pillow's plugins raise OSError, ValueError, SyntaxError, struct.error, … on broken files
        if getattr(error, "errno", None):  # the system's, not Pillow's
            raise UserError(f"{path} cannot be read ({error.strerror})") from None
        with path.content() if hasattr(path, "content") else open(path, "rb") as content:
            raise UserError(f"{path} is not a readable image: {why_unreadable(error, content)}") from None


def is_extreme(image):
    """Whether a Pillow image is over LONGEST times as long as wide."""
    return max(image.size) > LONGEST * min(image.size)


def middle(image, ratio):
    """What lies in the middle of an image that is over `ratio` times as long as wide; others as they are.

    As much is cut off at either end, an even number of pixels, so that a centred crop finds the same ones.
    """
    width, height = image.size
    left, top = _even_margin(width, ratio * height), _even_margin(height, ratio * width)
    return image.crop((left, top, width - left, height - top)) if left or top else image


def _even_margin(length, most):
    return max(0, length - most) // 4 * 2


def resize_shorter(image, size, interpolation="bilinear"):
    """Shrink or enlarge, antialiased, so that the short side has `size` pixels; the long side is truncated to int.

    Of an image that is over LONGEST times as long as wide only the middle comes out, LONGEST times as long as wide. Where all
    of it would have over MOST_RESIZED pixels, only the middle is resized; that is the same within one grey level.
    """
    width, height = image.size
    if min(width, height) == size:
        return middle(image, LONGEST)
    shape = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    method, reach = FILTERS[interpolation]
    margins = [_even_margin(length, LONGEST * size) for length in shape]
    if not any(margins) or shape[0] * shape[1] <= MOST_RESIZED:
        return middle(image.resize(shape, method), LONGEST)
    cut, box = [], []  # start and end along each side: of what is cut out first, and of what is resized, in the cut-out
    for length, out, margin in zip(image.size, shape, margins, strict=True):
        scale = length / out
        around = int(reach * max(scale, 1)) + 2  # as far as the filter looks
        first, last = margin * scale, (out - margin) * scale
        start = max(0, int(first) - around)
        cut.append((start, min(length, int(last) + around)))
        box.append((first - start, last - start))  # small, as Pillow takes 32-bit numbers
    part = [out - 2 * margin for out, margin in zip(shape, margins, strict=True)]
    return image.crop(_corners(cut)).resize(part, method, _corners(box))


def _corners(spans):
    """(left, top, right, bottom) of the spans along x and along y."""
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def crop_origin(height, width, size):
    """Top and left of a centred `size`×`size` crop, in pixels, rounded as torchvision's CenterCrop rounds."""
    return round((height - size) / 2.0), round((width - size) / 2.0)


def resize_and_crop(image, image_size, resize_size, interpolation="bilinear"):
    """RGB image -> uint8 array (image_size, image_size, 3)."""
    image = resize_shorter(image, resize_size, interpolation)
    top, left = crop_origin(image.height, image.width, image_size)
    return np.asarray(image.crop((left, top, left + image_size, top + image_size)))  # crop pads with black if it must


def normalise(pixels, mean, std):
    """uint8 (..., H, W, 3) -> float32 (..., 3, H, W): scaled to 0-1, minus `mean`, over `std`."""
    scaled = (pixels.astype(np.float32) / 255.0 - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))


def preprocess(image, card):
    """Pillow RGB image -> float32 (1, 3, H, W), by the numbers of the card."""
    pixels = resize_and_crop(image, card.image_size, card.resize_size, card.interpolation)
    return normalise(pixels, card.mean, card.std)[None]
