"""Resolve the stages of a source: remove layers of other stages, and rewrite the rules of the others as phases.

DIGITS writes a net's layers for training, validation and use into one file, which stages distinguish. A fused net is
written without stages, so that its solver needs no states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fusion.composition.net_text import PHASES, NetText, keep_layers, read_net
from fusion.composition.source import Source
from fusion.errors import ComposeError, raise_all

_BY_PHASE: Final[Mapping[str, tuple[str, ...]]] = {"train": ("TRAIN",), "val": ("TEST",), "test": ("TEST",)}
_RULES: Final = ("include", "exclude")
_BESIDE_PHASE: Final = ("stage", "not_stage", "min_level", "max_level")


def stages_by_phase(stages: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the stages that hold in each phase.

    `train` holds in phase TRAIN, `val` and `test` in TEST, as in DIGITS, and any other in both, unless it is given with
    its phase: `TEST=train`.
    Raises: ComposeError for an unknown phase.
    """
    found: dict[str, list[str]] = {phase: [] for phase in PHASES}
    for text in stages:
        phase, equals, stage = text.partition("=")
        if equals and phase not in PHASES:
            raise ComposeError(f"stage '{text}': there is no phase '{phase}'", hint="as in STAGE, or TEST=STAGE")
        for name in (phase,) if equals else _BY_PHASE.get(text, PHASES):
            found[name].append(stage if equals else text)
    return {phase: tuple(dict.fromkeys(names)) for phase, names in found.items()}


def resolve_stages(net: NetText, source: Source, notes: list[str]) -> tuple[NetText, tuple[str, ...]]:
    """Return the net with rules of phases alone, without layers that are in no phase; and the stages that it names.

    Raises: ComposeError where a layer reads a blob that only layers of other stages make; DecodeError.
    """
    from prototxt.schema.filter import filter_net, stages_of, unmet_stages
    from prototxt.schema.load import load_net

    rules = [(layer, rule) for layer in net.layers for name in _RULES for rule in layer.message.messages(name)]
    ruled = {layer.number for layer, rule in rules if any(rule.get(name) is not None for name in _BESIDE_PHASE)}
    if not ruled:
        return net, ()
    message, active = load_net(net.document, strict=False), stages_by_phase(source.stages)
    errors = []
    for phase in PHASES:
        error = unmet_stages(message, filter_net(message, phase, message.state.level, active[phase]))
        if error is not None:
            error_text, hint = f"{source}: {error.message}", _hint(stages_of(message))
            errors.append(ComposeError(error_text, place=error.place, hint=hint))
    raise_all(errors[:1])  # the other phase mostly has the same error
    named = stages_of(message)
    used = [f"{stage} ({phase})" for phase in PHASES for stage in active[phase] if stage in named]
    notes += [f"{source}: stages {', '.join(used)}"] if used else []
    present = read_net(net.document, active)
    kept = frozenset(layer.number for layer in present.layers if layer.phases)
    return keep_layers(_in_phases(present, ruled), kept), named


def check_stages(prefixes: Sequence[str], given: Sequence[str], named: Sequence[str]) -> None:
    """Check that each stage is named by a source. Raises: ComposeError."""
    requested = {stage for stages in stages_by_phase(given).values() for stage in stages}
    if unknown := sorted(requested - set(named)):
        hint = f"they name {', '.join(dict.fromkeys(named))}" if named else "none of them names any; omit it"
        raise ComposeError(f"no source ({', '.join(prefixes)}) names the stage {', '.join(unknown)}", hint=hint)


def _hint(named: Sequence[str]) -> str:
    usual = [stage for stage in named if stage in _BY_PHASE]
    example = " ".join(f"--stage {stage}" for stage in (usual or named[:1]))
    return f"name the stages that hold, such as {example}; it names {', '.join(named)}"


def _in_phases(net: NetText, numbers: set[int]) -> NetText:
    """Return the net with the rules of these layers rewritten as phases."""
    from prototxt.text.edits import Edits

    edits = Edits(net.document)
    for layer in net.layers:
        if layer.number in numbers:
            # One rule becomes the phase, in its place in the file; the others go.
            first, *others = [rule for name in _RULES for rule in layer.message.all(name)]
            if len(layer.phases) == 1:
                edits.replace(first, f"include {{ phase: {layer.phases[0]} }}")
            else:
                edits.remove(first)
            for rule in others:
                edits.remove(rule)
    return read_net(edits.apply())
