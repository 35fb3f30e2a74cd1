"""An answer written above its image, with Pillow, and with its own font where that has the characters."""

from PIL import Image, ImageDraw, ImageFont

from utils.core.fonts import font_file
from utils.core.images import LONGEST, middle
from utils.core.text import printable, shortened

LEAST = 224  # px; an image narrower than this is enlarged, so that the text is legible


def draw(image, text):
    """RGB image -> a copy with a strip above it that holds `text`, in letters that shrink until the text fits; a very long
    one loses its middle.

    Of an extremely long image the middle is drawn, in which the network looked.
    """
    image, text = middle(image, LONGEST), printable(text)
    scale = max(1, -(-LEAST // image.width))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    size = max(14, image.width // 24)  # px
    room, font = image.width - size, _font(text, size)
    width = font.getbbox(text)[2]
    if width > room:
        font = _font(text, max(8, size * room / width))
    while font.getbbox(text)[2] > room and len(text) > 8:
        text = shortened(text, len(text) * 7 // 8)
    strip = 2 * size
    canvas = Image.new("RGB", (image.width, image.height + strip), "black")
    canvas.paste(image, (0, strip))
    ImageDraw.Draw(canvas).text((size // 2, strip // 2), text, "white", font, anchor="lm")
    return canvas


def _font(text, size):
    if text.isascii():
        return ImageFont.load_default(size)
    file, face = font_file(text)
    return ImageFont.truetype(file, size, face)
