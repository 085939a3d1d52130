"""Take ONNX files of many origins the whole way through the commands, and print a table of what each step says.

    python benchmarks/onnx_origins.py --make FILES     # write the files whose exporters are installed: torch, timm, ...
    python benchmarks/onnx_origins.py FILES [--write]  # show, compose, merge, verify, train, reference, export

Origins: torchvision by both exporters of torch at their lowest and highest opset, timm, scikit-learn by skl2onnx, Keras
by tf2onnx. Each file becomes a branch beside a small Caffe net, is trained for three iterations frozen and as a whole,
is the reference of another training, and the fused net is exported. A refusal by `fusion-show` is no failure; whatever
fails after it is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timing import machine, replace_part, table

PAGE = Path(__file__).parent.parent / "docs" / "onnx.md"
SIZE, CLASSES = 64, 4
RTOL = "1e-3"  # random weights magnify rounding: so that two programs differ by more than 1e-5
AT = {"timm_levit_128s": "mean"}  # it adds the scores of two classifiers, so that the value to cut at must be named
OPSETS = {"torchscript": (7, 20), "dynamo": (18, 25)}
TORCHVISION = ("resnet18", "mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x0_5", "efficientnet_b0")
TIMM = ("resnet10t", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv4_conv_small", "ghostnet_050", "repvgg_a0",
        "deit_tiny_patch16_224", "mixer_s32_224", "levit_128s", "edgenext_xx_small", "swin_tiny_patch4_window7_224",
        "efficientvit_b0", "poolformer_s12")  # fmt: skip
NET = """name: "own"
layer {{ name: "data" type: "ImageData" top: "data" top: "label" transform_param {{ scale: 0.00390625 }}
  image_data_param {{ source: "train.txt" batch_size: 4 shuffle: true new_height: {0} new_width: {0}{1} }} }}
layer {{ name: "pool" type: "Pooling" bottom: "data" top: "pool"
  pooling_param {{ pool: AVE kernel_size: 4 stride: 4 }} }}
layer {{ name: "f" type: "InnerProduct" bottom: "pool" top: "f" inner_product_param {{ num_output: 8
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "fc" type: "InnerProduct" bottom: "f" top: "fc" inner_product_param {{ num_output: 4
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }}
"""


# -- files ------------------------------------------------------------------------------------------------------------


def make(folder: Path) -> None:
    """Write the files of all exporters that are installed."""
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    for origin in (_torchvision, _timm, _scikit_learn, _keras):
        try:
            for name, write in origin():
                path = folder / f"{name}.onnx"
                if not path.exists():
                    try:
                        write(str(path))
                        print(f"wrote {path}", flush=True)
                    except Exception as error:  # the exporter's limit, not ours
                        print(f"{path}: not exported: {str(error).strip().partition(chr(10))[0][:150]}", flush=True)
        except ImportError as error:
            print(f"{origin.__name__}: {error}", flush=True)


def _torch_export(module: Any, path: str, **options: Any) -> None:
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = None
        # from noise around black, as in verifying, to pictures of full contrast, as torchvision prepares them
        contrast = torch.linspace(0.01, 4.5, 16).reshape(16, 1, 1, 1)
        module.train()(torch.rand(16, 3, SIZE, SIZE) * contrast - 2.1)
    torch.onnx.export(module.eval(), (torch.rand(1, 3, SIZE, SIZE),), path, verbose=False, **options)


def _torchvision() -> Iterator[tuple[str, Callable[[str], None]]]:
    import torchvision

    for name in TORCHVISION:
        for exporter, opsets in OPSETS.items():
            for opset in opsets:

                def write(path: str, name: str = name, exporter: str = exporter, opset: int = opset) -> None:
                    module = torchvision.models.get_model(name, weights=None, num_classes=CLASSES)
                    _torch_export(module, path, dynamo=exporter == "dynamo", opset_version=opset)

                yield f"torchvision_{name}_{exporter}_{opset}", write


def _timm() -> Iterator[tuple[str, Callable[[str], None]]]:
    import timm

    for name in TIMM:

        def write(path: str, name: str = name) -> None:
            sized = {"img_size": SIZE} if any(word in name for word in ("vit_", "deit", "mixer", "swin")) else {}
            sized = {} if name.startswith("efficientvit") else sized
            _torch_export(timm.create_model(name, num_classes=CLASSES, **sized), path, dynamo=True)

        yield f"timm_{name}", write


def _scikit_learn() -> Iterator[tuple[str, Callable[[str], None]]]:
    from skl2onnx import to_onnx
    from sklearn.datasets import load_digits
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC
    from sklearn.tree import DecisionTreeClassifier

    images, labels = load_digits(n_class=CLASSES, return_X_y=True)
    images = images.astype(np.float32)
    models = {
        "logistic": LogisticRegression(max_iter=200),
        "pipeline": make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)),
        "forest": RandomForestClassifier(20, random_state=0),
        "tree": DecisionTreeClassifier(max_depth=6, random_state=0),
        "boosting": GradientBoostingClassifier(n_estimators=8, random_state=0),
        "mlp": MLPClassifier((16,), max_iter=60, random_state=0),
        "svc": LinearSVC(),
    }
    for name, model in models.items():

        def write(path: str, model: Any = model) -> None:
            options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
            made = to_onnx(model.fit(images, labels), images[:1], options=options)
            Path(path).write_bytes(made.SerializeToString())

        yield f"sklearn_{name}", write


def _keras() -> Iterator[tuple[str, Callable[[str], None]]]:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf
    import tf2onnx

    known = tf.keras.applications
    for name, builder in (("mobilenet_v2", known.MobileNetV2), ("efficientnet_b0", known.EfficientNetB0),
                          ("densenet121", known.DenseNet121), ("resnet50_v2", known.ResNet50V2)):  # fmt: skip

        def write(path: str, builder: Any = builder) -> None:
            tf.keras.utils.set_random_seed(0)
            model = builder(weights=None, classes=CLASSES, input_shape=(SIZE, SIZE, 3), classifier_activation=None)
            shape = tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32, name="data")
            tf2onnx.convert.from_function(tf.function(model), input_signature=[shape], output_path=path)

        yield f"keras_{name}", write


# -- the way ----------------------------------------------------------------------------------------------------------


def walk(file: Path, folder: Path) -> list[str]:
    """Return the row of a file: what each step says, "ok" or the first line of its error."""
    grey = file.name.startswith("sklearn")
    prepare(folder, grey=grey)
    shape = ("--input-shape", "1,8,8" if grey else f"3,{SIZE},{SIZE}")
    pixels = ("--pixels", "b=scale:1/16" if grey else "b=torchvision")
    row = {"file": file.stem}

    def step(name: str, *words: str) -> bool:
        code = "from caffe_fusion_tools.commands import main; import sys; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *words], capture_output=True, text=True,
                              cwd=folder, check=False)  # fmt: skip
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stdout.splitlines()[-1:]
        row[name] = "ok" if done.returncode == 0 else lines[0][:90] if lines else f"exit code {done.returncode}"
        return done.returncode == 0

    shown = subprocess.run([sys.executable, "-W", "ignore", "-m", "fusion", "show", str(file)], capture_output=True,
                           text=True, check=False)  # fmt: skip
    if "all can be run" not in shown.stdout:
        return [file.stem, "refused", *[""] * (len(STEPS) - 1)]
    row["show"] = "ok"
    sources = [
        "--source",
        "own=own.prototxt@f",
        "--source",
        f"b={file}{'@' * (file.stem in AT)}{AT.get(file.stem, '')}",
    ]
    composing = [*sources, *pixels, *shape, "--references", "--classes", "own=0-3", "--num-output", "4", "-o", "fused"]
    net = "fused/train_val.prototxt"
    # noise of 22 deviations drives its random weights to 1e5, where a change of the input by 1e-7 changes all digits
    pictures = ("--images", *(f"{number}.png" for number in range(16))) if "n_efficientnet" in file.stem else ()
    (
        step("compose", "compose", *composing, "--max-iter", "3", "--lr", "0.001")
        and step("merge", "merge", net, "own=own.prototxt:own.caffemodel", "-o", "init.caffemodel")
        and step("verify", "verify", net, "init.caffemodel", f"b={file}", "--rtol", RTOL, *pictures)
        and step("frozen", "train", "--solver", "fused/solver.prototxt", "--weights", "init.caffemodel", "-q")
        and _thaw(folder, row, step)
        and step("reference", "train", "--solver", "own.solver", "--weights", "own.caffemodel", "--reference",
                 f"{file},pixels={pixels[1][2:]}", "--pct", "kd,weight=0.1", "-q")
        and step("export", "export", "fused/deploy.prototxt", "init.caffemodel", "-o", "fused.onnx", "--check",
                 "--rtol", RTOL)
    )  # fmt: skip
    return [row.get(name, "") for name in ("file", *STEPS)]


def _thaw(folder: Path, row: dict[str, str], step: Callable[..., bool]) -> bool:
    """Train three iterations with the branch not frozen; a model that does not learn is refused by name."""
    text = (folder / "fused/train_val.prototxt").read_text().replace("frozen: true", "frozen: false")
    (folder / "thawed.prototxt").write_text(text)
    solver = (folder / "fused/solver.prototxt").read_text().replace("fused/train_val.prototxt", "thawed.prototxt")
    (folder / "thawed.solver").write_text(solver)
    step("trained", "train", "--solver", "thawed.solver", "--weights", "init.caffemodel", "-q")
    if "cannot learn" in row["trained"]:
        row["trained"] = "stays frozen"
    return row["trained"] in ("ok", "stays frozen")


STEPS = ("show", "compose", "merge", "verify", "frozen", "trained", "reference", "export")


def prepare(folder: Path, *, grey: bool) -> None:
    """Write images, their list, and the small Caffe net with its weights and its solver."""
    import fusion

    rng, size = np.random.default_rng(0), 8 if grey else SIZE
    lines = []
    for number in range(16):
        noise = rng.normal(50 + 40 * (number % CLASSES), 30, (size, size) if grey else (size, size, 3))
        Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{folder / str(number)}.png {number % CLASSES}\n")
    (folder / "train.txt").write_text("".join(lines))
    (folder / "own.prototxt").write_text(NET.format(size, " is_color: false" if grey else ""))
    solver = 'net: "own.prototxt" base_lr: 0.001 lr_policy: "fixed" max_iter: 3 snapshot_prefix: "own" random_seed: 1\n'
    (folder / "own.solver").write_text(solver)
    here = Path.cwd()
    os.chdir(folder)
    try:
        fusion.save_weights(fusion.build("own.prototxt", "TEST", seed=1), "own.caffemodel")
    finally:
        os.chdir(here)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or take them the whole way; return 1 if one fails after it was not refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, metavar="FILES", help="the folder of the files")
    parser.add_argument("--make", action="store_true", help="write them")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    arguments = parser.parse_args(argv)
    if arguments.make:
        make(arguments.files)
        return 0
    rows = []
    for file in sorted(arguments.files.resolve().glob("*.onnx")):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(walk(file, Path(folder)))
        print(*rows[-1], sep="  ", flush=True)
    text = f"{table(['file', *STEPS], rows)}\n\n{machine()}.\n"
    print(text)
    if arguments.write:
        replace_part(PAGE, "origins", text)
    return int(any(cell not in ("ok", "refused", "stays frozen", "") for row in rows for cell in row[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
