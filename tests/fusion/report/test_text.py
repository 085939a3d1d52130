"""The report for the terminal, whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusion import pct
from fusion.report import Budget, check_budget, gather, report_text

# 6 of 8 were right before; Wilson's and Tango's intervals, and relative NFR 0.25 / (0.75 * 0.375).
WHOLE = """\
new against old

           samples  accuracy      NFR  95 % interval      PFR    churn  relative NFR      BTC     p
---------  -------  --------  -------  -------------  -------  -------  ------------  -------  ----
old (old)        8   75.00 %
base             8   50.00 %  37.50 %  13.68–69.43 %  12.50 %  50.00 %       100.0 %  50.00 %  0.62
new              8   62.50 %  25.00 %   7.15–59.07 %  12.50 %  50.00 %        88.9 %  66.67 %  1.00

p: McNemar's exact test, two-sided, that both nets are equally often right.
new forgets 2 of the 6 answers that old had right.
Negative flips: 25.00 % of 8 samples (95 % interval 7.15–59.07 %).
In return 1 answer is right that was wrong before; accuracy on these samples goes from 75.00 % to 62.50 % \
(−12.50 points, interval −52.78 to +32.85 %).
base forgets 3, so new forgets 33 % fewer (NFR −12.50 points, interval −47.09 to +24.00 %; too close to call).

slice     samples  old accuracy  accuracy      NFR  95 % interval      PFR
--------  -------  ------------  --------  -------  -------------  -------
original        4       75.00 %   75.00 %  25.00 %   4.56–69.94 %  25.00 %
noise           4       75.00 %   50.00 %  25.00 %   4.56–69.94 %   0.00 %

Most negative flips by class: ant (0) 1 of 2, cat (2) 1 of 4.

BROKEN: accuracy of base is 50.00 %, at least 60.00 % allowed
BROKEN: NFR of base is 37.50 %, at most 30.00 % allowed
kept: accuracy of new is 62.50 %, at least 60.00 % allowed
kept: NFR of new is 25.00 %, at most 30.00 % allowed
"""


def test_the_whole_report(eight: Sequence[pct.Predictions]) -> None:
    old, base, new = eight
    report = gather(old=[old], new=[base, new])
    assert report_text(report, check_budget(report, Budget(max_nfr=0.3, min_accuracy=0.6))) == WHOLE


def test_classes_are_listed_by_flips_and_only_with_names() -> None:
    labels = np.repeat(np.arange(7), 4)
    keys = [str(number) for number in range(28)]
    lost = [1, 2, 0, 3, 1, 1, 1]
    wrong = np.concatenate([np.arange(4) < count for count in lost])
    old = pct.Predictions(keys, labels, np.eye(7)[labels], meta={"name": "old"})
    new = pct.Predictions(keys, labels, np.eye(7)[(labels + wrong) % 7], meta={"name": "new"})
    named = report_text(gather(old=[old], new=[new], labels=["", "b", "c", "d", "e", "f", "g"])).splitlines()
    expected = "d (3) 3 of 4, b (1) 2 of 4, 0 (0) 1 of 4, e (4) 1 of 4, f (5) 1 of 4"
    assert named[-1] == f"Most negative flips by class: {expected}."
    assert "Most negative flips" not in report_text(gather(old=[old], new=[new]))
    assert "Most negative flips" not in report_text(gather(old=[new], new=[old], labels=["a", "b", "c"]))
