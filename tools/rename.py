"""fusion-rename: prefix the names of a net's layers and blobs, and freeze it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .arguments import add_options
from .cli import run_command
from .command_parser import CommandParser

if TYPE_CHECKING:
    from prototxt.edit.rename import RenameResult


def parser(prog: str = "fusion-rename") -> CommandParser:
    """Build the command line."""
    result = CommandParser(
        prog,
        description="Put PREFIX/ before the names of a net's layers, blobs and shared parameters, and freeze the net. "
        "Inputs and the tops of data layers keep their names, so that several nets can share them. The rest of the "
        "file stays unchanged, byte for byte.",
    )
    add = result.add_argument
    add("input", metavar="IN", help="the net's prototxt; - reads standard input")
    add("output", metavar="OUT", help="file to write; may be IN; - writes standard output")
    add("prefix", metavar="PREFIX", help="e.g. odd: the layer conv1 becomes odd/conv1")
    add("--no-freeze", action="store_true", help="rename only")
    add("--freeze", metavar="REGEX", help="freeze only layers whose old name matches")
    add("--thaw", metavar="REGEX", help="do not freeze layers whose old name matches")
    add("--keep", metavar="BLOB", action="append", default=[], help="keep this blob's name too")
    add("--all", action="store_true", help="rename the inputs and the tops of data layers as well")
    add("--again", action="store_true", help="rename even if every layer has the prefix already")
    add("--propagate-down", action="store_true", help="write propagate_down: false at the frozen boundary as well")
    add("--weights", metavar="WEIGHTS", help="the net's weights, for the number of blobs of unknown layer types")
    add_options(result, "--quiet")
    return result


def main(argv: Sequence[str] | None = None, prog: str = "fusion-rename") -> int:
    """Rename and freeze; return 0 on success, 1 for an error in the net or a file, 2 for bad usage."""
    options = parser(prog).parse_args(argv)
    if options.no_freeze and (options.freeze is not None or options.thaw is not None or options.propagate_down):
        parser(prog).error("--no-freeze cannot go with --freeze, --thaw or --propagate-down")
    code: int = run_command(lambda: _rename(options))
    return code


def _rename(options: argparse.Namespace) -> int:
    from prototxt.edit.rename import RenameOptions, rename_reported
    from prototxt.files import write_text
    from prototxt.sniff.text_encoding import to_source
    from prototxt.text.parser import parse, parse_file

    if options.input == "-":
        document = parse(to_source(sys.stdin.buffer.read(), "<stdin>"), "<stdin>", tolerant=True)
    else:
        document = parse_file(options.input, tolerant=True)
    chosen = RenameOptions(
        freeze=not options.no_freeze,
        freeze_pattern=options.freeze,
        thaw_pattern=options.thaw,
        keep=options.keep,
        all=options.all,
        again=options.again,
        propagate_down=options.propagate_down,
        blob_counts=_blob_counts(options.weights),
    )
    renamed = rename_reported(document, options.prefix, chosen)
    if options.output == "-":
        # bytes that are no UTF-8 were read as surrogates and leave as the same bytes
        sys.stdout.buffer.write(str(renamed.document).encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
    else:
        write_text(options.output, str(renamed.document))
    for error in document.errors:
        print(f"warning: left unchanged: {error}", file=sys.stderr)
    for note in renamed.notes:
        print(f"warning: {note}", file=sys.stderr)
    if not options.quiet:
        print(_change_list(renamed), file=sys.stderr if options.output == "-" else sys.stdout)
    return 0


def _change_list(renamed: RenameResult) -> str:
    """List the changes, a line per layer and a total."""
    width = max((len(change.renamed) for change in renamed.changes), default=0)
    lines = [f"{change.renamed:<{min(width, 40)}}  {', '.join(change.done)}".rstrip() for change in renamed.changes]
    frozen = sum(bool(change.done) for change in renamed.changes)
    return "\n".join([*lines, f"{len(lines)} layers, {frozen} of them changed by freezing"])


def _blob_counts(path: str | None) -> Mapping[str, int] | None:
    if path is None:
        return None
    from prototxt.formats.scan import blob_counts

    counts: Mapping[str, int] = blob_counts(path)
    return counts


if __name__ == "__main__":
    sys.exit(main())
