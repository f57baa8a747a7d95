"""Pictures of a run's report.html: light, dark, on a phone, and as it is printed.

python scripts/screenshots.py runs/2026-01-01_12-00-00_quickstart [folder for the pictures]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # the browser that the tests drive

from browser import Page, browser, find

ASSETS = Path(__file__).resolve().parents[1] / ".github" / "assets"
WINDOW = {"width": 1280, "height": 1080}


def take(page: Page, report: Path, folder: Path) -> list[Path]:
    """Picture the page in each of its looks; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    light, dark, phone, paper = (
        folder / name for name in ("report_light.png", "report_dark.png", "report_phone.png", "report.pdf")
    )
    for path, size, scheme in (
        (light, WINDOW, "light"),
        (dark, WINDOW, "dark"),
        (phone, {"width": 375, "height": 812}, "light"),
    ):
        page.open(report.resolve().as_uri(), scheme=scheme, **size)
        page.screenshot(path, whole=False)
    page.open(report.resolve().as_uri())
    page.pdf(paper)
    return [light, dark, phone, paper]


def main(run: str, folder: str | None = None) -> None:
    if find() is None:
        raise SystemExit("no Chromium on the PATH; install one, or name it by DPTRAIN_CHROMIUM")
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as page:
        for path in take(page, Path(run) / "report.html", Path(folder) if folder else ASSETS):
            print(path)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
