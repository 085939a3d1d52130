"""Several trained nets into one: build, compose, merge, train under positive-congruent losses, measure.

    net = fusion.build(prototxt.load_net("lenet.prototxt"), phase="TEST", shapes={"data": (1, 1, 28, 28)})
    fusion.load_weights(net, "lenet.caffemodel")
    out = net({"data": x})                                   # {output blob: tensor}
    fused = fusion.compose([fusion.Source("odd", "odd.prototxt", at="ip1"), ...], num_output=10)
    plan = fusion.plan_merge(fused_net, {"odd": weights, ...}); fusion.apply_merge(plan, "init.caffemodel")
    fusion.Solver("solver.prototxt", weights="init.caffemodel").train()

Names are loaded on first use: composing and merging never import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prototxt.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from fusion import pct as pct
    from fusion.composition.compose import Composition as Composition, compose as compose
    from fusion.composition.source import Source as Source
    from fusion.conversion.caffe_nets import to_caffe as to_caffe
    from fusion.conversion.state_dicts import to_state_dict as to_state_dict
    from fusion.errors import (
        BuildError as BuildError,
        ComposeError as ComposeError,
        ComposeWarning as ComposeWarning,
        DataError as DataError,
        FusionError as FusionError,
        MergeError as MergeError,
        ReportError as ReportError,
        TrainingError as TrainingError,
        WeightsMismatch as WeightsMismatch,
    )
    from fusion.layers.registry import layer as layer
    from fusion.merge.merge import MergePlan as MergePlan, apply_merge as apply_merge, plan_merge as plan_merge
    from fusion.nets.build import Net as Net, blobs as blobs, build as build, params as params
    from fusion.nets.weights import load_weights as load_weights, save_weights as save_weights
    from fusion.solver import Solver as Solver
    from fusion.version import __version__ as __version__
else:
    __getattr__, __dir__ = lazy_exports(__name__)
