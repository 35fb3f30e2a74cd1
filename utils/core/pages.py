"""What the HTML pages share: strangers' names made harmless, and images that travel inside of the page."""

import base64
import io

from jinja2 import Environment
from PIL import Image

from utils.core.text import printable

SMALL = 48  # px; the long side up to which an image is stored without loss


def page_environment(**options):
    """A Jinja2 environment whose templates escape every value, and show what would steer a reader as `printable` does.

    `options` are those of jinja2.Environment.
    """
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_harmless, **options)


def _harmless(value):
    return printable(value) if type(value) is str else value  # Markup is a class of its own: it is escaped already


def data_address(image, side):
    """A Pillow image as a `data:` address, its long side at most `side` px: PNG for tiny images, JPEG for others."""
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    kind = "PNG" if max(image.size) <= SMALL else "JPEG"
    if kind == "PNG" and image.mode == "RGB" and _is_grey(image):
        image = image.convert("L")
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"optimize": True} if kind == "PNG" else {"quality": 80}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _is_grey(image):
    red, green, blue = (channel.tobytes() for channel in image.split())
    return red == green == blue
