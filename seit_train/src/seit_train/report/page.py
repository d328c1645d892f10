"""From a report on runs to one HTML page that needs nothing else: no network, no scripts.

The template is `runs.html.jinja`; axes, frames and style are those of the report of
a store. The same report gives the same bytes. What is shown, and how, is decided elsewhere.
"""

from pathlib import Path
from typing import Any

from seit_train.report import Report
from seit_train.report.compared import result_of
from tokenstore.report.templates import environment


def render(report: Report) -> str:
    """The page about these runs."""
    results = [result_of(record) for record in report.records]
    metrics = list(dict.fromkeys(name for result in results for name in result.metrics))
    template = environment(Path(__file__).parent).get_template("runs.html.jinja")
    return template.render(
        report=report,
        runs=list(zip(report.records, results, report.looks, strict=True)),
        metrics=metrics,
        main=[curve for curve in report.curves if curve.main],
        others=[curve for curve in report.curves if not curve.main],
    )


def facts(report: Report) -> list[dict[str, Any]]:
    """What the page shows of each run, as JSON."""
    return [
        {
            "run": record.name,
            "task": record.run.config.task,
            "step": record.step,
            "steps": record.steps,
            "best": record.best,
            "last": record.judged_last,
            "sections": {title: dict(found.facts) for title, found in look.found.items()},
            "problems": list(look.problems),
        }
        for record, look in zip(report.records, report.looks, strict=True)
    ]
