"""One report: all scores of all cases, with what varies and what was missed.

report         score cases, one after the other
Case           what is scored: a prediction, its reference, and whose they are
Report         rows, means and intervals, as text, table, CSV, JSON and figures
load_report    a report that was written as JSON
compare        two reports on the same cases: differences, tests, corrections
Comparison     what it returns
METRICS        the scores that can be asked for
"""

from medseg.report._build import report
from medseg.report._cases import METRICS, Case, Metric
from medseg.report._compare import ComparedScore, Comparison, compare
from medseg.report._report import Report, load_report

__all__ = [  # noqa: RUF022 - by subject
    "report",
    "Case",
    "METRICS",
    "Metric",
    "Report",
    "load_report",
    "compare",
    "Comparison",
    "ComparedScore",
]
