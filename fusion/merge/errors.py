"""The errors of layers that cannot take their weights from the sources, each with the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from fusion.errors import MergeError
from fusion.merge.plan import shapes_text
from fusion.merge.sources import MergeSource
from fusion.merge.targets import TargetLayer
from prototxt.errors import did_you_mean
from prototxt.formats.index import Shape
from prototxt.text.source_places import place_of


def missing_layer(
    item: TargetLayer, source: MergeSource, name: str, where: str, names: Mapping[str, object]
) -> MergeError:
    """Return the error of a source without a layer `name`; `where` is the file searched."""
    remedy = "give the weights of the net that the branch was made of, or allow it to start from its filler:"
    remedy = f"{remedy} --allow-missing {item.layer.name}"
    needs = f" of shape {shapes_text(item.shapes)}" if item.shapes else ""
    text = f"needs weights{needs} from source '{source.prefix}', but {where} has no layer '{name}'"
    return layer_error(item, text, did_you_mean(name, [one for one in names if one in source.weights], also=remedy))


def shape_mismatch(
    item: TargetLayer, source: MergeSource, name: str, have: Sequence[Shape], want: Sequence[Sequence[int | None]]
) -> MergeError:
    """Return the error of a source whose layer has blobs of other shapes."""
    text = f"needs blobs of shape {shapes_text(want)}, but '{name}' in {source.label} has {shapes_text(have)}"
    remedy = "are these the weights of another net? to start the layer from its filler instead:"
    return layer_error(item, text, f"{remedy} --allow-missing {item.layer.name}")


def missing_source(prefix: str, items: Sequence[TargetLayer], sources: Mapping[str, MergeSource]) -> MergeError:
    """Return one error for all layers of a branch whose source was not given."""
    known = ", ".join(f"'{name}'" for name in sorted(sources)) or "none"
    # one forgotten source would otherwise be an error for each of its layers
    subject = f"and {len(items) - 1} more of '{prefix}/' are" if len(items) > 1 else "is"
    return layer_error(
        items[0],
        f"{subject} frozen, and no source has the prefix '{prefix}' (given: {known})",
        f"add {prefix}=WEIGHTS, or allow them to start from their fillers: --allow-missing '{prefix}/*'",
    )


def unused_arguments(
    targets: Sequence[TargetLayer], sources: Mapping[str, MergeSource], allow: Sequence[str]
) -> list[MergeError]:
    """Return an error for each source and pattern that matches no layer of the fused net."""
    names = [item.layer.name for item in targets]
    found = sorted({name.partition("/")[0] for name in names if "/" in name})
    errors = []
    for prefix, source in sources.items():
        if prefix and not any(name.startswith(f"{prefix}/") for name in names):
            hint = f"the prefixes in it are {', '.join(found)}" if found else "no layer in it has a prefix"
            text = f"source '{prefix}': no layer of the fused net begins with '{prefix}/'"
            errors.append(MergeError(text, place=source.label, hint=hint))
    for pattern in allow:
        if not any(fnmatchcase(name, pattern) for name in names):
            hint = did_you_mean(pattern, names, "name a layer of the fused net")
            errors.append(MergeError(f"--allow-missing {pattern}: the fused net has no such layer", hint=hint))
    return errors


def layer_error(item: TargetLayer, message: str, hint: str) -> MergeError:
    """Return an error of a layer, at its place in the prototxt."""
    return MergeError(f"layer '{item.layer.name}' {message}", place=place_of(item.layer), hint=hint)
