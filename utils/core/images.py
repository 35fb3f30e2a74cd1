"""The one inference preprocessing, from a file to the network's input, with numpy and Pillow only."""

import warnings

import numpy as np
from PIL import Image, ImageOps

from utils.core.errors import UserError

MAX_PIXELS = 100_000_000


def to_rgb(image):
    """A Pillow image of any mode as RGB, upright.

    The EXIF orientation is applied; of an animation the first frame counts; what is transparent is shown on black, as
    plain `convert("RGB")` would show whatever colour lies hidden there; 16-bit grey is scaled by its range (65535), not
    clipped; floating-point grey is taken as 0-1 where it fits in it and as 0-255 otherwise.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.clip(grey / 257, 0, 255).round().astype(np.uint8), "L")
    elif image.mode == "F":
        grey = np.nan_to_num(np.asarray(image, np.float64))
        grey = grey * 255 if grey.size and grey.min() >= 0 and grey.max() <= 1 else grey
        image = Image.fromarray(np.clip(grey, 0, 255).round().astype(np.uint8), "L")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert("RGB")


def load_image(path, max_pixels=MAX_PIXELS):
    """Decode one file into a Pillow RGB image, upright.

    Raises UserError, naming the file, for one that is missing, is no image, is cut off, or has more than `max_pixels`
    pixels (checked before anything is decoded).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise UserError(f"{path} has {width}×{height} pixels, over the limit of {max_pixels:,}")
                return to_rgb(image)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path} has too many pixels to decode safely") from None
    except Exception as error:  # Pillow's plugins raise OSError, ValueError, SyntaxError, struct.error, … on broken files
        raise UserError(f"{path} is not a readable image ({type(error).__name__}: {error})") from None


def resize_shorter(image, size):
    """Shrink or enlarge so that the short side has `size` pixels, antialiased bilinear; the long side is truncated to int."""
    width, height = image.size
    if min(width, height) == size:
        return image
    shape = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    return image.resize(shape, Image.Resampling.BILINEAR)


def crop_origin(height, width, size):
    """Top and left of a centred `size`×`size` crop, in pixels, rounded as torchvision's CenterCrop rounds."""
    return round((height - size) / 2.0), round((width - size) / 2.0)


def resize_and_crop(image, image_size, resize_size):
    """RGB image -> uint8 array (image_size, image_size, 3)."""
    image = resize_shorter(image, resize_size)
    top, left = crop_origin(image.height, image.width, image_size)
    return np.asarray(image.crop((left, top, left + image_size, top + image_size)))  # crop pads with black if it must


def normalise(pixels, mean, std):
    """uint8 (..., H, W, 3) -> float32 (..., 3, H, W): scaled to 0-1, minus `mean`, over `std`."""
    scaled = (pixels.astype(np.float32) / 255.0 - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))


def preprocess(image, card):
    """Pillow RGB image -> float32 (1, 3, H, W), by the numbers of the card."""
    return normalise(resize_and_crop(image, card.image_size, card.resize_size), card.mean, card.std)[None]
