"""Weights chosen by what the net says to its own validation data: a greedy soup, a point within a budget of flips."""

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
    """The greedy soup of these weights; says which of them are in it. Raises: FusionError, PrototxtError, OSError."""
    answers = _answering(net, logits)
    scores: list[float] = []

    def score(weights: Weights) -> float:
        scores.append(accuracy(answers(weights)) or 0.0)
        return scores[-1]

    outcome, chosen = greedy_soup([read_weights(path) for path in files], score)
    alone = ", ".join(f"{path} {value:.4f}" for path, value in zip(files, scores, strict=False))
    print(f"accuracy alone: {alone}", file=sys.stderr)
    print(f"averaged {', '.join(files[index] for index in chosen)}", file=sys.stderr)
    return outcome


def within(net: str, old: str, new: str, max_nfr: float, logits: str | None) -> SurgeryResult:
    """The most accurate point between two nets that unlearns at most this share of what the old one knew.

    Raises: ReportError when no point does; FusionError, PrototxtError, OSError.
    """
    first, last = read_weights(old), read_weights(new)
    answers = _answering(net, logits)
    shares = [index / (_POINTS - 1) for index in range(_POINTS)]
    found = {share: answers(interpolate(first, last, share).weights) for share in shares}
    best = within_budget(found, old=found[0.0], max_nfr=max_nfr)
    for share, said in found.items():
        flips = negative_flip_rate(old=found[0.0], new=said) or 0.0
        mark = " <- taken" if share == best else ""
        line = f"share {share:.1f}: accuracy {accuracy(said) or 0:.4f}, negative flip rate {flips:.4f}{mark}"
        print(line, file=sys.stderr)
    return interpolate(first, last, best)


def _answering(net: str, logits: str | None) -> Callable[[Weights], Predictions]:
    """What the net says to its validation data, as a function of its weights. Raises: FusionError."""
    from fusion.composition.branches import scores_blob
    from fusion.composition.net_text import read_net
    from fusion.nets.weights import load_weights
    from fusion.solver.evaluate import open_evaluation
    from prototxt.edit.upgrade_text import upgrade_text
    from prototxt.text.parser import parse_file

    blob = logits or scores_blob(read_net(upgrade_text(parse_file(net), strict=False)))
    if blob is None:
        raise FusionError("which blob holds the class scores is not clear", place=net, hint="name it: --logits ip2")
    evaluation = open_evaluation(net, [])

    def answers(weights: Weights) -> Predictions:
        load_weights(evaluation.job.net, weights)
        return evaluation.predict(blob)

    return answers
