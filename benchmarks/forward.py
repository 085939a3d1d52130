"""The speed of a built net beside the same net written by hand in PyTorch: forward in TEST, without gradients.

The weights are the same, and the table shows how far the scores differ. LeNet, and an 18-layer residual net whose
prototxt has BatchNorm and Scale layers as in Caffe; by hand it is torchvision's. Rivals take turns; medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from nets import added, dense, global_pooling, input_data, lenet_body, lenet_by_hand, normalized, pooling, rectified
from timing import interleaved, machine, table
from torch import Tensor, nn
from torchvision.models import ResNet, resnet18

import prototxt
from fusion.nets.build import Net, build, params

Forward = Callable[[Tensor], Tensor]


def lenet_text() -> str:
    n = input_data(1, 28)
    n.ip2 = dense(rectified(n, "ip1", lenet_body(n)), 10)
    return str(n.to_proto())


def resnet_text() -> str:
    """Write ResNet-18 with BatchNorm and Scale as Caffe has them."""
    n = input_data(3, 224)
    n.pool1 = bottom = pooling(normalized(n, "conv1", n.data, 64, 7, stride=2, pad=3, relu=True), 3, 2, pad=1)
    for stage in range(4):
        for block in range(2):
            name, outputs, stride = f"res{stage}{block}", 64 << stage, 2 if stage and not block else 1
            top = normalized(n, f"{name}a", bottom, outputs, 3, stride=stride, pad=1, relu=True)
            top = normalized(n, f"{name}b", top, outputs, 3, pad=1)
            if stride == 2:
                bottom = normalized(n, f"{name}p", bottom, outputs, 1, stride=2)
            bottom = added(n, name, top, bottom)
    n.pool = global_pooling(bottom)
    n.fc = dense(n.pool, 1000)
    return str(n.to_proto())


@torch.no_grad()
def copy_lenet(net: Net, twin: nn.Module) -> None:
    own = (tensor for tensors in params(net).values() for tensor in tensors)
    for theirs, ours in zip(twin.parameters(), own, strict=True):
        theirs.copy_(ours)


@torch.no_grad()
def copy_resnet(net: Net, twin: ResNet) -> None:
    """Draw statistics for the built net, then copy its blobs to torchvision's modules, whose order is the same."""
    found = params(net)
    names = [name for name in found if not name.endswith(("_bn", "_scale", "fc"))]
    convolutions = [module for module in twin.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in twin.modules() if isinstance(module, nn.BatchNorm2d)]
    for name, convolved, norm in zip(names, convolutions, norms, strict=True):
        mean, variance, factor = found[f"{name}_bn"]
        mean.normal_(0, 0.1)
        variance.uniform_(0.5, 1.5)
        factor.fill_(1.0)
        found[f"{name}_scale"][0].uniform_(0.5, 1.5)
        convolved.weight.copy_(found[name][0])
        for target, tensor in (
            (norm.running_mean, mean), (norm.running_var, variance),
            (norm.weight, found[f"{name}_scale"][0]), (norm.bias, found[f"{name}_scale"][1]),
        ):  # fmt: skip
            assert target is not None
            target.copy_(tensor)
    twin.fc.weight.copy_(found["fc"][0])
    twin.fc.bias.copy_(found["fc"][1])


def rate(forward: Forward, x: Tensor, count: int) -> float:
    """Return pictures per second."""
    with torch.inference_mode():
        start = time.perf_counter()
        for _ in range(count):
            forward(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        return count * len(x) / (time.perf_counter() - start)


def compare(name: str, net: Net, twin: nn.Module, x: Tensor, count: int, rounds: int) -> tuple[object, ...]:
    """Return one row: the two nets' speeds, and the largest relative difference of their scores."""
    net, twin, x = net.to(x.device), twin.eval().to(x.device), x
    blob = net.plan.outputs[0][0]
    with torch.inference_mode():
        ours, theirs = net({"data": x})[blob].flatten(1), twin(x)
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
    rivals = {
        "ours": partial(rate, lambda given: net({"data": given})[blob], x, count),
        "hand": partial(rate, twin, x, count),
    }
    found = interleaved(rivals, rounds=rounds)
    speeds = f"{found['ours']:,.0f}", f"{found['hand']:,.0f}", f"{found['ours'] / found['hand']:.2f}x"
    return (f"{name}, batch {len(x)}", *speeds, f"{difference:.1e}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--seconds", type=float, default=1.0, help="approximate length of a turn")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    rows = []
    for name, text, twin, copy, shape, batches in (
        ("LeNet", lenet_text(), lenet_by_hand(), copy_lenet, (1, 28, 28), (1, 64)),
        ("ResNet-18", resnet_text(), resnet18(), copy_resnet, (3, 224, 224), (1, 8)),
    ):
        net = build(prototxt.parse(text), seed=0)
        copy(net, twin)
        for batch in batches:
            x = torch.randn(batch, *shape, device=chosen.device)
            quick = rate(twin.eval().to(x.device), x, 3) * chosen.seconds / batch
            rows.append(compare(name, net, twin, x, max(1, int(quick)), chosen.rounds))
    print(table(("net", "ours, pictures/s", "by hand, pictures/s", "ratio", "difference"), rows))
    where = f"torch {torch.__version__}, {chosen.device}, {chosen.threads} threads"
    print(f"\n{machine()}, {where}, medians of {chosen.rounds}")


if __name__ == "__main__":
    main()
