"""fusion-convert images and fusion-convert mean: make databases and mean images for training, without Caffe."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .arguments import add_options
from .cli import run_command
from .command_parser import CommandParser

if TYPE_CHECKING:
    from fusion.data.convert_imageset import Progress, WriteResult

COMMANDS = ("images", "mean")
_SHOWN = 5


def parser(prog: str = "fusion-convert") -> CommandParser:
    """Build the command line of both commands."""
    result = CommandParser(prog, description="Make the data files for training, as Caffe's tools do.")
    commands = result.add_subparsers(dest="command", required=True)
    images = commands.add_parser(
        "images",
        help="write the images of a list into an LMDB or LevelDB",
        description="Write the images of LIST (lines 'path label') into a new database, as convert_imageset does.",
    )
    add = images.add_argument
    add("list", metavar="LIST", help="the list of images")
    add("root", metavar="ROOT", help="put before each path of the list, unchanged ('images/'; '' for none)")
    add("output", metavar="OUT", help="the database's folder, which must not exist yet")
    kind = images.add_mutually_exclusive_group(required=True)
    kind.add_argument("--lmdb", action="store_true", help="write an LMDB")
    kind.add_argument("--leveldb", action="store_true", help="write a LevelDB")
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
    mean = commands.add_parser(
        "mean",
        help="compute the mean image of a database or a list",
        description="Write the mean over all records as a .binaryproto file, as compute_image_mean does.",
    )
    add = mean.add_argument
    add("source", metavar="DB|LIST", help="an LMDB's or LevelDB's folder, or a list of images")
    add("output", metavar="OUT.binaryproto", help="the mean file")
    add_options(mean, "--root", note="for a list")
    _add_image_options(mean)
    return result


def _add_image_options(to: argparse.ArgumentParser) -> None:
    add = to.add_argument
    add_options(to, "--resize")
    add("--gray", action="store_true", help="one channel instead of three")
    add_options(to, "--on-bad-record", "--quiet")


def main(argv: Sequence[str] | None = None, prog: str = "fusion-convert") -> int:
    """Convert; return 0 on success, 1 for an error in a file, 2 for bad usage."""
    options = parser(prog).parse_args(argv)
    work = _images if options.command == "images" else _mean
    code: int = run_command(lambda: _report(work(options), options))
    return code


def _images(options: argparse.Namespace) -> WriteResult:
    from fusion.data.convert_imageset import ImageOptions, write_images

    image_options = ImageOptions(
        size=options.resize,
        gray=options.gray,
        encoded=options.encoded or bool(options.encode_type),
        encode_type=options.encode_type,
        shuffle=options.seed if options.shuffle else None,
        check_size=options.check_size,
    )
    return write_images(
        options.list,
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
