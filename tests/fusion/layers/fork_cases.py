"""One case or more for every layer type of the forks: a layer, inputs, and its numbers by plain loops in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Arrays = Sequence[np.ndarray]
Reference = Callable[[Arrays, Arrays], list[np.ndarray]]


@dataclass(frozen=True)
class Case:
    """A layer of `kind`, what it gets, and what it gives.

    text       the fields of the layer but for name, bottoms and tops
    inputs     the bottoms in order
    reference  bottoms and parameters to tops
    free       indices of the bottoms that gradients reach
    derivative whether gradients are derivatives (otherwise a test of its own holds them to the fork's rule)
    dynamic    why torch.compile and torch.export cannot take it as one graph, or ""
    """

    kind: str
    text: str
    inputs: tuple[np.ndarray, ...]
    reference: Reference
    free: tuple[int, ...] = (0,)
    tops: int = 1
    phase: str = "TEST"
    derivative: bool = True
    params: tuple[np.ndarray, ...] | None = None
    dynamic: str = ""
    label: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.label}".strip()

    @property
    def net(self) -> str:
        inputs = "".join(
            f'layer {{ name: "b{i}" type: "Input" top: "b{i}" input_param {{ shape {{ '
            + " ".join(f"dim: {dim}" for dim in array.shape)
            + " } } }\n"
            for i, array in enumerate(self.inputs)
        )
        bottoms = " ".join(f'bottom: "b{i}"' for i in range(len(self.inputs)))
        tops = " ".join(f'top: "t{i}"' for i in range(self.tops))
        return f'{inputs}layer {{ name: "own" type: "{self.kind}" {bottoms} {tops} {self.text} }}\n'


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return rng(seed).standard_normal(shape)


def conv_by_channel(b: Arrays, p: Arrays) -> list[np.ndarray]:
    (x,), (w, bias) = b, p
    per = w.shape[0] // x.shape[1]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y = np.zeros((x.shape[0], w.shape[0], x.shape[2], x.shape[3]))
    for n, o, i, j in np.ndindex(y.shape):
        y[n, o, i, j] = (padded[n, o // per, i : i + 3, j : j + 3] * w[o, 0]).sum() + bias[o]
    return [y]


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


def shuffle(b: Arrays, p: Arrays) -> list[np.ndarray]:
    (x,) = b
    y = np.empty_like(x)
    for c in range(6):
        group, member = divmod(c, 2)
        y[:, member * 3 + group] = x[:, c]
    return [y]


def reverse_marked(b: Arrays, p: Arrays) -> list[np.ndarray]:
    x, cont = b
    y = np.zeros_like(x)
    for n in range(x.shape[1]):
        length = max(np.flatnonzero(cont[:, n]), default=0) + 1
        y[:length, n] = x[:length, n][::-1]
    return [y]


def reorg(x: np.ndarray, s: int, back: bool) -> np.ndarray:
    """darknet's loops, over a blob seen as [C, H, W] of the bottom."""
    num, c, h, w = x.shape
    few = c // s**2
    flat, out = x.reshape(num, -1), np.empty((num, c * h * w))
    for b, k, j, i in np.ndindex(num, c, h, w):
        off, c2 = divmod(k, few)
        here = i + w * (j + h * k)
        there = i * s + off % s + w * s * (j * s + off // s + h * s * c2)
        if back:
            out[b, there] = flat[b, here]
        else:
            out[b, here] = flat[b, there]
    return out.reshape((num, few, h * s, w * s) if back else (num, c * s**2, h // s, w // s))


def interp(x: np.ndarray, height: int, width: int) -> np.ndarray:
    y = np.empty((*x.shape[:2], height, width))
    for i, j in np.ndindex(height, width):
        v = i * (x.shape[2] - 1) / (height - 1) if height > 1 else 0.0
        u = j * (x.shape[3] - 1) / (width - 1) if width > 1 else 0.0
        i0, j0 = min(int(v), x.shape[2] - 1), min(int(u), x.shape[3] - 1)
        i1, j1 = min(i0 + 1, x.shape[2] - 1), min(j0 + 1, x.shape[3] - 1)
        a, c = v - i0, u - j0
        y[:, :, i, j] = (1 - a) * ((1 - c) * x[:, :, i0, j0] + c * x[:, :, i0, j1]) + a * (
            (1 - c) * x[:, :, i1, j0] + c * x[:, :, i1, j1]
        )
    return y


def scatter(height: int, width: int) -> Reference:
    def reference(b: Arrays, p: Arrays) -> list[np.ndarray]:
        x, mask = b
        y = np.zeros((*x.shape[:2], height * width))
        for n, c, i, j in np.ndindex(x.shape):
            y[n, c, int(mask[n, c, i, j])] = x[n, c, i, j]
        return [y.reshape(*x.shape[:2], height, width)]

    return reference


def masks(n: int, c: int, h: int, w: int) -> np.ndarray:
    """A place in each 2 x 2 window of a map of 2 h x 2 w."""
    y = np.empty((n, c, h, w))
    draw = rng(3).integers(0, 2, (2, n, c, h, w))
    for at in np.ndindex(n, c, h, w):
        y[at] = (2 * at[2] + draw[0][at]) * 2 * w + 2 * at[3] + draw[1][at]
    return y


def unpool(method: str) -> Reference:
    def reference(b: Arrays, p: Arrays) -> list[np.ndarray]:
        (x,) = b
        y = np.zeros((*x.shape[:2], 5, 7))
        for i, j in np.ndindex(x.shape[2:]):
            if method == "MAX":
                y[:, :, min(2 * i, 4), min(2 * j, 6)] = x[:, :, i, j]
                continue
            window = y[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            window += x[:, :, i : i + 1, j : j + 1] / (window[0, 0].size if method == "AVE" else 1)
        return [y]

    return reference


def batch_norm(x: np.ndarray, slope: np.ndarray, bias: np.ndarray, eps: float) -> list[np.ndarray]:
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    return [(x - mean) / np.sqrt(var + eps) * slope + bias, mean, var]


def bn_stored(eps: float) -> Reference:
    return lambda b, p: [(b[0] - p[2]) / np.sqrt(p[3] + eps) * p[0] + p[1]]


STATISTICS = (
    normal(1, 3, 1, 1, seed=5),
    normal(1, 3, 1, 1, seed=6),
    normal(1, 3, 1, 1, seed=7),
    np.abs(normal(1, 3, 1, 1, seed=8)) + 0.5,
)


def unit(axes: tuple[int, ...], eps: float = 0.0, scaled: bool = False) -> Reference:
    def reference(b: Arrays, p: Arrays) -> list[np.ndarray]:
        x = b[0] / np.sqrt((b[0] ** 2).sum(axes, keepdims=True) + eps)
        return [x * p[0].reshape(1, -1, 1, 1)] if scaled else [x]

    return reference


def c_round(x: float) -> int:
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def roi_pool(scale: float, down: int, across: int) -> Reference:
    def reference(b: Arrays, p: Arrays) -> list[np.ndarray]:
        x, boxes = b
        y = np.zeros((len(boxes), x.shape[1], down, across))
        for r, i, j in np.ndindex(len(boxes), down, across):
            x1, y1, x2, y2 = (c_round(v * scale) for v in boxes[r, 1:])
            high, wide = max(y2 - y1 + 1, 1) / down, max(x2 - x1 + 1, 1) / across
            top, bottom = (
                min(max(math.floor(i * high) + y1, 0), x.shape[2]),
                min(max(math.ceil((i + 1) * high) + y1, 0), x.shape[2]),
            )
            left, right = (
                min(max(math.floor(j * wide) + x1, 0), x.shape[3]),
                min(max(math.ceil((j + 1) * wide) + x1, 0), x.shape[3]),
            )
            cell = x[int(boxes[r, 0]), :, top:bottom, left:right]
            y[r, :, i, j] = cell.max((1, 2)) if cell.size else 0
        return [y]

    return reference


def psroi_pool(scale: float, size: int, group: int) -> Reference:
    def reference(b: Arrays, p: Arrays) -> list[np.ndarray]:
        x, boxes = b
        y = np.zeros((len(boxes), size, group, group))
        for r, d, i, j in np.ndindex(y.shape):
            x1, y1 = (c_round(v) * scale for v in boxes[r, 1:3])
            x2, y2 = ((c_round(v) + 1) * scale for v in boxes[r, 3:])
            high, wide = max(y2 - y1, 0.1) / group, max(x2 - x1, 0.1) / group
            top, bottom = (
                np.clip(v, 0, x.shape[2]) for v in (math.floor(i * high + y1), math.ceil((i + 1) * high + y1))
            )
            left, right = (
                np.clip(v, 0, x.shape[3]) for v in (math.floor(j * wide + x1), math.ceil((j + 1) * wide + x1))
            )
            cell = x[int(boxes[r, 0]), (d * group + i) * group + j, top:bottom, left:right]
            y[r, d, i, j] = cell.mean() if cell.size else 0
        return [y]

    return reference


BOXES = np.array([[0, 1, 2, 14, 12], [1, 0, 0, 5, 5], [1, 10, 3, 40, 9], [0, 7, 7, 7, 7], [0, 30, 30, 40, 40]], float)


def smooth_l1(sigma: float) -> Reference:
    def reference(b: Arrays, p: Arrays) -> list[np.ndarray]:
        x, t, inside, outside = b
        total = 0.0
        for at in np.ndindex(x.shape):
            d = inside[at] * (x[at] - t[at])
            f = 0.5 * sigma**2 * d * d if abs(d) < 1 / sigma**2 else abs(d) - 0.5 / sigma**2
            total += outside[at] * f
        return [np.array(total / x.shape[0])]

    return reference


def centre(b: Arrays, p: Arrays) -> list[np.ndarray]:
    x, label = b
    return [np.array(sum(((x[n] - p[0][int(label[n])]) ** 2).sum() for n in range(len(x))) / 2 / len(x))]


def ctc(x: np.ndarray, target: Sequence[int], blank: int) -> float:
    """-log of the summed probability of all paths that collapse to the target, one by one."""
    e = np.exp(x - x.max(1, keepdims=True))
    prob = e / e.sum(1, keepdims=True)
    total = 0.0
    for path in np.ndindex(*[x.shape[1]] * x.shape[0]):
        merged = [s for t, s in enumerate(path) if t == 0 or s != path[t - 1]]
        if [s for s in merged if s != blank] == list(target):
            total += float(np.prod([prob[t, s] for t, s in enumerate(path)]))
    return -math.log(total)


def ctc_padded(blank: int) -> Reference:
    def reference(b: Arrays, p: Arrays) -> list[np.ndarray]:
        x, label = b
        losses = [ctc(x[:, n], [int(v) for v in label[n] if v != blank], blank) for n in range(x.shape[1])]
        return [np.array(np.mean(losses))]

    return reference


def ctc_marked(b: Arrays, p: Arrays) -> list[np.ndarray]:
    x, cont, label = b
    losses = []
    for n in range(x.shape[1]):
        time = next((t for t in range(1, len(cont)) if cont[t, n] == 0), len(cont))
        losses.append(ctc(x[:time, n], [int(v) for v in label[:, n] if v >= 0], x.shape[2] - 1))
    return [np.array(np.mean(losses))]


def lstm(marked: bool) -> Reference:
    def reference(b: Arrays, p: Arrays) -> list[np.ndarray]:
        x, (wx, wh, bias) = b[0], p
        size = wh.shape[1]
        h = c = np.zeros((x.shape[1], size))
        out = []
        for t in range(len(x)):
            cont = b[1][t][:, None] if marked else np.full((x.shape[1], 1), float(t > 0))
            g = x[t] @ wx.T + bias + cont * (h @ wh.T)
            i, f, o = (1 / (1 + np.exp(-g[:, k * size : (k + 1) * size])) for k in range(3))
            c = cont * f * c + i * np.tanh(g[:, 3 * size :])
            h = o * np.tanh(c)
            out.append(h)
        return [np.stack(out)]

    return reference


def spelt(b: Arrays, p: Arrays) -> list[np.ndarray]:
    x, label = b
    hits = []
    for row, want in zip(x.argmax(2), label, strict=True):
        said = [s for t, s in enumerate(row) if (t == 0 or s != row[t - 1]) and s != 2]
        hits.append(said == [v for v in want if v != 2])
    return [np.array(np.mean(hits))]


def one_hot_rows(rows: list[list[int]], classes: int) -> np.ndarray:
    return np.eye(classes)[np.array(rows)] + 0.01 * normal(len(rows), len(rows[0]), classes)


def margin(m: int) -> Reference:
    """psi(theta) = (-1)^k cos(m theta) - 2 k with k = floor(m theta / pi), lambda after one call."""

    def reference(b: Arrays, p: Arrays) -> list[np.ndarray]:
        x, label = b
        w = p[0] / np.linalg.norm(p[0], axis=1, keepdims=True)
        mix = max(10 * (1 + 0.5 * 1) ** -1.0, 2.0)
        y = x @ w.T
        if m > 1:
            for n in range(len(x)):
                k = int(label[n])
                length = np.linalg.norm(x[n])
                theta = math.acos(y[n, k] / length)
                turn = math.floor(m * theta / math.pi)
                psi = (-1) ** turn * math.cos(m * theta) - 2 * turn
                y[n, k] = (mix * y[n, k] + length * psi) / (1 + mix)
        return [y, np.array([mix])]

    return reference


def prior_boxes(b: Arrays, p: Arrays) -> list[np.ndarray]:
    height, width = b[1].shape[2:]
    out = []
    for i, j in np.ndindex(b[0].shape[2:]):
        cx, cy = (j + 0.5) * width / b[0].shape[3], (i + 0.5) * height / b[0].shape[2]
        sizes = [
            (8, 8),
            (math.sqrt(8 * 14),) * 2,
            (8 * math.sqrt(2), 8 / math.sqrt(2)),
            (8 / math.sqrt(2), 8 * math.sqrt(2)),
        ]
        for w, h in sizes:
            out += [(cx - w / 2) / width, (cy - h / 2) / height, (cx + w / 2) / width, (cy + h / 2) / height]
    boxes = np.clip(out, 0, 1)
    return [np.stack([boxes, np.tile([0.1, 0.1, 0.2, 0.2], len(boxes) // 4)])[None]]


def iou(a: np.ndarray, b: np.ndarray, one: float = 0.0) -> float:
    w, h = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) + one for k in (0, 1))
    if w <= 0 or h <= 0:
        return 0.0
    return float(
        w * h / ((a[2] - a[0] + one) * (a[3] - a[1] + one) + (b[2] - b[0] + one) * (b[3] - b[1] + one) - w * h)
    )


def decode(code: np.ndarray, prior: np.ndarray, var: np.ndarray) -> np.ndarray:
    w, h = prior[2] - prior[0], prior[3] - prior[1]
    cx, cy = var[0] * code[0] * w + (prior[0] + prior[2]) / 2, var[1] * code[1] * h + (prior[1] + prior[3]) / 2
    w, h = math.exp(var[2] * code[2]) * w, math.exp(var[3] * code[3]) * h
    return np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])


def nms(boxes: list[np.ndarray], threshold: float, one: float = 0.0) -> list[int]:
    kept: list[int] = []
    for k, box in enumerate(boxes):
        if all(iou(box, boxes[other], one) <= threshold for other in kept):
            kept.append(k)
    return kept


PRIORS = np.stack(
    [
        np.array(
            [
                [0.1, 0.1, 0.3, 0.3],
                [0.12, 0.1, 0.32, 0.3],
                [0.5, 0.5, 0.9, 0.8],
                [0.4, 0.5, 0.9, 0.9],
                [0.0, 0.6, 0.3, 1.0],
                [0.6, 0.1, 0.8, 0.4],
            ]
        ),
        np.tile([0.1, 0.1, 0.2, 0.2], (6, 1)),
    ]
)


def detections(b: Arrays, p: Arrays) -> list[np.ndarray]:
    loc, conf = b[0].reshape(-1, 6, 4), b[1].reshape(-1, 6, 3)
    rows = []
    for n in range(len(loc)):
        boxes = [decode(loc[n, k], PRIORS[0, k], PRIORS[1, k]) for k in range(6)]
        own = []
        for c in (1, 2):
            order = [k for k in np.argsort(-conf[n, :, c], kind="stable") if conf[n, k, c] > 0.1][:5]
            own += [(c, conf[n, order[k], c], boxes[order[k]]) for k in nms([boxes[k] for k in order], 0.45)]
        best = sorted(own, key=lambda row: -row[1])[:4]
        rows += [[n, c, s, *box] for c, s, box in sorted(best, key=lambda row: row[0])]
    return [np.array(rows)[None, None]]


TRUTH = np.array(
    [
        [0, 1, 0, 0.11, 0.1, 0.31, 0.3, 0],
        [0, 2, 1, 0.45, 0.5, 0.9, 0.85, 0],
        [1, 2, 0, 0.0, 0.62, 0.28, 1.0, 0],
        [-1] * 8,
    ],
    float,
)


def multibox(b: Arrays, p: Arrays) -> list[np.ndarray]:
    loc, conf = b[0].reshape(-1, 6, 4), b[1].reshape(-1, 6, 3)
    where = what = 0.0
    matches = 0
    for n in range(len(loc)):
        things = [row for row in b[3].reshape(-1, 8) if row[0] == n]
        table = {(k, g): iou(PRIORS[0, k], t[3:7]) for k in range(6) for g, t in enumerate(things)}
        best = [max((table[k, g] for g in range(len(things))), default=0.0) for k in range(6)]
        matched, pool = [-1] * 6, set(range(len(things)))
        while pool:
            k, g = max(((k, g) for k in range(6) for g in pool if matched[k] < 0), key=lambda kg: table[kg])
            if table[k, g] <= 1e-6:
                break
            matched[k] = g
            pool.remove(g)
        for k in range(6):
            if matched[k] < 0 and best[k] >= 0.5:
                matched[k] = max(range(len(things)), key=lambda g: table[k, g])
        label = [int(things[m][1]) if m >= 0 else 0 for m in matched]
        losses = [-(conf[n, k, label[k]] - math.log(np.exp(conf[n, k]).sum())) for k in range(6)]
        for k in range(6):
            if matched[k] < 0:
                continue
            matches += 1
            what += losses[k]
            t, q = things[matched[k]][3:7], PRIORS[0, k]
            size = q[2:] - q[:2]
            code = np.concatenate(
                [((t[:2] + t[2:]) / 2 - (q[:2] + q[2:]) / 2) / size / 0.1, np.log((t[2:] - t[:2]) / size) / 0.2]
            )
            for d in np.abs(loc[n, k] - code):
                where += 0.5 * d * d if d < 1 else d - 0.5
        free = sorted((losses[k] for k in range(6) if matched[k] < 0 and best[k] < 0.5), reverse=True)
        if things:
            what += sum(free[: sum(m >= 0 for m in matched)])
    return [np.array((where + what) / max(matches, 1))]


def proposals(b: Arrays, p: Arrays) -> list[np.ndarray]:
    score, move, info = b
    anchors = [np.array([-8.0, -8, 23, 23]), np.array([-24.0, -24, 39, 39])]  # ratio 1, scales 2 and 4, base 16
    found = []
    for i, j, k in np.ndindex(score.shape[2], score.shape[3], 2):
        box = anchors[k] + 16 * np.array([j, i, j, i])
        w, h = box[2] - box[0] + 1, box[3] - box[1] + 1
        dx, dy, dw, dh = move[0, 4 * k : 4 * k + 4, i, j]
        cx, cy = dx * w + box[0] + w / 2, dy * h + box[1] + h / 2
        w, h = math.exp(dw) * w, math.exp(dh) * h
        edges = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        edges = np.clip(edges, 0, [info[0, 1] - 1, info[0, 0] - 1] * 2)
        large = edges[2] - edges[0] + 1 >= 8 * info[0, 2] and edges[3] - edges[1] + 1 >= 8 * info[0, 2]
        found.append((score[0, 2 + k, i, j] * large, edges))
    found.sort(key=lambda row: -row[0])
    kept = nms([edges for _, edges in found], 0.5, one=1.0)[:5]
    return [np.array([[0, *found[k][1]] for k in kept]), np.array([[found[k][0]] for k in kept])]


X = normal(2, 6, 4, 4)
LABELS = np.array([[1, 0, 2], [1, 1, 2]], float)
TEXTS = one_hot_rows([[0, 2, 1, 1], [1, 2, 2, 0]], 3)
SCORES = normal(4, 2, 3, seed=11)
CODES, CONFIDENCES = 0.3 * normal(2, 24, seed=12), np.abs(normal(2, 18, seed=13))
DATA = "how many boxes come out depends on the data"
LENGTHS = "the lengths of the labels depend on the data"

CASES = [
    *(
        Case(kind, "convolution_param { num_output: 12 kernel_size: 3 pad: 1 }", (X,), conv_by_channel)
        for kind in ("ConvolutionDepthwise", "DepthwiseConvolution", "ConvolutionDepthWise")
    ),
    Case("ReLU6", "", (4 * X,), lambda b, p: [np.clip(b[0], 0, 6)]),
    Case("Mish", "", (X,), lambda b, p: [b[0] * np.tanh(softplus(b[0]))]),
    Case("HardSigmoid", "", (2 * X,), lambda b, p: [np.clip(b[0] / 6 + 0.5, 0, 1)]),
    Case("HardSwish", "", (2 * X,), lambda b, p: [b[0] * np.clip(b[0] / 6 + 0.5, 0, 1)]),
    Case("SpatialDropout", "", (X,), lambda b, p: [b[0]]),
    Case(
        "Axpy",
        "",
        (normal(2, 6, 1, 1, seed=1), X, normal(2, 6, 4, 4, seed=2)),
        lambda b, p: [b[0] * b[1] + b[2]],
        (0, 1, 2),
    ),
    Case("ShuffleChannel", "shuffle_channel_param { group: 3 }", (X,), shuffle),
    Case("Permute", "permute_param { order: 0 order: 2 order: 3 }", (X,), lambda b, p: [b[0].transpose(0, 2, 3, 1)]),
    Case(
        "Transpose", "transpose_param { dim: 3 dim: 1 dim: 0 dim: 2 }", (X,), lambda b, p: [b[0].transpose(3, 1, 0, 2)]
    ),
    Case("Reverse", "reverse_param { axis: 1 }", (X,), lambda b, p: [b[0][:, ::-1]]),
    Case(
        "Reverse",
        "",
        (normal(4, 3, 2), np.array([[0, 0, 0], [1, 1, 1], [1, 0, 1], [1, 0, 0.0]])),
        reverse_marked,
        label="marked",
    ),
    Case("Reorg", "reorg_param { stride: 2 }", (normal(2, 8, 4, 6),), lambda b, p: [reorg(b[0], 2, False)]),
    Case(
        "Reorg",
        "reorg_param { stride: 2 reverse: true }",
        (normal(2, 8, 4, 6),),
        lambda b, p: [reorg(b[0], 2, True)],
        label="back",
    ),
    Case("Interp", "interp_param { height: 7 width: 5 }", (X,), lambda b, p: [interp(b[0], 7, 5)]),
    Case(
        "Interp",
        "interp_param { zoom_factor: 3 shrink_factor: 2 pad_beg: -1 }",
        (normal(1, 2, 6, 8),),
        lambda b, p: [interp(b[0][:, :, 1:, 1:], 7, 10)],
        label="factors",
    ),
    Case("Interp", "", (X, normal(1, 1, 3, 9)), lambda b, p: [interp(b[0], 3, 9)], label="like"),
    Case("Upsample", "upsample_param { scale: 2 }", (X, masks(2, 6, 4, 4)), scatter(8, 8)),
    Case(
        "Upsample",
        "upsample_param { upsample_h: 9 upsample_w: 8 }",
        (X, masks(2, 6, 4, 4)),
        scatter(9, 8),
        label="sized",
    ),
    Case(
        "Upsample", "upsample_param { scale: 3 }", (X,), lambda b, p: [b[0].repeat(3, 2).repeat(3, 3)], label="nearest"
    ),
    Case(
        "Unpooling",
        "unpooling_param { kernel_size: 2 stride: 2 unpool_size: 8 }",
        (X, masks(2, 6, 4, 4)),
        scatter(8, 8),
    ),
    *(
        Case(
            "Unpooling",
            f"unpooling_param {{ unpool: {m} kernel_size: 3 stride: 2 unpool_h: 5 unpool_w: 7 }}",
            (normal(1, 2, 2, 3),),
            unpool(m),
            label=m,
        )
        for m in ("MAX", "AVE", "TILE")
    ),
    Case("BN", "", (normal(4, 3, 2, 2),), lambda b, p: batch_norm(b[0], *p, 1e-9), tops=3, label="SegNet"),
    Case(
        "BN",
        "bn_param { bn_mode: INFERENCE }",
        (normal(4, 3, 2, 2),),
        lambda b, p: [b[0] * p[0] + p[1]],
        label="absorbed",
    ),
    Case(
        "BN",
        "bn_param { slope_filler { type: 'constant' value: 1 } frozen: true }",
        (normal(4, 3, 2, 2),),
        bn_stored(1e-5),
        phase="TRAIN",
        params=STATISTICS,
        label="frozen",
    ),
    Case(
        "BN",
        "bn_param { momentum: 0.9 eps: 0.01 }",
        (normal(4, 3, 2, 2),),
        lambda b, p: batch_norm(b[0], p[0], p[1], 0.01)[:1],
        phase="TRAIN",
        params=STATISTICS,
        label="PSPNet TRAIN",
    ),
    Case(
        "BN",
        "bn_param { moving_average: true }",
        (normal(4, 3, 2, 2),),
        bn_stored(1e-10),
        params=STATISTICS,
        label="moving",
    ),
    Case(
        "Normalize",
        "norm_param { across_spatial: false channel_shared: false scale_filler { type: 'constant' value: 20 } }",
        (X,),
        unit((1,), 1e-10, scaled=True),
    ),
    Case(
        "Normalize", "norm_param { eps: 0.1 }", (X,), lambda b, p: [unit((1, 2, 3), 0.1)(b, p)[0] * p[0]], label="whole"
    ),
    Case("L2Normalization", "", (X,), unit((1, 2, 3))),
    Case("L2Normalize", "", (X,), unit((1, 2, 3), 1e-7)),
    Case("L2Norm", "", (X,), unit((1,))),
    Case(
        "ROIPooling",
        "roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.25 }",
        (normal(2, 3, 6, 8), BOXES),
        roi_pool(0.25, 2, 3),
    ),
    Case(
        "PSROIPooling",
        "psroi_pooling_param { spatial_scale: 0.25 output_dim: 2 group_size: 3 }",
        (normal(2, 18, 6, 8), BOXES),
        psroi_pool(0.25, 2, 3),
    ),
    Case(
        "SmoothL1Loss",
        "smooth_l1_loss_param { sigma: 2 }",
        (X, 0.3 * normal(2, 6, 4, 4, seed=1), normal(2, 6, 4, 4, seed=2), normal(2, 6, 4, 4, seed=3)),
        smooth_l1(2),
        (0, 1),
    ),
    Case(
        "CenterLoss",
        "center_loss_param { num_output: 3 }",
        (normal(4, 5), np.array([0, 2, 2, 1.0])),
        centre,
        derivative=False,
    ),
    *(
        Case(
            "MarginInnerProduct",
            f"margin_inner_product_param {{ num_output: 4 type: {m} base: 10 gamma: 0.5 power: 1 lambda_min: 2 }}",
            (normal(5, 3), np.array([0, 1, 2, 3, 1.0])),
            margin(k + 1),
            tops=2,
            derivative=False,
            label=m,
        )
        for k, m in enumerate(("SINGLE", "DOUBLE", "TRIPLE", "QUADRUPLE"))
    ),
    Case("Lstm", "lstm_param { num_output: 3 }", (normal(4, 1, 5),), lstm(False)),
    Case(
        "Lstm",
        "lstm_param { num_output: 3 batch_size: 2 }",
        (normal(4, 2, 5), np.array([[0, 0], [1, 1], [1, 0], [1, 1.0]])),
        lstm(True),
        label="marked",
    ),
    Case(
        "ContinuationIndicator",
        "continuation_indicator_param { time_step: 3 batch_size: 2 }",
        (),
        lambda b, p: [np.array([[0, 0], [1, 1], [1, 1.0]])],
        (),
    ),
    Case(
        "CtcLoss",
        "ctc_loss_param { blank_label: 2 alphabet_size: 3 time_step: 4 }",
        (SCORES, LABELS),
        ctc_padded(2),
        derivative=False,
        dynamic=LENGTHS,
    ),
    *(
        Case(
            kind,
            "ctc_loss_param { blank_index: 2 }",
            (SCORES, LABELS),
            ctc_padded(2),
            derivative=False,
            dynamic=LENGTHS,
        )
        for kind in ("WarpCTCLoss", "WarpCtcLoss")
    ),
    Case(
        "CTCLoss",
        "",
        (SCORES, np.array([[0, 0], [1, 1], [1, 1], [1, 0.0]]), np.array([[0, 1], [1, 0], [-1, -1], [-1, -1.0]])),
        ctc_marked,
        dynamic=LENGTHS,
    ),
    Case(
        "LabelsequenceAccuracy",
        "labelsequence_accuracy_param { blank_label: 2 }",
        (TEXTS, np.array([[0, 1, 2], [0, 2, 2.0]])),
        spelt,
        (),
    ),
    Case(
        "PriorBox",
        "prior_box_param { min_size: 8.6 max_size: 14 aspect_ratio: 2 clip: true variance: [0.1, 0.1, 0.2, 0.2] }",
        (normal(1, 3, 2, 3), normal(1, 3, 20, 24)),
        prior_boxes,
        (),
    ),
    Case(
        "DetectionOutput",
        "detection_output_param { num_classes: 3 code_type: CENTER_SIZE keep_top_k: 4 confidence_threshold: 0.1 "
        "nms_param { nms_threshold: 0.45 top_k: 5 } }",
        (CODES, CONFIDENCES, PRIORS.reshape(1, 2, 24)),
        detections,
        (),
        dynamic=DATA,
    ),
    Case(
        "MultiBoxLoss",
        "multibox_loss_param { num_classes: 3 code_type: CENTER_SIZE neg_pos_ratio: 1 }",
        (CODES, normal(2, 18, seed=14), PRIORS.reshape(1, 2, 24), TRUTH.reshape(1, 1, 4, 8)),
        multibox,
        (0, 1),
        dynamic="which boxes count depends on the data",
    ),
    Case(
        "Proposal",
        "proposal_param { ratio: 1 scale: 2 scale: 4 min_size: 8 pre_nms_topn: 100 post_nms_topn: 5 nms_thresh: 0.5 }",
        (rng(15).random((1, 4, 3, 4)), 0.2 * normal(1, 8, 3, 4, seed=16), np.array([[48, 64, 1.5, 1.5]])),
        proposals,
        (),
        tops=2,
        dynamic=DATA,
    ),
]
