"""The interface of Caffe's Python module, so that existing scripts run here: `import fusion.pycaffe as caffe`.

    net = caffe.Net("deploy.prototxt", caffe.TEST, weights="trained.caffemodel")
    net.blobs["data"].data[...] = images
    scores = net.forward()["prob"]

Names and behaviour are those of BVLC Caffe's `python/caffe`; an error that ends the process there raises here. Names
load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prototxt.lazy_exports import lazy_exports

__version__ = "1.0.0"  # of the Caffe whose interface this is, which scripts compare
TRAIN, TEST = 0, 1

if TYPE_CHECKING:
    from fusion.layers.pycaffe import Blob as Blob, Layer as Layer
    from fusion.pycaffe import (
        classifier as classifier,
        detector as detector,
        io as io,
        net_spec as net_spec,
        proto as proto,
    )
    from fusion.pycaffe.classifier import Classifier as Classifier
    from fusion.pycaffe.detector import Detector as Detector
    from fusion.pycaffe.errors import CaffeError as CaffeError
    from fusion.pycaffe.mode import (
        NCCL as NCCL,
        Timer as Timer,
        has_nccl as has_nccl,
        init_log as init_log,
        layer_type_list as layer_type_list,
        log as log,
        set_device as set_device,
        set_mode_cpu as set_mode_cpu,
        set_mode_gpu as set_mode_gpu,
        set_multiprocess as set_multiprocess,
        set_random_seed as set_random_seed,
        set_solver_count as set_solver_count,
        set_solver_rank as set_solver_rank,
        solver_count as solver_count,
        solver_rank as solver_rank,
    )
    from fusion.pycaffe.net import Net as Net
    from fusion.pycaffe.net_spec import (
        NetSpec as NetSpec,
        layers as layers,
        params as params,
        to_proto as to_proto,
    )
    from fusion.pycaffe.solvers import (
        AdaDeltaSolver as AdaDeltaSolver,
        AdaGradSolver as AdaGradSolver,
        AdamSolver as AdamSolver,
        NesterovSolver as NesterovSolver,
        RMSPropSolver as RMSPropSolver,
        SGDSolver as SGDSolver,
        get_solver as get_solver,
    )
    from fusion.stand_in import install as install
else:
    __getattr__, __dir__ = lazy_exports(__name__)
