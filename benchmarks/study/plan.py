"""The plan of the study: updates of old nets to new ones, methods, candidate weights, and the nets that each needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from study.lenets import BIG, SMALL, Widths
from study.training import ALL, Job

ODD, EVEN = (1, 3, 5, 7, 9), (0, 2, 4, 6, 8)


@dataclass(frozen=True)
class Size:
    """The size of the study.

    rows, iterations  training images and iterations per net; twice the images where data grows
    members           nets per ensemble
    seeds, fewer      pairs of old and new for the first update, and for the others
    candidates        candidate weights per method
    limit             number of images to evaluate on; None: all
    """

    rows: int = 4000
    iterations: int = 400
    members: int = 8
    seeds: int = 5
    fewer: int = 3
    candidates: int = 3
    limit: int | None = None


@dataclass(frozen=True)
class Method:
    """A way to train the new net.

    spec     its loss towards references, where it has one
    weights  the candidates
    share    a: the loss is (1 - a) * task + a * weight * loss; None: task + weight * loss
    longer   multiplies the iterations of the new net
    """

    title: str
    spec: str = ""
    weights: tuple[float, ...] = ()
    share: float | None = None
    longer: int = 1


@dataclass(frozen=True)
class Update:
    """From old nets to a new one."""

    key: str
    title: str
    old_classes: tuple[tuple[int, ...], ...] = (ALL,)
    widths: Widths = SMALL
    more: int = 1
    fused: bool = False
    data: str = "mnist"


NONE, ENSEMBLE, ELODI = Method("none"), Method("ensemble"), Method("ELODI", "elodi", (10, 3, 1))
METHODS = (
    NONE,
    Method("naive", "naive", (1, 2)),
    Method("KD", "kd", (3, 1, 10)),
    Method("FD-KL", "focal", (0.3, 1, 0.1)),
    Method("FD-LM", "focal,distance=l2", (0.3, 1, 0.1)),
    Method("LDI", "ldi", (3, 1, 10)),
    Method("FD-KL, a = 0.8", "focal", (0.3, 1, 0.1), 0.8),
    Method("FD-LM, a = 0.8", "focal,distance=l2", (0.3, 1, 0.1), 0.8),
    Method("LDI, a = 0.8", "ldi", (3, 1, 10), 0.8),
    ELODI,
    Method("CNA", "cna,on=ip1,tau=0.1", (0.1, 0.3)),
    Method("BCT", "bct", (1, 0.3)),
    ENSEMBLE,
)
FOUR = tuple(method for method in METHODS if method.title in ("none", "FD-KL", "FD-LM", "LDI"))
SAME = Update("same", "same architecture")
FUSED = Update("fusion", "odd and even net fused", (ODD, EVEN), fused=True)
OTHERS = (
    Update("bigger", "bigger architecture (16, 32, 128)", widths=BIG),
    Update("data", "twice the data", more=2),
    Update("classes", "eight classes to ten", (ALL[:8],)),
    FUSED,
)
CHOOSING = 5  # the subset for choosing weights


@dataclass(frozen=True)
class Pair:
    """An old net, or several of different classes or as an ensemble, and the new one."""

    old: tuple[Job, ...]
    new: tuple[Job, ...]


def plain(size: Size, update: Update, subset: int, member: int = 0, *, old: bool, split: str = "report") -> list[Job]:
    """Return the plainly trained nets: the old one (or one per set of classes), or the new one."""
    kind = "old" if old else update.key
    common = {"subset": subset, "split": split, "iterations": size.iterations, "limit": size.limit, "data": update.data}
    seed = 1 + 1000 * subset + 100 * (not old) + member
    if old:
        sets = [(f"{kind}{len(c)}{c[0]}", c) for c in update.old_classes]
        return [Job(f"{name}_{subset}_{member}", seed, rows=size.rows, classes=c, **common) for name, c in sets]  # type: ignore[arg-type]
    made = partial(Job, f"{kind}_{subset}_{member}", seed, rows=size.rows * update.more, widths=update.widths)
    if update.fused:
        return [made(bodies=tuple(plain(size, update, subset, old=True, split=split)), **common)]
    return [made(**common)]


def pair(
    size: Size, update: Update, method: Method, weight: float, subset: int, split: str = "report", member: int = 0
) -> Pair:
    """Return the nets that show the effect of a method in an update."""
    make = partial(plain, size, update, subset, split=split)
    old, (new,) = tuple(make(member, old=True)), make(member, old=False)
    if method == NONE:
        return Pair(old, (new,))
    if method == ENSEMBLE:
        numbers = range(size.members)
        return Pair(*(tuple(make(n, old=kind)[0] for n in numbers) for kind in (True, False)))
    if method.longer > 1:
        return Pair(old, (replace(new, name=f"{new.name}_longer", iterations=method.longer * new.iterations),))
    spec = f"{method.spec},weight={weight:g}"
    if method == ELODI:
        members = range(size.members)
        elodi = [
            replace(job, name=f"{job.name}_elodi_{weight:g}", pct=spec,
                    references=tuple(make(n, old=kind)[0] for n in members))
            for job, kind in ((old[0], True), (new, False))
        ]  # fmt: skip
        return Pair((elodi[0],), (elodi[1],))
    name = f"{new.name}_{method.title.replace(', a = ', '_')}_{weight:g}"
    references = () if update.fused else old
    return Pair(old, (replace(new, name=name, pct=spec, kd_alpha=method.share, references=references),))


def fused_candidates(size: Size) -> dict[Method, dict[float, list[Pair]]]:
    """Return the candidates for a new layer on frozen bodies, which needs far smaller weights."""
    return {
        method: {
            weight / 100: [pair(size, FUSED, method, weight / 100, CHOOSING, "selection")]
            for weight in method.weights[: size.candidates] or (0.0,)
        }
        for method in FOUR
    }


def candidates(size: Size) -> dict[Method, dict[float, list[Pair]]]:
    """Return the candidate weights of each method, tried in the first update on a separate subset, with two seeds.

    ELODI, which costs most, is tried with one seed, and with half of the ensemble.
    """
    half = replace(size, members=max(1, size.members // 2))
    return {
        method: {
            weight: [pair(half, SAME, method, weight, CHOOSING, "selection", n) for n in range(1 + (method != ELODI))]
            for weight in method.weights[: size.candidates] or (0.0,)
        }
        for method in METHODS
        if method != ENSEMBLE
    }


def reported(
    size: Size, chosen: Mapping[Method, float], fused: Mapping[Method, float]
) -> dict[tuple[Update, Method], list[Pair]]:
    """Return all pairs of the report, with the weights chosen for most updates and for the fused one."""
    found = {}
    for update in (SAME, *OTHERS):
        methods: Sequence[Method] = METHODS if update == SAME else FOUR
        subsets = range(size.seeds if update == SAME else size.fewer)
        weights = fused if update.fused else chosen
        for method in methods:
            found[update, method] = [pair(size, update, method, weights.get(method, 0.0), s) for s in subsets]
    return found
