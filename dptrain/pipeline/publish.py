"""The end of a run: its documents, what the tracker is told, and an error where a guarantee is broken."""

from __future__ import annotations

from dptrain import report as documents
from dptrain.config import Documents
from dptrain.contracts import BrokenGuarantee, Leakage, RecordLost, Report, Served, Tracker
from dptrain.evidence.verdict import BROKEN
from dptrain.pipeline import tracked
from dptrain.report import words
from dptrain.report.leakage_words import digits
from dptrain.training import checkpoint


def publish(report: Report, model: Served | None, tracker: Tracker, wanted: Documents) -> None:
    """Write the report into the run folder, and hand it to the tracker, and the model that it is about."""
    written = documents.write(report, pdf=wanted.pdf, card_measured=wanted.card_measured)
    checkpoint.remove(report.folder)  # the run is complete, whatever becomes of its record elsewhere
    try:
        for path in written:
            tracker.artifact(path, "report")
        if model is not None:
            tracker.model(model)  # before its metrics, which are shown beside it
        for name, value, step in tracked.metrics(report):
            tracker.metric(name, value, step)
        tracker.tags(tracked.tags(report))
    except RecordLost as error:
        refuse_broken(report)  # which matters more
        complete = f"the run is complete in {report.folder}, and only its record there is not"
        raise RecordLost(error.what, complete) from error


def refuse_broken(report: Report) -> None:
    """End loudly where an attack has measured more than the guarantee allows."""
    for line in report.leakage:
        if line.verdict.startswith(BROKEN):
            raise BrokenGuarantee(
                f"{line.attack}/{line.metric}={words.centre(line.value, digits(line))}, {_breach(line)}: the "
                "training is not as private as its guarantee says. Do not release this model; report the run "
                f"({report.folder}) to the maintainers"
            )


def _breach(line: Leakage) -> str:
    """What shows that a guarantee is broken: what the judge saw, or a bound that was passed."""
    seen = [part.removeprefix("broken: ") for part in line.notes.split("; ") if part.startswith("broken: ")]
    return "; ".join(seen) or _above(line)


def _above(line: Leakage) -> str:
    low, bound = words.low_end(line.value.low, digits(line)), words.bound(line.bound, digits(line))
    return f"at least {low}, is above the proved bound {bound}"
