"""Photograph the explorer's page: a wide light window and a phone in the dark, as PNG.

python docs/make_explore_pictures.py    # needs Chromium, its driver and the extra `dev`
"""

import io
import sys
from base64 import b64decode
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from browser import Page, chromium
from explorer import request_of, serving

from fused_sampler.explorer.text import Explorer
from fused_sampler.models.load import load_model

REQUEST = request_of(
    "Once upon a time, there was a little", seed=7, temperature=0.8, top_k=50, top_p=0.9
)
PICTURES = (("explore.png", 1200, "light", 1), ("explore-phone.png", 360, "dark", 2))
APPENDED = 25
COLOURS = 48
HIGHEST = 1500  # of the window, in its pixels


def main() -> None:
    with serving(Explorer(load_model()), REQUEST) as server, chromium() as driver:
        for name, width, scheme, scale in PICTURES:
            page = Page(driver, server.url, width, 900, scheme)
            page.click("count")
            page.click("look")
            for _ in range(APPENDED):
                page.click("append")
            page.run("document.activeElement.blur()")
            end = page.run("return document.getElementById('main').getBoundingClientRect().bottom")
            clip = {
                "x": 0,
                "y": 0,
                "width": width,
                "height": min(end + 24, HIGHEST),
                "scale": scale,
            }
            options = {"clip": clip, "captureBeyondViewport": True}
            shot = driver.execute_cdp_cmd("Page.captureScreenshot", options)
            picture = Image.open(io.BytesIO(b64decode(shot["data"]))).convert("RGB")
            picture.quantize(COLOURS).save(Path(__file__).with_name(name), optimize=True)


if __name__ == "__main__":
    main()
