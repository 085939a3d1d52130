"""The new net compared with its originals: as text, as JSON and as an HTML page.

found = gather(old=[odd, even], new=[plain, focal])
checks = check_budget(found, Budget(max_nfr=0.005))
print(report_text(found, checks)); Path("report.html").write_text(page(found, checks, Album(Path("images"))))
"""

from __future__ import annotations

from fusion.report.curves import Curve, read_log
from fusion.report.figures import figures, report_json
from fusion.report.gate import Budget, Check, check_budget, parse_rate, read_budget
from fusion.report.images import Album
from fusion.report.page import page
from fusion.report.report_data import FlipReport, gather
from fusion.report.text import report_text

__all__ = [
    "Album",
    "Budget",
    "Check",
    "Curve",
    "FlipReport",
    "check_budget",
    "figures",
    "gather",
    "page",
    "parse_rate",
    "read_budget",
    "read_log",
    "report_json",
    "report_text",
]
