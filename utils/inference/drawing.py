"""An answer written above its image, with Pillow, and with its own font where that has the characters."""

from PIL import Image, ImageDraw, ImageFont

from utils.core.fonts import one_font
from utils.core.images import LONGEST, middle
from utils.core.text import printable, shortened

LEAST = 224  # px; an image narrower than this is enlarged, so that the text is legible


def draw(image, text):
    """RGB image -> a copy with a strip above it that holds `text`, in letters that shrink until the text fits; a very long
    one loses its middle.

    Of an extremely long image the middle is drawn, in which the network looked.
    """
    image, text, file = middle(image, LONGEST), *_drawable(printable(text))
    scale = max(1, -(-LEAST // image.width))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    size = max(14, image.width // 24)  # px
    room, font = image.width - size, _font(file, size)
    width = font.getbbox(text)[2]
    if width > room:
        font = _font(file, max(8, size * room / width))
    while font.getbbox(text)[2] > room and len(text) > 8:
        text = shortened(text, len(text) * 7 // 8)
    strip = 2 * size
    canvas = Image.new("RGB", (image.width, image.height + strip), "black")
    canvas.paste(image, (0, strip))
    ImageDraw.Draw(canvas).text((size // 2, strip // 2), text, "white", font, anchor="lm")
    return canvas


def _drawable(text):
    """`(text, file)`: the text as a font can draw it, and that font as `_font` takes it; None is Pillow's own."""
    if text.isascii():
        return text, None
    *file, text = one_font(text)
    return text, file


def _font(file, size):
    return ImageFont.truetype(file[0], size, file[1]) if file else ImageFont.load_default(size)
