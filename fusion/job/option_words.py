"""A table of a job as options of a command: the keys are the command's own options, so that no second list exists."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from fusion.errors import ComposeError
from prototxt.errors import did_you_mean

# The options that a job sets itself, or by which a command would do something else than its step.
_OWN: Final[Mapping[str, str]] = {
    "merge": "output dry_run json verify stage drop num_output reinit net_output",
    "verify": "against json quiet",
    "train": "solver model weights snapshot resume dry_run time iterations log quiet sweep out reference pct kd_alpha "
    "max_iter lr",
    "test": "model weights predictions logits heads classes labels name list json quiet",
    "report": "old new featured baseline html json write_json log labels max_nfr max_nfr_upper min_accuracy budget",
    "export": "output_file json",
}
_ELSEWHERE: Final = {
    **dict.fromkeys(("max_iter", "lr"), "write max_iter and base_lr under [solver]"),
    **dict.fromkeys(("reference", "pct", "kd_alpha"), 'write pct = "auto" at the top, or [[pct]] with kind = "focal"'),
    **dict.fromkeys(("max_nfr", "max_nfr_upper", "min_accuracy", "budget"), "write the limits under [gate]"),
    "labels": "write labels at the top: the fused net keeps them",
    "list": "write test_list under [data]",
}


def option_words(table: Mapping[str, Any], command: str, parser: argparse.ArgumentParser) -> list[str]:
    """Return a table's entries as words of a command line. Raises: ComposeError whose place is the bad key."""
    own = {*_OWN[command].split(), "help", "version"}
    known = {
        name[2:].replace("-", "_"): action
        for action in parser._actions
        for name in action.option_strings
        if name.startswith("--") and not (isinstance(action, argparse.BooleanOptionalAction) and "--no-" in name)
    }
    words = []
    for key, value in table.items():
        place = f"{command}.{key}"
        if key in own:
            hint = _ELSEWHERE.get(key, "leave it out")
            raise ComposeError(f"'{place}' is set by the job itself", place=place, hint=hint)
        if key not in known:
            names = sorted(known.keys() - own)
            hint = did_you_mean(key, names) or f"one of {', '.join(names)}"
            raise ComposeError(f"there is no key '{place}'", place=place, hint=hint)
        words += _words(known[key], place, value)
    return words


def _words(action: argparse.Action, place: str, value: Any) -> list[str]:
    """Return an option with its value. Raises: ComposeError for a value of another kind."""
    flag = f"--{place.rpartition('.')[2].replace('_', '-')}"
    is_list = action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction)
    values = value if isinstance(value, list) and is_list else [value]
    if any(isinstance(item, bool) != (action.nargs == 0) or isinstance(item, (dict, list)) for item in values):
        kind = "true or false" if action.nargs == 0 else "a list of texts or numbers" if is_list else "a text or number"
        raise ComposeError(f"'{place}' is {value!r}, not {kind}", place=place)
    if action.nargs == 0:
        negated = f"--no-{flag[2:]}"
        return [flag] if value else [negated] if negated in action.option_strings else []
    if action.nargs in ("+", "*"):
        return [flag, *map(str, values)]
    # a value that looks like an option is joined to its own
    return [word for text in map(str, values) for word in ([f"{flag}={text}"] if text[:1] == "-" else [flag, text])]


def check_words(words: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Check a command line. Raises: ComposeError with the command's message."""

    def refuse(message: str) -> NoReturn:
        raise ComposeError(message)

    parser.error = refuse  # type: ignore[method-assign]  # instead of ending the process
    parser.parse_args(words)
