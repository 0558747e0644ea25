"""Take pictures of every page of `selfalign view`, with a headless Chromium: docs/images/view-*.png.

python scripts/screenshots.py [--db URL] [--output FOLDER]     default: the demo's database, after `make demo`
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from PIL import Image
from sqlalchemy import make_url

from generator.store import open_read_only
from generator.view.app import make_app

ROOT = Path(__file__).resolve().parent.parent
MOST_BYTES = 150_000


@contextmanager
def served(url: str, cache: Path) -> Iterator[str]:
    """Serve the pages as long as the block runs; gives their address."""
    database = open_read_only(url)
    server = uvicorn.Server(uvicorn.Config(make_app(database, cache), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        database.close()


def _seen_from_beside(url: str) -> str:
    """A file's address from the folder around it, gone to, as pages show it: nobody else has this machine's folders."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return url
    file = Path(parsed.database or "").resolve()
    os.chdir(file.parent.parent)
    return f"sqlite:///{file.parent.name}/{file.name}"


def browser() -> str:
    """Chromium, under the names it goes by."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    raise SystemExit("no Chromium here; on Debian: apt-get install chromium")


def picture(address: str, path: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
    """Save what the browser shows of one page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}", f"--screenshot={path}", f"--window-size={width},{height}"]
        command += ["--blink-settings=preferredColorScheme=0"] if dark else []
        subprocess.run([*command, address], check=True, capture_output=True, timeout=120)
    with Image.open(path) as full:  # a page has few colours
        full.convert("RGB").quantize(96).save(path, optimize=True)


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", default="sqlite:///runs/demo.db")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images")
    options = parser.parse_args()
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache, served(_seen_from_beside(options.db), Path(cache)) as address:

        def links(page: str, pattern: str) -> list[str]:
            with urllib.request.urlopen(address + page) as answer:  # noqa: S310  # our own
                return [found.replace("&amp;", "&") for found in re.findall(pattern, answer.read().decode())]

        pages: dict[str, tuple[str, int]] = {"overview": ("/", 1463), "search": ("/pairs?q=list&kept=yes", 900)}
        for name, start, pattern, height in (
            ("pair", "/pairs?verdict=FAILED", r'href="(/show/[0-9a-f]{32})"', 1700),
            ("snapshots", "/", r'href="(/snapshots)"', 480),
            ("diff", "/snapshots", r'href="(/diff[^"]*)"', 900),
            ("training", "/trainings", r'href="(/training/[^"]*)"', 1000),
            ("scores", "/", r'href="(/evaluations)"', 420),
            ("evaluation", "/evaluations", r'href="(/evaluation/[^"]*)"', 600),
        ):
            if found := links(start, pattern):
                pages[name] = (found[0], height)
        for name, (page, height) in pages.items():
            picture(address + page, output / f"view-{name}.png", height=height)
        picture(address + "/", output / "view-overview-dark.png", height=1463, dark=True)
        picture(address + pages["pair"][0], output / "view-pair-phone.png", width=500, height=1100)
    for path in sorted(output.glob("view-*.png")):
        size = path.stat().st_size
        print(f"{path.name}: {size / 1000:.0f} kB{'  TOO LARGE' if size > MOST_BYTES else ''}")


if __name__ == "__main__":
    main()
