"""Weights chosen on the net's own validation data: a greedy soup, or a point within a limit of negative flips."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from fusion.errors import FusionError
from fusion.pct import Predictions, accuracy, negative_flip_rate, within_budget
from fusion.surgery.average_weights import greedy_soup, interpolate
from fusion.surgery.result import SurgeryResult, Weights
from prototxt.formats.weights import read_weights

_POINTS = 11


def soup(net: str, files: Sequence[str], logits: str | None) -> SurgeryResult:
    """Return the greedy soup of these weights and print its members. Raises: FusionError, PrototxtError, OSError."""
    predict = _predictor(net, logits)
    scores: list[float] = []

    def score(weights: Weights) -> float:
        scores.append(accuracy(predict(weights)) or 0.0)
        return scores[-1]

    outcome, chosen = greedy_soup([read_weights(path) for path in files], score)
    alone = ", ".join(f"{path} {value:.4f}" for path, value in zip(files, scores, strict=False))
    print(f"accuracy alone: {alone}", file=sys.stderr)
    print(f"averaged {', '.join(files[index] for index in chosen)}", file=sys.stderr)
    return outcome


def within(net: str, old: str, new: str, max_nfr: float, logits: str | None) -> SurgeryResult:
    """Return the most accurate point between two nets with a negative flip rate of at most `max_nfr`.

    Raises: ReportError if no point has; FusionError, PrototxtError, OSError.
    """
    first, last = read_weights(old), read_weights(new)
    predict = _predictor(net, logits)
    shares = [index / (_POINTS - 1) for index in range(_POINTS)]
    found = {share: predict(interpolate(first, last, share).weights) for share in shares}
    best = within_budget(found, old=found[0.0], max_nfr=max_nfr)
    for share, predictions in found.items():
        flips = negative_flip_rate(old=found[0.0], new=predictions) or 0.0
        mark = " <- chosen" if share == best else ""
        line = f"share {share:.1f}: accuracy {accuracy(predictions) or 0:.4f}, negative flip rate {flips:.4f}{mark}"
        print(line, file=sys.stderr)
    return interpolate(first, last, best)


def _predictor(net: str, logits: str | None) -> Callable[[Weights], Predictions]:
    """Return a function from weights to the net's predictions on its validation data. Raises: FusionError."""
    from fusion.composition.branches import last_scores_blob
    from fusion.composition.net_text import read_net
    from fusion.nets.weights import load_weights
    from fusion.solver.evaluate import open_evaluation
    from prototxt.edit.upgrade_text import upgrade_text
    from prototxt.text.parser import parse_file

    blob = logits or last_scores_blob(read_net(upgrade_text(parse_file(net), strict=False)))
    if blob is None:
        raise FusionError("cannot determine the blob with the class scores", place=net, hint="name it: --logits ip2")
    evaluation = open_evaluation(net, [])  # opened once; only its weights change

    def predict(weights: Weights) -> Predictions:
        load_weights(evaluation.job.net, weights)
        return evaluation.predict(blob)

    return predict
