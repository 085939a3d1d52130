"""The steps of a job, each a command line with the files that it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, NamedTuple
from urllib.parse import quote

from fusion.composition.compose import Composition, compose_with
from fusion.composition.config import ComposeConfig
from fusion.composition.folds import expand_patterns
from fusion.composition.heads import ENSEMBLES
from fusion.composition.options import ComposeOptions
from fusion.composition.references import format_classes
from fusion.composition.solver_text import SolverSettings
from fusion.conversion.net_names import holds_its_weights, net_files
from fusion.errors import ComposeError
from prototxt.formats.class_folders import is_image_folder
from prototxt.schema.filter import filter_net
from prototxt.schema.load import load_net, load_solver
from prototxt.shapes.loss_kinds import LOSS_KINDS

_SNAPSHOTS = 10  # per training, where the file does not say how often
_FLAGS = {"random_seed": "--seed", "snapshot": "--snapshot"}
_VAL_SHARE = 0.1  # of the training images, where the file has no others
_SEED = 1  # of the trainings, where the file gives none, so that they differ in their losses alone


class Data(NamedTuple):
    """The records that a net reads in a phase; `list_path` replaces its own list."""

    net: str
    phase: str
    list_path: str | None = None


@dataclass(frozen=True)
class JobStep:
    """A step of a job.

    name       in messages and for --from, unique in the job
    command    "train" for fusion-train
    words      its command line
    inputs     the files that it reads
    outputs    the files that it writes
    data       the records that it reads
    depends    further text that its result depends on
    snapshots  of a training: the beginning of its snapshots' names
    """

    name: str
    command: str
    words: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    data: tuple[Data, ...] = ()
    depends: str = ""
    snapshots: str = ""


@dataclass(frozen=True)
class _Variant:
    """The fused net as it is trained in one way, "plain" or "pct", in a folder; `weights` are the trained ones."""

    name: str
    composition: Composition
    folder: str
    weights: str

    @property
    def net(self) -> str:
        return f"{self.folder}/train_val.prototxt"


class StepPlanner:
    """The steps of the job of one file, as they are added.

    path     of the file, which is an argument of commands
    output   the job's folder
    options  by command: the words of its table
    notes    decisions that the user should know of
    """

    def __init__(self, path: str, config: ComposeConfig, output: str, options: Mapping[str, Sequence[str]]) -> None:
        self._path, self._config, self._output = path, config, output
        self._options = {command: list(words) for command, words in options.items()}
        self._init = f"{output}/init.caffemodel"
        self._compares = config.job.get("report") is not False and not config.options.tasks
        # heads that average scores have nothing to learn, unless branches are thawed
        self._learns = config.options.head not in ENSEMBLES or bool(
            {"thaw", "lr_mult"} & config.job.get("train", {}).keys()
        )
        self._test_list: str | None = config.job.get("test_list")
        self.notes: list[str] = []
        self.steps: list[JobStep] = []

    def plan(self) -> None:
        """Add all steps; composes the nets in memory, which finds most mistakes. Raises: as `compose`."""
        variants = self._compose()
        last = variants[-1]
        if self._config.job.get("gate") and not self._compares:
            raise ComposeError("[gate] has limits, and without a report nothing checks them", place=self._path)
        self._merge(last)
        originals = self._test_originals(last) if self._compares else []
        for variant in variants:
            if self._learns:
                self._train(variant)
            self._test(variant)
        if self._compares:
            self._report(originals, variants)
        if self._config.job.get("export") is not False:
            self._export(last)

    def _add(self, name: str, words: Sequence[str], command: str = "", **files: Any) -> None:
        command = command or name.partition("-")[0]
        self.steps.append(JobStep(name, command, (*words, *self._options.get(command, ())), **files))

    def _compose(self) -> list[_Variant]:
        """Add the composing of the net without and with losses towards its sources, as far as they are wanted."""
        job, options = self._config.job, self._config.options
        has_pct = bool(options.pct) or "pct" in job
        names = [*(["plain"] if job.get("plain", True) or not has_pct else []), *(["pct"] if has_pct else [])]
        schedule, train = options.schedule or SolverSettings(), job.get("train", {})
        added = {"random_seed": _SEED, "snapshot": max(schedule.max_iter // _SNAPSHOTS, 1)}
        if "snapshot_epochs" in train or schedule.snapshot:
            del added["snapshot"]
        elif "keep" not in train:
            self._options["train"] += ["--keep", "1"]
        added = {key: value for key, value in added.items() if key not in schedule.changed_fields()}
        flags = [word for key, value in added.items() for word in (_FLAGS[key], str(value))]
        if options.train_list and not (options.val_list or options.val_share):
            options = replace(options, val_share=_VAL_SHARE)
            flags += ["--val-share", str(_VAL_SHARE)]
            self.notes.append(f"no val_list in [data]: {_VAL_SHARE:.0%} of the training images are kept back for it")
        variants = []
        for name in names:
            pct = options.pct if name == "pct" else ()
            needed = name == names[-1] and not pct and not options.references and self._scores_classes(options)
            words = [*(["--pct", "none"] if options.pct and not pct else []), *(["--references"] if needed else [])]
            changed = replace(options, pct=pct, references=options.references or needed)
            changed = replace(changed, schedule=schedule.with_fields(added))
            composed = compose_with(self._config.sources, changed)
            variants.append(self._variant(name, composed, [*words, *flags]))
        return variants

    def _scores_classes(self, options: ComposeOptions) -> bool:
        """Return whether the fused net can be compared with its sources; adds a note where only its loss forbids it."""
        if self._compares:
            losses = compose_with(self._config.sources, options).overview.losses
            self._compares = LOSS_KINDS[losses[0].partition(" ")[0]].labels == "class"
            self.notes += [] if self._compares else [f"no report: the loss is {losses[0]}, and flips are of classes"]
        return self._compares

    def _variant(self, name: str, composed: Composition, words: Sequence[str]) -> _Variant:
        folder = f"{self._output}/{name}"
        texts = {"train_val": composed.train_val, "deploy": composed.deploy, "solver": composed.solver}
        written = {key: str(text) for key, text in texts.items() if text is not None}
        lists = [
            (key, composed.lists.records(key), one.names, *one.labels) for key, one in composed.lists.images.items()
        ]
        outputs = (
            *(f"{folder}/{key}.prototxt" for key in written),
            *(f"{folder}/{name}" for name in (*(key for key, *_ in lists), *composed.nets.names())),
        )
        converted = [
            path
            for one in self._config.sources
            if composed.nets.names() and holds_its_weights(str(one.prototxt))
            for path in net_files(str(one.prototxt))
        ]
        self._add(
            f"compose-{name}",
            [self._path, *words, "-o", folder],
            inputs=tuple(converted),
            outputs=outputs,
            depends="\0".join([*written.values(), repr(lists)]),
        )
        solver = load_solver(composed.solver)
        number = "best" if "best_on" in self._config.job.get("train", {}) else f"iter_{solver.max_iter}"
        end = ".caffemodel.h5" if solver.snapshot_format == solver.HDF5 else ".caffemodel"
        trained = f"{folder}/{solver.snapshot_prefix}_{number}{end}" if self._learns else self._init
        return _Variant(name, composed, folder, trained)

    def _merge(self, variant: _Variant) -> None:
        sources = expand_patterns(self._config.sources)
        read = (
            variant.net,
            *(
                path
                for one in sources
                for path in (*net_files(str(one.prototxt)), *([str(one.weights)] if one.weights is not None else []))
            ),
        )
        self._add("merge", [variant.net, self._path, "-o", self._init], inputs=read, outputs=(self._init,))
        if self._config.job.get("verify") is not False:
            self._add("verify", [variant.net, self._init, self._path], inputs=(*read, self._init))

    def _test_originals(self, variant: _Variant) -> list[str]:
        """Add the tests of the originals, which are side outputs of the fused net; return their predictions."""
        found = []
        for branch in variant.composition.overview.branches:
            if branch.scores is not None:
                path = f"{self._output}/{quote(branch.prefix, safe='')}.npz"
                words = ["--logits", branch.scores.name, "--name", branch.prefix, "--predictions", path]
                self._measure(f"original-{branch.prefix}", variant.net, self._init, words, path)
                found.append(path)
        return found

    def _test(self, variant: _Variant) -> None:
        words, outputs = [], []
        if self._compares:
            scores, outputs = variant.composition.overview.scores[0].name, [f"{variant.folder}/predictions.npz"]
            words = ["--logits", scores, "--name", f"fused-{variant.name}", "--predictions", *outputs]
        self._measure(f"test-{variant.name}", variant.net, variant.weights, words, *outputs)

    def _measure(self, name: str, net: str, weights: str, words: Sequence[str], *outputs: str) -> None:
        if self._test_list is None:
            text = (
                "no test_list in [data]: tested on the validation data, which favours settings that were chosen on it"
            )
            self.notes += [text] if text not in self.notes else []
        lists = ["--list", self._test_list] if self._test_list else []
        data, words = (Data(net, "TEST", self._test_list),), ["--model", net, "--weights", weights, *lists, *words]
        self._add(name, words, "test", inputs=(net, weights), outputs=outputs, data=data)

    def _train(self, variant: _Variant) -> None:
        solver, log = f"{variant.folder}/solver.prototxt", f"{variant.folder}/train.log"
        words = ["--solver", solver, "--weights", self._init, "--log", log]
        if variant.name == "pct" and "pct" in self._config.job:
            kept = [
                f"@{one.scores.name},classes={format_classes(one.classes)}"
                for one in variant.composition.overview.branches
                if one.scores is not None
            ]
            words += [word for text in kept for word in ("--reference", text)]
            words += ["--pct", self._config.job["pct"]]
        self._add(
            f"train-{variant.name}",
            words,
            inputs=(solver, variant.net, self._init),
            outputs=(variant.weights, log),
            data=(Data(variant.net, "TRAIN"), Data(variant.net, "TEST")),
            snapshots=f"{variant.folder}/{load_solver(variant.composition.solver).snapshot_prefix}",
        )

    def _report(self, originals: Sequence[str], variants: Sequence[_Variant]) -> None:
        answers = [f"{variant.folder}/predictions.npz" for variant in variants]
        logs = {variant.name: f"{variant.folder}/train.log" for variant in variants if self._learns}
        html, figures = f"{self._output}/report.html", f"{self._output}/report.json"
        words = ["--old", *originals, "--new", answers[-1], *(["--baseline", answers[0]] if answers[1:] else [])]
        words += ["--html", html, "--write-json", figures]
        words += ["--log", *(f"{name}={log}" for name, log in logs.items())] if logs else []
        words += ["--root", root] if (root := self._image_root(variants[-1])) else []
        gate = self._config.job.get("gate")
        words += ["--budget", self._path] if gate else []
        read = (*originals, *answers, *logs.values())
        self._add("report", words, inputs=read, outputs=(html, figures), depends=repr(gate))

    def _image_root(self, variant: _Variant) -> str:
        """Return the folder that the names in the list of the test images are relative to, "" for the working one."""
        if "root" in self._config.job.get("report", {}) or is_image_folder(self._test_list or ""):
            return ""
        net = filter_net(load_net(variant.composition.train_val, strict=False), "TEST")
        return next((layer.image_data_param.root_folder for layer in net.layer if layer.type == "ImageData"), "")

    def _export(self, variant: _Variant) -> None:
        """Add the steps that write the net for use: the weights of its deploy prototxt, and ONNX."""
        if variant.composition.deploy is None:
            self.notes.append("no export: the shape of the net's input is not known; give input_shape = [3, 224, 224]")
            return
        net, weights, onnx = (f"{variant.folder}/deploy.{end}" for end in ("prototxt", "caffemodel", "onnx"))
        words = (net, f"={variant.weights}", "-o", weights)  # without the options of [merge]
        self.steps.append(JobStep("deploy", "merge", words, inputs=(net, variant.weights), outputs=(weights,)))
        check = ["--check"] if "check" not in self._config.job.get("export", {}) and find_spec("onnxruntime") else []
        self._add("export", [net, weights, "-o", onnx, *check], inputs=(net, weights), outputs=(onnx,))
