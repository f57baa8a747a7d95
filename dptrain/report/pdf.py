"""A page as PDF, made by WeasyPrint, which the extra `pdf` brings."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from dptrain.contracts import DptrainError
from dptrain.report.figure import plain_style
from dptrain.storage import whole

CURE = (
    "pip install 'dptrain[pdf]', which needs the system's Pango too (Debian: libpangoft2-1.0-0), "
    "or leave it out"
)


def missing() -> str | None:
    """Why no PDF can be made here, and the cure; None where one can."""
    try:
        import weasyprint  # noqa: F401
    except ImportError as error:
        return f"needs WeasyPrint ({error}); {CURE}"
    except OSError as error:  # it is here, and a library that it loads is not
        return f"needs WeasyPrint, which cannot be loaded ({str(error).splitlines()[0]}); {CURE}"
    return None


def write_pdf(page: str, path: Path) -> None:
    """Write an HTML page as PDF, its pictures in their colours; raises DptrainError without WeasyPrint."""
    if (why := missing()) is not None:
        raise DptrainError(f"{path.name} {why}")
    import weasyprint

    logging.getLogger("weasyprint").setLevel(logging.ERROR)  # it warns of each rule that paper has no use for
    with whole(path) as draft:
        weasyprint.HTML(string=coloured(page), base_url=str(path.parent)).write_pdf(draft)


def coloured(page: str) -> str:
    """The page with its style sheet repeated in each picture, where alone WeasyPrint looks for one."""
    sheet = plain_style("".join(re.findall(r"<style>(.*?)</style>", page, flags=re.S)))
    return re.sub(r"(<svg\b[^>]*>)", lambda found: f"{found[1]}<style>{sheet}</style>", page)
