"""The source blob for each blob of a fused net, and the errors of those that do not fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from fusion.errors import BuildError, MergeError
from fusion.merge.compare_settings import differing_settings
from fusion.merge.errors import layer_error, missing_layer, missing_source, shape_mismatch, unused_arguments
from fusion.merge.initial_fillers import initial_filler, initial_text
from fusion.merge.onnx import match_onnx
from fusion.merge.plan import FromFiller, FromSource, Origin, ShapesAndOrigins, shapes_text
from fusion.merge.sources import MergeSource
from fusion.merge.targets import TargetLayer
from fusion.onnx.sidecar import ONNX
from prototxt.formats.index import resolve_shape, shape_fits
from prototxt.text.source_places import place_of


@dataclass
class Matching:
    """The matches so far.

    found    shapes and origins by layer
    offered  the layers with weights of each source
    orphans  frozen layers by prefixes that no source has
    differing  layers with settings other than in their source, as far as the weights do not depend on them
    unread   whether an ONNX file cannot be read, so that the shapes after it are not known
    """

    found: dict[str, ShapesAndOrigins] = field(default_factory=dict)
    offered: dict[str, list[str]] = field(default_factory=dict)
    orphans: dict[str, list[TargetLayer]] = field(default_factory=dict)
    errors: list[MergeError] = field(default_factory=list)
    differing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()
    unread: bool = False


Missing = tuple[TargetLayer, MergeError, bool]
"""A layer that its source does not have, the error that says so, and whether it may start from its fillers."""


def match_layers(
    targets: Sequence[TargetLayer],
    sources: Mapping[str, MergeSource],
    allow: Sequence[str],
    fresh: Collection[str] = (),
) -> Matching:
    """Match the fused net's layers with the sources' by prefix and name; those in `fresh` start from their fillers."""
    result = Matching(offered={prefix: list(source.weights) for prefix, source in sources.items()})
    deferred: list[Missing] = []
    for target in targets:
        item = target
        if item.layer.name not in fresh:
            _compare_settings(item, source_of(item.layer.name, sources), result)
        if item.layer.type == ONNX:
            found, errors = match_onnx(item, source_of(item.layer.name, sources))
            result.errors += errors
            result.unread |= bool(errors)
            if found is None or item.layer.name in fresh or not _given(item, sources):
                result.found.update({item.layer.name: found} if found else {})
                continue
            item = replace(item, shapes=found[0])
        if item.shapes == ():
            continue
        if item.layer.name in fresh:
            _fill(item, result)
            continue
        permitted = any(fnmatchcase(item.layer.name, pattern) for pattern in allow)
        source = source_of(item.layer.name, sources)
        if source is None:
            _without_source(item, sources, permitted, result)
            continue
        problem = _take(item, source, result)
        if problem is None:
            continue
        if item.shapes and all(item.share_name(index) for index in range(len(item.shapes))):
            # its blobs may come from the owner of a shared name, which can be a later layer
            deferred.append((item, problem, permitted))
        else:
            _fill_or_refuse((item, problem, permitted), result)
    _share(targets, deferred, sources, result)
    result.errors += [missing_source(prefix, items, sources) for prefix, items in result.orphans.items()]
    result.errors += unused_arguments(targets, sources, allow)
    return result


def _given(item: TargetLayer, sources: Mapping[str, MergeSource]) -> bool:
    """Return whether a source's weights, instead of an ONNX file, have those of the Onnx layer."""
    source = source_of(item.layer.name, sources)
    return source is not None and source.own_name(item.layer.name) in source.weights


def source_of(name: str, sources: Mapping[str, MergeSource]) -> MergeSource | None:
    """Return the source with the longest prefix of the fused layer's name; the prefix "" matches every name."""
    for prefix, source in sources.items():
        if not prefix or name.startswith(f"{prefix}/"):
            return source
    return None


def _compare_settings(item: TargetLayer, source: MergeSource | None, result: Matching) -> None:
    """Note, or refuse, settings other than in the source's prototxt, where that was given."""
    if source is None or source.layers is None:
        return
    theirs = source.layers.get(source.own_name(item.layer.name))
    if theirs is None:
        return
    grave, slight = differing_settings(item.layer, theirs)
    if grave:
        message = f"would read its weights in another way: {'; '.join(grave)} ({source.prototxt})"
        result.errors.append(layer_error(item, message, "give both descriptions the same setting"))
    if slight:
        result.differing[item.layer.name] = tuple(slight)


def _take(item: TargetLayer, source: MergeSource, result: Matching) -> MergeError | None:
    """Take the layer's blobs from its source; return an error if they do not fit."""
    name = source.own_name(item.layer.name)
    if source.layers is not None and name not in source.layers:
        return missing_layer(item, source, name, source.prototxt, source.layers)
    if name not in source.weights:
        return missing_layer(item, source, name, source.label, source.weights)
    have = source.shapes(name)
    want = item.shapes
    kinds = (source.layers[name].type if source.layers is not None else "") or source.blob_type(name)
    if kinds and kinds != item.layer.type:
        return layer_error(
            item,
            f"is of type {item.layer.type} in the fused net, but '{name}' in {source.label} is of type {kinds}",
            "the weights of one type mean something else in another: rename the layer or correct its type",
        )
    if want is None:  # the layer type's shapes are not known: the source's are taken unchecked
        result.found[item.layer.name] = (tuple(have), _blobs_from(source, name, len(have)))
        return None
    if len(have) != len(want) or not all(map(shape_fits, have, want)):
        return shape_mismatch(item, source, name, have, want)
    shapes = tuple(resolve_shape(h, w) for h, w in zip(have, want, strict=True))
    result.found[item.layer.name] = (shapes, _blobs_from(source, name, len(have)))
    return None


def _blobs_from(source: MergeSource, name: str, count: int) -> tuple[Origin, ...]:
    return tuple(FromSource(source.prefix, name, index) for index in range(count))


def _without_source(item: TargetLayer, sources: Mapping[str, MergeSource], permitted: bool, result: Matching) -> None:
    """Fill a new layer; but one that is frozen and prefixed is an error, since its source was probably forgotten."""
    prefix, slash, _ = item.layer.name.partition("/")
    # Upsampling by interpolation is frozen at its filler on purpose.
    layer = item.layer
    upsampling = layer.type == "Deconvolution" and layer.convolution_param.weight_filler.type == "bilinear"
    if slash and item.frozen and not permitted and not upsampling:
        result.orphans.setdefault(prefix, []).append(item)
    else:
        _fill(item, result)


def _fill_or_refuse(missing: Missing, result: Matching) -> None:
    """Fill a layer that its source does not have, where that is permitted, else note the error."""
    item, problem, permitted = missing
    if permitted:
        result.allowed += (item.layer.name,)
        _fill(item, result)
    else:
        result.errors.append(problem)


def _fill(item: TargetLayer, result: Matching) -> None:
    layer = item.layer
    if item.shapes is None:
        if layer.param:
            hint = "give weights for it by a source with its prefix"
            result.errors.append(layer_error(item, "has blobs of unknown shapes", hint))
        return
    unknown = [index for index, shape in enumerate(item.shapes) if None in shape]
    if unknown and result.unread:
        return
    if unknown:
        result.errors.append(
            layer_error(
                item,
                f"is new, but the shape of its blob {unknown[0]} is not known: {shapes_text(item.shapes)}",
                "give the shape of the net's input: --input-shape data=1,3,224,224",
            )
        )
        return
    shapes = tuple(tuple(int(dim or 0) for dim in shape) for shape in item.shapes)
    try:
        for index, shape in enumerate(shapes):
            initial_filler(layer, index, len(shape))
        fills = (FromFiller(layer.name, i, initial_text(layer, i, len(shape))) for i, shape in enumerate(shapes))
        result.found[layer.name] = (shapes, tuple(fills))
    except BuildError as error:
        result.errors.append(MergeError(error.message, place=place_of(layer), hint=error.hint))


def _share(
    targets: Sequence[TargetLayer],
    deferred: Sequence[Missing],
    sources: Mapping[str, MergeSource],
    result: Matching,
) -> None:
    """Give layers that share by `param { name }` the first one's blob. Notes an error where their weights differ."""
    owners: dict[str, tuple[str, int]] = {}
    for item in targets:
        _check_shared(item, owners, sources, result)
    for missing in deferred:
        item, *_ = missing
        homes = [owners.get(item.share_name(index)) for index in range(len(item.shapes or ()))]
        if any(home is None for home in homes):
            _fill_or_refuse(missing, result)
            _check_shared(item, owners, sources, result)
            continue
        shapes = tuple(
            resolve_shape(result.found[home[0]][0][home[1]], want)
            for home, want in zip(homes, item.shapes or (), strict=True)
            if home is not None
        )
        origins = tuple(result.found[home[0]][1][home[1]] for home in homes if home is not None)
        result.found[item.layer.name] = (shapes, origins)


def _check_shared(
    item: TargetLayer, owners: dict[str, tuple[str, int]], sources: Mapping[str, MergeSource], result: Matching
) -> None:
    """Give the layer's shared fillers their owners' origins, and note an error where it has weights of its own."""
    name = item.layer.name
    for index in range(len(result.found.get(name, ((), ()))[0])):
        share = item.share_name(index)
        owner = owners.setdefault(share, (name, index)) if share else (name, index)
        if owner == (name, index):
            continue
        shapes, origins = result.found[name]
        theirs = result.found[owner[0]][1][owner[1]]
        ours = origins[index]
        if isinstance(ours, FromFiller):
            result.found[name] = (shapes, (*origins[:index], theirs, *origins[index + 1 :]))
        elif (
            not isinstance(ours, FromSource)
            or not isinstance(theirs, FromSource)
            or not _same_values(sources, ours, theirs)
        ):
            message = f"shares parameter '{share}' with layer '{owner[0]}', but the two would get different weights"
            hint = "two branches must not share by one name: rename the sources with fusion-rename, which prefixes it"
            result.errors.append(layer_error(item, message, hint))


def _same_values(sources: Mapping[str, MergeSource], ours: FromSource, theirs: FromSource) -> bool:
    # Blobs of different sources may share if their bytes are equal, e.g. if both were made from one net.
    first = sources[ours.prefix].weights[ours.layer][ours.index]
    second = sources[theirs.prefix].weights[theirs.layer][theirs.index]
    return first.size == second.size and first.tobytes() == second.tobytes()
