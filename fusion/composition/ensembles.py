"""The sources' own class scores as one net's: a plain ensemble over a label map, with nothing to train."""

from __future__ import annotations

from collections.abc import Sequence

from fusion.composition.features import HeadRequest
from fusion.composition.net_text import layer_text
from fusion.errors import ComposeError

_LOG_FLOOR = "log_param { shift: 1e-20 }"  # a probability of 0 would become -inf, and an average of those NaN


def average_scores(request: HeadRequest) -> str:
    """Average the sources' own log-probabilities, each class over the sources that know it; nothing is trained.

    Runs of classes that the same sources know in the same order are sliced out, averaged, and put together again.
    """
    _check_scores(request)
    owners = [
        tuple((prefix, classes.index(number)) for prefix, (_, classes) in request.scores.items() if number in classes)
        for number in range(request.num_output)
    ]
    runs = _runs(owners)
    text = []
    pieces: dict[tuple[str, int], str] = {}
    for prefix, (blob, _) in request.scores.items():
        text += [
            layer_text(f"{prefix}_prob", "Softmax", [blob], [f"{prefix}_prob"]),
            layer_text(f"{prefix}_log_prob", "Log", [f"{prefix}_prob"], [f"{prefix}_log_prob"], _LOG_FLOOR),
        ]
        starts = sorted({position for run in runs for owner, position in owners[run[0]] if owner == prefix} | {0})
        if len(starts) == 1:
            pieces[prefix, 0] = f"{prefix}_log_prob"
            continue
        for start in starts:
            pieces[prefix, start] = f"{prefix}_from_{start}"
        body = "\n".join(["slice_param {", "  axis: 1", *(f"  slice_point: {start}" for start in starts[1:]), "}"])
        text.append(
            layer_text(f"{prefix}_slice", "Slice", [f"{prefix}_log_prob"], [pieces[prefix, s] for s in starts], body)
        )
    columns = []
    for first, last in runs:
        blobs = [pieces[owner] for owner in owners[first]]
        if len(blobs) > 1:
            share = [f"  coeff: {1 / len(blobs):.9g}"] * len(blobs)
            name = f"classes_{first}_{last}"
            body = "\n".join(["eltwise_param {", "  operation: SUM", *share, "}"])
            text.append(layer_text(name, "Eltwise", blobs, [name], body))
            blobs = [name]
        columns += blobs
    text.append(layer_text(request.classifier, "Concat", columns, [request.classifier], "concat_param { axis: 1 }"))
    return "\n".join(text)


def _check_scores(request: HeadRequest) -> None:
    known = {number for _, classes in request.scores.values() for number in classes}
    missing = sorted(set(range(request.num_output)) - known)
    if missing:
        raise ComposeError(
            f"head 'logits': no source knows these classes: {', '.join(map(str, missing))}",
            hint="say which fused classes each source's scores stand for: --classes odd=1,3,5,7,9",
        )


def _runs(owners: Sequence[tuple[tuple[str, int], ...]]) -> list[tuple[int, int]]:
    """First and last class of each run over which all owners' positions advance together."""
    runs: list[tuple[int, int]] = []
    for number, current in enumerate(owners):
        follows = runs and tuple((prefix, position - 1) for prefix, position in current) == owners[number - 1]
        if follows:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
