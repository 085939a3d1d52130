"""The new net against its originals, as text, as JSON and as a page that a person enjoys reading.

found = gather(old=[odd, even], new=[plain, focal])
checks = check(found, Budget(max_nfr=0.005))
print(text(found, checks)); Path("report.html").write_text(page(found, checks, Album(Path("images"))))
"""

from __future__ import annotations

from fusion.report.curves import Curve, read_log
from fusion.report.figures import figures, to_json
from fusion.report.gate import Budget, Check, check, rate, read_budget
from fusion.report.images import Album
from fusion.report.page import page
from fusion.report.report_data import Report, gather
from fusion.report.text import to_text

__all__ = [
    "Album",
    "Budget",
    "Check",
    "Curve",
    "Report",
    "check",
    "figures",
    "gather",
    "page",
    "rate",
    "read_budget",
    "read_log",
    "to_json",
    "to_text",
]
