"""The screenshots of docs/report.md, of the published custom; needs Chromium and Fashion-MNIST.

python docs/make_report_figures.py --data_dir data/
"""

import pathlib
import subprocess
import sys
import tempfile

from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser import Browser

from utils.core.cli import Parser

IMAGES = ROOT / "docs" / "images"
RUN = "weights/FashionMNIST/custom"
PHONE, GAP = (390, 844), 10  # px


def make_report(data_dir, output, *models):
    """The page on these models, at `output`."""
    flags = [flag for model in models for flag in ("-w", model)]
    command = [sys.executable, ROOT / "report.py", *flags, "--data_dir", data_dir, "--output", output]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return output


def draw_page(browser, page):
    """The top of the page, and the confusion matrix after a click on a cell."""
    browser.open(page, 1100, 1000)
    shoot(browser, "report.png")
    browser.click('button[data-cell="6,0"]')  # shirts taken for T-shirts
    shoot(browser, "report_cell.png", "#confusion")


def shoot(browser, name, selector=None):
    browser.screenshot(IMAGES / name, selector)
    save(Image.open(IMAGES / name), name)


def save(image, name):
    """Write a picture with few colours, a third as large."""
    image.convert("RGB").quantize(128).save(IMAGES / name, optimize=True)


def draw_phone(browser, page, folder):
    """Three places of the page of two models, side by side, as a phone with a dark theme shows them."""
    whole = Image.new("RGB", (3 * PHONE[0] + 2 * GAP, PHONE[1]), "white")
    for number, place in enumerate(("html", "#confusion", "#classes")):
        browser.open(page, *PHONE, dark=True)
        browser.run(f"document.querySelector({place!r}).scrollIntoView()")
        browser.screenshot(folder / "place.png")
        whole.paste(Image.open(folder / "place.png"), (number * (PHONE[0] + GAP), 0))
    save(whole, "report_phone.png")


def main():
    parser = Parser(__doc__)
    parser.add_argument("--data_dir", default="data/", help="holds FashionMNIST/raw")
    data_dir = parser.parse().data_dir
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        one = make_report(data_dir, folder / "one.html", RUN)
        two = make_report(data_dir, folder / "two.html", RUN, f"{RUN}/converted_models/custom_int8.onnx")
        with Browser(folder / "profile") as browser:
            draw_page(browser, one)
            draw_phone(browser, two, folder)


if __name__ == "__main__":
    main()
