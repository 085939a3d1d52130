"""fusion-convert images, list and mean: make databases, lists and mean images for training, without Caffe."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .arguments import add_options
from .cli import run_command
from .command_parser import CommandParser

if TYPE_CHECKING:
    from fusion.data.convert_imageset import Progress
    from fusion.data.image_options import WriteResult

COMMANDS = ("images", "list", "mean")
_SHOWN = 5


def parser(prog: str = "fusion-convert") -> CommandParser:
    """Build the command line of the three commands."""
    result = CommandParser(prog, description="Make the data files for training, as Caffe's tools do.")
    commands = result.add_subparsers(dest="command", required=True)
    images = commands.add_parser(
        "images",
        help="write images into an LMDB or LevelDB, or those of MNIST and CIFAR into class folders",
        description="Write the images of a list (lines 'path label', or a CSV), of a folder of class folders, of an "
        "idx file of MNIST or of batches of CIFAR ('data_batch_*') into a new database, as convert_imageset does.",
    )
    add = images.add_argument
    add("source", metavar="SRC", help="the list, folder, idx file or batches")
    add("root", metavar="ROOT", nargs="?", default="", help="put before each path of the list, unchanged ('images/')")
    add("output", metavar="OUT", help="the folder to write, which must not exist yet")
    kind = images.add_mutually_exclusive_group(required=True)
    kind.add_argument("--lmdb", action="store_true", help="write an LMDB")
    kind.add_argument("--leveldb", action="store_true", help="write a LevelDB")
    kind.add_argument("--folder", action="store_true", help="write class folders, of an idx file or batches")
    _add_image_options(images)
    add("--encoded", action="store_true", help="store compressed images: the files themselves where nothing changes")
    add(
        "--encode-type",
        default="",
        metavar="TYPE",
        help="png or jpg for all (implies --encoded; default: as read)",
    )
    add("--shuffle", action="store_true", help="shuffle the list")
    add_options(images, "--seed", default=0)
    add("--check-size", action="store_true", help="fail if an image differs in size from the first")
    _add_list(commands)
    mean = commands.add_parser(
        "mean",
        help="compute the mean image of a database or a list",
        description="Write the mean over all records as a .binaryproto file, as compute_image_mean does.",
    )
    add = mean.add_argument
    add("source", metavar="DB|LIST", help="an LMDB's or LevelDB's folder, a list of images, or a folder of "
        "class folders")  # fmt: skip
    add("output", metavar="OUT.binaryproto", help="the mean file")
    add_options(mean, "--root", note="for a list")
    _add_image_options(mean)
    return result


def _add_list(commands: argparse._SubParsersAction[CommandParser]) -> None:
    command = commands.add_parser(
        "list",
        help="write the images of class folders as a list, or as a training and a validation list",
        description="Write the images of DIR, a folder of class folders, as lines 'path label', sorted by class: train "
        "with shuffle: true. A list may be given instead of DIR, to be divided.",
    )
    command.add_argument("source", metavar="DIR", help="the folder of class folders, or a list")
    add_options(command, "--output", required=True)
    add_options(command, "--val-share")
    command.add_argument("--val-output", metavar="OUT", help="with --val-share: the list of the records kept back")
    add_options(command, "--seed", default=0)
    add_options(command, "--labels", note="read if the file exists, to number the classes, else written")
    command.add_argument("--label-map", metavar="OLD=NEW,...", type=_label_map, help="renumber the labels, such as "
        "3=0,1=1; records of other labels are left out")  # fmt: skip
    add_options(command, "--quiet")


def _label_map(text: str) -> dict[int, int]:
    """Parse `3=0,1=1`."""
    pairs = [part.strip().partition("=")[::2] for part in text.split(",")]
    if not all(old.strip().isdecimal() and new.strip().isdecimal() for old, new in pairs):
        raise argparse.ArgumentTypeError(f"'{text}' is no map of labels: give OLD=NEW,..., such as 3=0,1=1")
    return {int(old): int(new) for old, new in pairs}


def _add_image_options(to: argparse.ArgumentParser) -> None:
    add = to.add_argument
    add_options(to, "--resize")
    add("--gray", action="store_true", help="one channel instead of three")
    add_options(to, "--on-bad-record", "--quiet")


def main(argv: Sequence[str] | None = None, prog: str = "fusion-convert") -> int:
    """Convert; return 0 on success, 1 for an error in a file, 2 for bad usage."""
    usage = parser(prog)
    options = usage.parse_args(argv)
    if options.command == "list":
        if (options.val_share is None) != (options.val_output is None):
            usage.error("--val-share and --val-output go together: -o train.txt --val-share 0.1 --val-output val.txt")
        return run_command(lambda: _lists(options))
    work = _images if options.command == "images" else _mean
    code: int = run_command(lambda: _report(work(options), options))
    return code


def _lists(options: argparse.Namespace) -> None:
    from fusion.data.list_files import write_lists

    outputs = [path for path in (options.output, options.val_output) if path is not None]
    lines = write_lists(
        options.source,
        outputs,
        share=options.val_share,
        seed=options.seed,
        labels=options.labels,
        label_map=options.label_map,
    )
    for line in lines:
        if not options.quiet:
            print(line)


def _images(options: argparse.Namespace) -> WriteResult:
    from fusion.data.array_writers import write_class_folders
    from fusion.data.convert_imageset import write_images
    from fusion.data.image_options import ImageOptions

    image_options = ImageOptions(
        size=options.resize,
        gray=options.gray,
        encoded=options.encoded or bool(options.encode_type),
        encode_type=options.encode_type,
        shuffle=options.seed if options.shuffle else None,
        check_size=options.check_size,
    )
    if options.folder:
        return write_class_folders(options.source, options.output, image_options)
    return write_images(
        options.source,
        options.root,
        options.output,
        image_options,
        lmdb=options.lmdb,
        on_bad_record=options.on_bad_record,
        progress=_progress(options.quiet),
    )


def _mean(options: argparse.Namespace) -> WriteResult:
    from fusion.data.convert_imageset import write_mean_image

    return write_mean_image(
        options.source,
        options.output,
        root=options.root,
        size=options.resize,
        gray=options.gray,
        on_bad_record=options.on_bad_record,
        progress=_progress(options.quiet),
    )


def _report(written: WriteResult, options: argparse.Namespace) -> None:
    if written.skipped:
        print(f"warning: {len(written.skipped)} records could not be read and were left out:", file=sys.stderr)
        for error in written.skipped[:_SHOWN]:
            print(f"  {error.place}: {error.message}", file=sys.stderr)
    if not options.quiet:
        content = "the mean of " if options.command == "mean" else ""
        print(f"{options.output}: {content}{written.records} records")


def _progress(quiet: bool) -> Progress | None:
    if quiet or not sys.stderr.isatty():
        return None
    # a carriage return overwrites the line until the last call ends it
    return lambda done, total: print(f"\r{done} of {total}", end="\n" if done == total else "", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
