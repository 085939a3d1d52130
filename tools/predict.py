"""fusion-predict: classify images with a trained net, from files, folders or standard input, or on a local web page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .arguments import (
    add_options,
    classes_argument,
    net_or_onnx,
    positive_int,
    read_class_names,
    remark,
    source_argument,
)
from .cli import run_command
from .command_parser import CommandParser

if TYPE_CHECKING:
    from fusion.serving import Server
    from fusion.serving.predictor import Answer, Predictor
    from fusion.solver.logging.console import Display

_EXAMPLE = """examples:
  %(prog)s fused/train_val.prototxt fused.caffemodel digits/ --top 3
  %(prog)s deploy.prototxt net.caffemodel cat.jpg --mean 104,117,123 --labels synset_words.txt --json
  %(prog)s deploy.prototxt net.caffemodel photos/ --mean imagenet_mean.binaryproto --jsonl > answers.jsonl
  %(prog)s net.onnx photos/ --pixels torchvision
  cat cat.jpg | %(prog)s deploy.prototxt net.caffemodel -
  find . -name '*.png' | %(prog)s train_val.prototxt net.caffemodel - --csv > answers.csv
  %(prog)s fused/train_val.prototxt fused.caffemodel --serve --beside odd=odd.prototxt:odd.caffemodel

Images are prepared as in the net's data layer (phase TEST); for a deploy net, which has none, give --mean, --scale,
--resize and --rgb. An image that cannot be read is reported, the others are classified, and the exit code is 1.
fusion-test --list writes a predictions file of images with labels.
"""
_IMAGE_STARTS = (b"\xff\xd8", b"\x89PNG", b"BM", b"RIFF", b"GIF8", b"II*\0", b"MM\0*", b"P5", b"P6")


def parser(prog: str = "fusion-predict") -> CommandParser:
    """Build the command line."""
    result = CommandParser(
        prog,
        description="Classify images with a trained net.",
        epilog=_EXAMPLE,
    )
    add = result.add_argument
    add("net", metavar="NET", help="the net, NET.prototxt (train_val or deploy), or NET.onnx with --pixels")
    add("weights", metavar="WEIGHTS", nargs="?", help="its weights; not with an ONNX file, which has them")
    add("images", metavar="PATH", nargs="*", help="images or folders; - is standard input: an image, or paths")
    add("--top", type=positive_int, default=5, metavar="K", help="classes per image (default 5)")
    add_options(result, "--output-blob", "--labels")
    add("--classes", action="append", default=[], type=_classes, metavar="NAME=C,C,...",
        help="the common classes that the scores of an output or a net stand for, in their order: 1,3,5 or 0-4,9 "
        "(default: all, or as stored in the net's prototxt)")  # fmt: skip
    add("--mean", type=_mean, metavar="X[,X,X]|FILE", help="mean to subtract: values per channel in the net's order, "
        "or a mean image (.binaryproto), whose size images get before the crop")  # fmt: skip
    add("--scale", type=float, metavar="X", help="factor after the mean")
    add_options(result, "--resize", note="before the crop")
    add("--rgb", action="store_true", help="the net expects channels red, green, blue")
    add_options(result, "--pixels", "--input-shape")
    add_options(result, "--batch", default=32)
    form = result.add_mutually_exclusive_group()
    add_options(form, "--json")
    form.add_argument("--jsonl", action="store_true", help="print one JSON object per line and output, batch by batch")
    form.add_argument("--csv", action="store_true", help="print CSV, batch by batch")
    add_options(result, "--quiet")
    page = result.add_argument_group("web page")
    page.add_argument("--serve", action="store_true", help="serve a web page that classifies dropped images")
    page.add_argument("--beside", action="append", default=[], type=_beside, metavar="NAME=NET.prototxt:WEIGHTS",
        help="another net to show beside it, e.g. a source on its own, or NAME=NET.onnx")  # fmt: skip
    page.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    page.add_argument("--port", type=int, default=8765, help="port to listen on (default 8765; 0: a free one)")
    return result


def main(argv: Sequence[str] | None = None, prog: str = "fusion-predict") -> int:
    """Run the command; return 0 on success, 1 for bad input or images that could not be read."""
    options = parser(prog)
    arguments = options.parse_intermixed_args(argv)  # options may stand between the net and its weights
    from fusion.conversion.net_names import holds_its_weights

    if holds_its_weights(arguments.net):
        arguments.images = [*filter(None, [arguments.weights]), *arguments.images]
        arguments.weights = None
        if arguments.mean is not None or arguments.scale is not None or arguments.rgb:
            options.error("--mean, --scale and --rgb are for prototxts; give --pixels for an ONNX file")
    elif arguments.weights is None:
        options.error("give the weights of the net")
    if bool(arguments.images) == arguments.serve:
        options.error("give images, or --serve for a web page; not both")
    if arguments.beside and not arguments.serve:
        options.error("--beside is for --serve")
    if not 0 <= arguments.port < 1 << 16:
        options.error("--port is from 0 to 65535")
    code: int = run_command(lambda: _predict(arguments))
    return code


def _predict(arguments: argparse.Namespace) -> int:
    labels = read_class_names(arguments.labels)
    if arguments.serve:
        return _serve(arguments, labels)
    images = list(_images(arguments.images))
    predictor = _open(arguments.net, arguments.weights, arguments, outputs=arguments.output_blob)
    title = _title(arguments.net)
    by_name = _classes_by_name(arguments.classes, [title, *predictor.outputs])
    classes = {output: by_name.get(output, by_name.get(title)) for output in predictor.outputs}
    options = {"top": arguments.top, "labels": labels, "classes": classes}
    write, failed, noted = _writer(arguments), 0, set[str]()
    display = _progress(arguments)
    if not images:
        write([], True, True)
    for start in range(0, len(images), arguments.batch):
        answers, errors = _batch(predictor, images[start : start + arguments.batch], options)
        failed += errors
        for note in dict.fromkeys(answer.note for answer in answers if answer.note not in ("", *noted)):
            remark(f"note: {note}", arguments)
            noted.add(note)
        write(answers, start == 0, start + arguments.batch >= len(images))
        display.progress("classifying", min(start + arguments.batch, len(images)), len(images))
    display.close()
    return 1 if failed else 0


def _progress(arguments: argparse.Namespace) -> Display:
    """Return a bar on a terminal, unless the answers go there too."""
    from fusion.solver.logging.console import Bar, Silent

    shown = sys.stderr.isatty() and not sys.stdout.isatty() and not arguments.quiet
    return Bar() if shown else Silent()


def _open(
    net: str,
    weights: str | None,
    arguments: argparse.Namespace,
    outputs: Sequence[str] = (),
    beside: Predictor | None = None,
) -> Predictor:
    from fusion.serving.predictor import PreprocessOverrides, open_predictor

    overrides = PreprocessOverrides(arguments.mean, arguments.scale, arguments.resize, arguments.rgb)
    shapes, lent = dict(arguments.input_shape), beside.shapes if beside is not None else None
    described = net_or_onnx(net, arguments) if weights is None else net
    if weights is None:
        shapes = {}  # the description has them
    found = open_predictor(described, weights, outputs=outputs, overrides=overrides, shapes=shapes, fallback=lent)
    for note in found.notes if weights is not None else ():
        remark(f"note: {note}", arguments)
    return found


def _serve(arguments: argparse.Namespace, labels: Sequence[str]) -> int:
    """Serve the web page until Ctrl-C."""
    with page_server(arguments, labels) as server:
        print(f"drop images at {server.url} (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended", file=sys.stderr)
    return 0


def page_server(arguments: argparse.Namespace, labels: Sequence[str] = ()) -> Server:
    """Return the web page's server, which listens but does not answer yet."""
    from fusion.serving import Panel, open_server
    from fusion.serving.guards import is_loopback

    first = _open(arguments.net, arguments.weights, arguments, outputs=arguments.output_blob)
    nets = [(_title(arguments.net), first)]
    nets += [(name, _open(net, weights, arguments, beside=first)) for name, (net, weights) in arguments.beside]
    names = [*(name for name, _ in nets), *(output for _, net in nets for output in net.outputs)]
    panel = Panel(nets, labels, arguments.top, _classes_by_name(arguments.classes, names))
    panel.rehearse()  # errors of nets and classes must end the command, not the first request
    server = open_server(panel.answer, panel.about(), host=arguments.host, port=arguments.port)
    if not is_loopback(arguments.host):
        print("note: anyone who can reach this machine can use the page; there is no password", file=sys.stderr)
    return server


def _title(net: str) -> str:
    """Return the net's name on the page: its file, or its folder if the file has a common name."""
    from pathlib import Path

    path = Path(net)
    return path.parent.name if path.stem in ("train_val", "deploy") and path.parent.name else path.stem


def _classes_by_name(pairs: Sequence[tuple[str, list[int]]], names: Sequence[str]) -> dict[str, list[int]]:
    """Return the classes by net or output. Raises: FusionError for other names."""
    from fusion.errors import FusionError
    from prototxt.errors import did_you_mean

    unknown = [name for name, _ in pairs if name not in names]
    if unknown:
        hint = did_you_mean(unknown[0], names, f"one of {', '.join(dict.fromkeys(names))}")
        raise FusionError(f"--classes names no net or output: '{unknown[0]}'", hint=hint)
    return dict(pairs)


def _batch(
    predictor: Predictor, images: Sequence[tuple[str, str | bytes]], options: dict[str, Any]
) -> tuple[list[Answer], int]:
    """Return the answers of a batch and the number of bad images; after an error, classify each image by itself."""
    from fusion.errors import DataError
    from fusion.serving.predictor import predict

    try:
        return predict(predictor, [item for _, item in images], names=[name for name, _ in images], **options), 0
    except DataError as error:
        if len(images) == 1:
            print(f"error: {error}", file=sys.stderr)
            return [], 1
    parts = [_batch(predictor, [image], options) for image in images]
    return [answer for answers, _ in parts for answer in answers], sum(errors for _, errors in parts)


def _images(paths: Sequence[str]) -> Iterator[tuple[str, str | bytes]]:
    """Yield names, with paths or contents."""
    from fusion.nets.inputs import find_images

    for path in paths:
        if path != "-":
            yield from ((found, found) for found in find_images([path]))
            continue
        content = sys.stdin.buffer.read()
        # an image by its magic number; the NUL byte finds formats without one in the list
        if content.startswith(_IMAGE_STARTS) or b"\0" in content:
            yield "-", content
        else:
            lines = [line.strip() for line in content.decode("utf-8", "surrogateescape").splitlines() if line.strip()]
            yield from ((found, found) for found in find_images(lines))


def _writer(arguments: argparse.Namespace) -> Callable[[Sequence[Answer], bool, bool], None]:
    """Return a function that prints the answers of a batch, which may be the first or the last one."""
    import json

    every: list[dict[str, object]] = []

    def as_json(answers: Sequence[Answer], first: bool, last: bool) -> None:
        every.extend(map(_entry, answers))
        if last:
            print(json.dumps(every, indent=2))

    def as_lines(answers: Sequence[Answer], first: bool, last: bool) -> None:
        for answer in answers:
            print(json.dumps(_entry(answer)), flush=True)

    return as_json if arguments.json else as_lines if arguments.jsonl else _csv if arguments.csv else _text


def _csv(answers: Sequence[Answer], first: bool, last: bool) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    if first:
        writer.writerow(["picture", "output", "rank", "class", "label", "score"])
    for answer in answers:
        for rank, (number, label, score) in enumerate(_best(answer), 1):
            writer.writerow([answer.picture, answer.output, rank, number, label, f"{score:.6g}"])


def _text(answers: Sequence[Answer], first: bool, last: bool) -> None:
    for answer in answers:
        best = ", ".join(
            f"{number}{f' {label}' if label else ''} {score:.4g}" for number, label, score in _best(answer)
        )
        print(f"{answer.picture}  {answer.output}: {best}")


def _best(answer: Answer) -> Iterator[tuple[int, str, float]]:
    return zip(answer.classes, answer.labels, answer.scores, strict=True)


def _entry(answer: Answer) -> dict[str, object]:
    best = [
        {"class": number, **({"label": label} if label else {}), "score": score}
        for number, label, score in _best(answer)
    ]
    return {"picture": answer.picture, "output": answer.output, "top": best}


def _beside(text: str) -> tuple[str, tuple[str, str | None]]:
    from fusion.conversion.net_names import holds_its_weights

    name, found = source_argument(text)
    if name and isinstance(found, str) and holds_its_weights(found):
        return name, (found, None)
    if not name or isinstance(found, str):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=NET.prototxt:WEIGHTS or NAME=NET.onnx")
    return name, found


def _classes(text: str) -> tuple[str, list[int]]:
    name, _, numbers = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=C,C,...")
    return name, classes_argument(numbers)


def _mean(text: str) -> list[float] | str:
    """Return values, or the path of a mean image."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        if text.lower().endswith(".binaryproto"):
            return text
        message = f"'{text}' is neither numbers such as 104,117,123 nor a file that ends in .binaryproto"
        raise argparse.ArgumentTypeError(message) from None


if __name__ == "__main__":
    sys.exit(main())
