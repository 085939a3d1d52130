"""The fused net's losses: parsed from a command line, read from a source, compared, and written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fusion.composition.net_text import LayerText, format_layer, format_value, quoted
from fusion.errors import ComposeError
from prototxt.errors import did_you_mean
from prototxt.shapes.loss_kinds import LOSS_KINDS, LossKind

SUPPORTED: Final = tuple(name for name, kind in LOSS_KINDS.items() if kind.labels != "pair")
CHOICES: Final = (
    "--loss TYPE[,PARAMETER=VALUE...], where TYPE is SoftmaxWithLoss, InfogainLoss, MultinomialLogisticLoss or "
    "HingeLoss for classes, SigmoidCrossEntropyLoss for a yes or no per output, EuclideanLoss or SmoothL1Loss for "
    "values; e.g. --loss SoftmaxWithLoss,ignore_label=255"
)
_WEIGHT: Final = "loss_weight"
_NAMES: Final = ("name", "type", "bottom", "top", "include", "exclude", "param", "propagate_down", "phase")


@dataclass(frozen=True)
class Loss:
    """A loss on a classifier's scores.

    type     Caffe's layer type
    options  its parameters by name, such as {"ignore_label": 255, "loss_weight": 3}
    label    the blob that it compares the scores with; None: that of the source whose data is used
    bottoms  further blobs that it reads, such as the matrix of an InfogainLoss
    """

    type: str
    options: Mapping[str, object] = field(default_factory=dict)
    label: str | None = None
    bottoms: tuple[str, ...] = ()

    @property
    def kind(self) -> LossKind:
        """Return how the loss interprets its bottoms."""
        return LOSS_KINDS[self.type]


def parse_loss(text: str) -> Loss:
    """Read `SoftmaxWithLoss,ignore_label=255`, perhaps with `label=BLOB`. Raises: ComposeError."""
    type_name, *rest = [part.strip() for part in text.split(",")]
    options: dict[str, object] = {}
    for item in rest:
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not name or not value:
            raise ComposeError(f"loss '{text}': '{item}' has no value", hint="e.g. SoftmaxWithLoss,ignore_label=255")
        before = options.get(name)  # a repeated parameter becomes a list
        options[name] = value if before is None else [*(before if isinstance(before, list) else [before]), value]
    label = options.pop("label", None)
    return validate_loss(Loss(type_name, options, None if label is None else str(label)))


def validate_loss(loss: Loss) -> Loss:
    """Return the loss with its options under `block.name` and as literals of prototxt.

    Raises: ComposeError for a type that no head supports, and for parameters that the type does not have.
    """
    if loss.type not in LOSS_KINDS or loss.kind.labels == "pair":
        hint = did_you_mean(loss.type, SUPPORTED, also=f"one of {', '.join(SUPPORTED)}")
        raise ComposeError(f"loss '{loss.type}': {unsupported_reason(loss.type)}", hint=hint)
    options: dict[str, object] = {}
    for name, value in loss.options.items():
        key, descriptor = _resolve_option(loss.type, name)
        values = value if isinstance(value, (list, tuple)) else (value,)
        options[key] = tuple(_literal(loss.type, name, item, descriptor) for item in values)
    return replace(loss, options=options)


def unsupported_reason(type_name: str) -> str:
    """Return why no head supports this type of loss."""
    if type_name in LOSS_KINDS:
        return "it compares the features of pairs of samples, and a classifier scores one sample at a time"
    return "how it compares scores with labels is not known here"


def read_loss(layer: LayerText, label: str | None, bottoms: tuple[str, ...] = ()) -> Loss:
    """Read a source's loss with all its parameters, as in its file."""
    from prototxt.schema.scalars import is_repeated

    options: dict[str, list[str]] = {}
    values = [(item.name, value) for item in layer.message.fields if item.name not in _NAMES for value in item.values]
    for key, raw in (scalar for name, value in values for scalar in _scalars(name, value)):
        options.setdefault(key, []).append(raw)
    options[_WEIGHT] = options.get(_WEIGHT, [])[:1]  # a second weight is that of the output probabilities
    repeated = [key for key in options if (descriptor := _descriptor(key)) is not None and is_repeated(descriptor)]
    literals = {key: tuple(raws if key in repeated else raws[-1:]) for key, raws in options.items() if raws}
    return Loss(layer.type, literals, label, bottoms)


def _scalars(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the literals in a field, under dotted names."""
    from prototxt.text.tree import Message

    if not isinstance(value, Message):
        yield name, value.raw
        return
    for item in value.fields:
        for inner in item.values:
            yield from _scalars(f"{name}.{item.name}", inner)


def _descriptor(key: str) -> Any:
    """Return the schema's field of a dotted name in a layer, Caffe's or a fork's; None if no schema knows it."""
    from prototxt.schema.forks import extension_of
    from prototxt.schema.messages import LayerParameter

    descriptor: Any = LayerParameter.DESCRIPTOR
    found: Any = None
    for name in key.split("."):
        if descriptor is None:
            return None
        extension = extension_of(descriptor)
        found = descriptor.fields_by_name.get(name)
        if found is None and extension is not None:
            found = extension.message_type.fields_by_name.get(name)
        if found is None:
            return None
        descriptor = found.message_type
    return found


def _resolve_option(type_name: str, name: str) -> tuple[str, Any]:
    """Return an option's dotted name and its field. Raises: ComposeError."""
    keys = [name] if name == _WEIGHT or "." in name else [f"{block}.{name}" for block in LOSS_KINDS[type_name].blocks]
    for key in keys:
        known = key == _WEIGHT or key.partition(".")[0] in LOSS_KINDS[type_name].blocks
        descriptor = _descriptor(key) if known else None
        if descriptor is not None and descriptor.message_type is None:
            return key, descriptor
    names = [item.name for block in LOSS_KINDS[type_name].blocks for item in _descriptor(block).message_type.fields]
    names += [_WEIGHT, "label"]
    hint = did_you_mean(name, names, also=f"one of {', '.join(names)}")
    raise ComposeError(f"loss '{type_name}' has no parameter '{name}'", hint=hint)


def _literal(type_name: str, name: str, value: object, descriptor: Any) -> str:
    """Return a value as a literal that the field takes. Raises: ComposeError."""
    from prototxt.schema.scalars import BadValueError, scalar_reader
    from prototxt.text.tree import scan_scalar

    text = format_value(value)
    # A name of a file may be typed without quotes.
    if descriptor.cpp_type == descriptor.CPPTYPE_STRING and not text.startswith('"'):
        text = quoted(text)
    scalar = scan_scalar(text, 0)
    try:
        if scalar is None or scalar.end != len(text):
            raise BadValueError(f"'{text}' is no value")
        scalar_reader(descriptor)(scalar)
    except BadValueError as error:
        raise ComposeError(f"loss '{type_name}': {name}: {error.message}", hint=error.hint) from None
    return text


def comparison_key(loss: Loss) -> tuple[object, ...]:
    """Return a key that is equal for losses that compute the same: without defaults, old fields as their successors."""
    values = {key: tuple(map(_value, [key] * len(raws), raws)) for key, raws in _literals(loss)}
    kind = LOSS_KINDS.get(loss.type)
    rest = {key: value for key, value in values.items() if not _has_no_effect(key, value)}
    if kind is not None and kind.normalization is not None:
        rest["loss_param.normalization"] = (_normalization(values, kind.normalization),)
        rest.pop("loss_param.normalize", None)
    return (loss.type, len(loss.bottoms), tuple(sorted(rest.items(), key=repr)))


def _literals(loss: Loss) -> Iterator[tuple[str, tuple[str, ...]]]:
    for key, value in loss.options.items():
        yield key, value if isinstance(value, tuple) else (str(value),)


def _value(key: str, raw: str) -> object:
    from prototxt.schema.scalars import BadValueError, scalar_reader
    from prototxt.text.tree import scan_scalar

    descriptor, scalar = _descriptor(key), scan_scalar(raw, 0)
    try:
        return raw if descriptor is None or scalar is None else scalar_reader(descriptor)(scalar)
    except BadValueError:
        return raw


def _has_no_effect(key: str, value: tuple[object, ...]) -> bool:
    """Return whether the value is the default, or only selects an implementation."""
    if key == _WEIGHT:
        return value == (1.0,)
    descriptor = _descriptor(key)
    if descriptor is None:
        return False
    return key.endswith(".engine") or (bool(descriptor.has_default_value) and value == (descriptor.default_value,))


def _normalization(values: Mapping[str, tuple[object, ...]], default: str) -> str:
    """Return the normalization mode: `normalization` if given, else as the older `normalize` means, as in Caffe."""
    modes = {int(value.number): value.name for value in _descriptor("loss_param.normalization").enum_type.values}
    if "loss_param.normalization" in values:
        return str(modes[int(str(values["loss_param.normalization"][0]))])
    if "loss_param.normalize" in values:
        return "VALID" if values["loss_param.normalize"][0] else "BATCH_SIZE"
    return default


def describe_loss(loss: Loss) -> str:
    """Return the loss in words: `SoftmaxWithLoss, ignore_label 255`."""
    words = [f"{key.rpartition('.')[2]} {' '.join(raws)}" for key, raws in _literals(loss)]
    return ", ".join([loss.type, *words, *(f"further bottom '{blob}'" for blob in loss.bottoms)])


def plain_options(loss: Loss) -> dict[str, object]:
    """Return the parameters by their names without blocks, as in a fusion file."""
    found: dict[str, object] = {}
    for key, raws in _literals(loss):
        words = [raw.strip('"') for raw in raws]
        found[key.rpartition(".")[2]] = words if len(words) > 1 else words[0]
    return found


def loss_option(loss: Loss, name: str) -> str | None:
    """Return the literal of a parameter, by its name without the block."""
    return next((raws[-1] for key, raws in _literals(loss) if key.rpartition(".")[2] == name), None)


def loss_layer(loss: Loss, name: str, scores: str, label: str) -> str:
    """Return the layer as text."""
    blocks: dict[str, list[str]] = {}
    weight: list[str] = []
    for key, raws in _literals(loss):
        block, _, inner = key.partition(".")
        if not inner:
            weight += [f"{key}: {raw}" for raw in raws]
        else:
            *outer, leaf = inner.split(".")
            for raw in raws:
                text = f"{leaf}: {raw}"
                for one in reversed(outer):  # `a.b.c` becomes a { b { c: ... } }
                    text = f"{one} {{ {text} }}"
                blocks.setdefault(block, []).append(text)
    body = [*weight, *(f"{block} {{ {' '.join(lines)} }}" for block, lines in blocks.items())]
    return format_layer(name, loss.type, [scores, label, *loss.bottoms], [name], "\n".join(body))
