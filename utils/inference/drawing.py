"""An answer written above its image, with Pillow and its own font."""

from PIL import Image, ImageDraw, ImageFont

from utils.core.images import LONGEST, middle

LEAST = 224  # px; an image narrower than this is enlarged, so that the text is legible


def draw(image, text):
    """RGB image -> a copy with a strip above it that holds `text`, in letters that shrink until the text fits.

    Of an extremely long image the middle is drawn, in which the network looked.
    """
    image = middle(image, LONGEST)
    scale = max(1, -(-LEAST // image.width))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    size = max(14, image.width // 24)  # px
    font = ImageFont.load_default(size)
    width = font.getbbox(text)[2]
    if width > image.width - size:
        font = ImageFont.load_default(max(8, size * (image.width - size) / width))
    strip = 2 * size
    canvas = Image.new("RGB", (image.width, image.height + strip), "black")
    canvas.paste(image, (0, strip))
    ImageDraw.Draw(canvas).text((size // 2, strip // 2), text, "white", font, anchor="lm")
    return canvas
