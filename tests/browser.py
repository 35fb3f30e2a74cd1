"""A headless Chromium, driven through a pipe by its DevTools protocol: pages are opened, clicked, typed into and looked at."""

import base64
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
KEYS = {
    "Enter": ("Enter", 13, "\r"),
    "Tab": ("Tab", 9, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
}


def find_browser():
    """The path of a Chromium, or None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A context manager around one page. `errors` collects what the page logs as an error, and every request that leaves it."""

    def __init__(self, profile):
        self.profile, self.errors, self.numbers, self.received = profile, [], itertools.count(1), b""

    def __enter__(self):
        (theirs_in, self.output), (self.input, theirs_out) = os.pipe(), os.pipe()
        flags = [
            f"--user-data-dir={self.profile}",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ]
        flags += ["--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars", "--disable-background-networking"]
        # the browser reads commands from descriptor 3 and answers on 4
        command = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", find_browser(), *flags, "about:blank"]
        nowhere = subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, stdin=nowhere, stdout=nowhere, stderr=nowhere, pass_fds=(theirs_in, theirs_out)
        )
        os.close(theirs_in)
        os.close(theirs_out)
        targets = self.ask("Target.getTargets", browser=True)["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        self.session = self.ask("Target.attachToTarget", browser=True, targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)
        os.close(self.output)
        os.close(self.input)

    def ask(self, method, browser=False, **parameters):
        """Send one command and return its result; events that come in meanwhile are noted."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters} | ({} if browser else {"sessionId": self.session})
        os.write(self.output, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _receive(self, seconds=60):
        end = time.monotonic() + seconds
        while b"\0" not in self.received:
            if not select.select([self.input], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            self.received += os.read(self.input, 1 << 20) or b"{}\0"
        message, _, self.received = self.received.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        name, facts = event.get("method"), event.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.errors.append(facts["exceptionDetails"].get("exception", {}).get("description", str(facts)))
        elif name == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning", "assert"):
            self.errors.append(str(facts["args"]))
        elif name == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.errors.append(facts["entry"]["text"])
        elif name == "Network.requestWillBeSent" and not facts["request"]["url"].startswith(("data:", "file:")):
            self.errors.append(f"request {facts['request']['url']}")

    def open(self, place, width=1200, height=900, dark=False):
        """Show a file or an address in a window of so many px; returns once it is loaded."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.ask("Emulation.setEmulatedMedia", features=theme)
        self.ask("Page.navigate", url=place if "://" in str(place) else pathlib.Path(place).resolve().as_uri())
        self.wait("document.readyState == 'complete' && location.href != 'about:blank'")

    def wait(self, expression):
        """Return once a JavaScript expression is true."""
        end = time.monotonic() + 60
        while not self.run(expression):
            assert time.monotonic() < end, f"the page never comes to {expression}"
            time.sleep(0.05)

    def run(self, expression):
        """The value of a JavaScript expression."""
        done = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"].get("exception", {}).get("description", str(done)))
        return done["result"].get("value")

    def click(self, selector):
        """Click the middle of the first element that fits, as a mouse does."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center', inline: 'center'}})")
        x, y, width, height = self.box(selector)
        x, y = x + width / 2 - self.run("scrollX"), y + height / 2 - self.run("scrollY")
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key):
        """Press and release a key of KEYS."""
        name, code, text = KEYS[key]
        facts = {"key": name, "code": name, "windowsVirtualKeyCode": code}
        self.ask("Input.dispatchKeyEvent", type="keyDown", text=text, **facts)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **facts)

    def screenshot(self, path, selector=None):
        """Write a PNG of what is in the window, or of the first element that fits."""
        options = {}
        if selector:
            x, y, width, height = self.box(selector)
            clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
            options = {"clip": clip, "captureBeyondViewport": True}
        shot = self.ask("Page.captureScreenshot", format="png", **options)
        pathlib.Path(path).write_bytes(base64.b64decode(shot["data"]))

    def box(self, selector):
        """x, y, width and height in px, from the top left of the page, of the first element that fits."""
        found = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y, width, height = self.run(f"(b => [b.x + scrollX, b.y + scrollY, b.width, b.height])({found})")
        return x, y, width, height
