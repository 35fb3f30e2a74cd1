"""Draw docs/images/tensorboard.png: TensorBoard on the published mobilenet_v3_small; needs Chromium, neither data nor network.

python docs/make_tensorboard_figure.py
"""

import os
import pathlib
import sys
import tempfile
import time
import urllib.parse

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser import Browser
from tensorboard_server import TensorBoard

LOGS = pathlib.Path("weights/FashionMNIST/mobilenet_v3_small/logs")
SHOWN = ("Acc@1", "loss", "confusion matrix/test", "mistakes/test")  # charts and figures of a run
SIZE = (1240, 1060)  # px
SECONDS = 5  # until all of them are drawn: the page does not say when


def main():
    os.chdir(ROOT)
    view = urllib.parse.urlencode({"tagFilter": f"^({'|'.join(SHOWN)})$", "smoothing": 0})
    profile = tempfile.TemporaryDirectory()
    with profile, TensorBoard(LOGS, losses=2) as board, Browser(profile.name) as browser:
        browser.open(f"{board.address}?{view}#timeseries", *SIZE)
        browser.wait(f"document.querySelectorAll('scalar-card, image-card').length == {len(SHOWN)}")
        browser.click(".scalars-ignore-outliers input")  # or the ends of the curves are cut off
        browser.click("button.settings-button")
        time.sleep(SECONDS)
        browser.screenshot(ROOT / "docs" / "images" / "tensorboard.png")


if __name__ == "__main__":
    main()
