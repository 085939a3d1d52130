"""Nets written in Python: layers are functions of blobs, and `to_proto` makes the NetParameter.

    n = NetSpec()
    n.data, n.label = layers.Data(source="train_lmdb", batch_size=64, backend=params.Data.LMDB, ntop=2)
    n.ip = layers.InnerProduct(n.data, num_output=10, weight_filler=dict(type="xavier"))
    n.loss = layers.SoftmaxWithLoss(n.ip, n.label)
    print(n.to_proto())

An attribute of a NetSpec names its blob, and the layer that makes it. Keyword arguments are fields of the parameter
message of the layer's type, or else of the layer itself; `ntop` and `in_place` are not fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fusion.pycaffe.proto import caffe_pb2
from prototxt.errors import did_you_mean


class Top:
    """One of the blobs that a layer makes: number `n` of the Function `fn`."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> Any:
        """Return a NetParameter with all layers that this blob needs."""
        return to_proto(self)


class Function:
    """A layer to be: its type, its bottoms and its parameters.

    tops  the blobs that it makes
    """

    def __init__(self, type_name: str, inputs: Iterable[Top], params: Mapping[str, Any]) -> None:
        self.type_name = type_name
        self.inputs = tuple(inputs)
        for index, bottom in enumerate(self.inputs):
            if not isinstance(bottom, Top):
                raise TypeError(f"{type_name} input {index} is not a Top (type is {type(bottom)})")
        self.params = dict(params)
        self.ntop: int = self.params.pop("ntop", 1)
        self.in_place: bool = self.params.pop("in_place", False)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))


class NetSpec:
    """A net in the making: its attributes are the blobs to compute, and name them."""

    tops: dict[str, Top | Function]

    def __init__(self) -> None:
        super().__setattr__("tops", {})

    def __setattr__(self, name: str, value: object) -> None:
        if not isinstance(value, Top | Function):
            hint = "; assign each of several tops: n.data, n.label = L.Data(..., ntop=2)"
            raise TypeError(f"'{name}' takes the result of a layer, not {type(value)}{hint}")
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        tops = vars(self).get("tops", {})  # copies ask for attributes before they have any
        if name not in tops:
            raise AttributeError(f"the net has no blob '{name}'{_hint(name, tops)}")
        return tops[name]

    def __setitem__(self, name: str, value: object) -> None:
        self.__setattr__(name, value)

    def __getitem__(self, name: str) -> Any:
        return self.tops[name]

    def __delitem__(self, name: str) -> None:
        del self.tops[name]

    def keys(self) -> list[str]:
        """Return the names of the blobs, in order; of the SSD fork, as `vals` and `update`."""
        return list(self.tops)

    def vals(self) -> list[Top | Function]:
        """Return the blobs, in order."""
        return list(self.tops.values())

    def update(self, name: str, params: Mapping[str, Any]) -> None:
        """Change parameters of the layer that makes a blob."""
        top = self.tops[name]
        (top.fn if isinstance(top, Top) else top).params.update(params)

    def to_proto(self) -> Any:
        """Return a NetParameter with all layers that the assigned blobs need, in the order of their first use."""
        return _net(self.tops.values(), {top: name for name, top in self.tops.items()})


class Layers:
    """Makes layers by their types: `layers.Convolution(bottom, kernel_size=3)` returns the top, several as a tuple."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def make(*inputs: Top, **params: Any) -> Any:
            function = Function(name, inputs, params)
            if function.ntop == 0:
                return function
            return function.tops[0] if function.ntop == 1 else function.tops

        return make


class Parameters:
    """Looks up the values of enums: `params.Pooling.MAX` is that of PoolingParameter."""

    def __getattr__(self, name: str) -> Any:
        return getattr(caffe_pb2, f"{name}Parameter")


layers = Layers()
params = Parameters()


def to_proto(*tops: Top | Function) -> Any:
    """Return a NetParameter with all layers that the blobs need, named after their types: `Convolution1`."""
    return _net(tops, {})


def param_name_dict() -> dict[str, str]:
    """Return the field of a layer's parameters by the name of its message: `{"Convolution": "convolution"}`."""
    return {
        field.message_type.name.removesuffix("Parameter"): field.name.removesuffix("_param")
        for field in reversed(caffe_pb2.LayerParameter.DESCRIPTOR.fields)  # the first of several of one message counts
        if field.name.endswith("_param")
    }


def assign_proto(proto: Any, name: str, val: Any) -> None:
    """Set a field of a message to a Python value: a dict to a message, a list, or one value, to a repeated field.

    Raises: AttributeError for a field that the message lacks, TypeError for a value that it does not take.
    """
    field = proto.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        known = proto.DESCRIPTOR.fields_by_name
        raise AttributeError(f"{proto.DESCRIPTOR.name} has no field '{name}'{_hint(name, known)}")
    try:
        _assign(proto, name, val)
    except TypeError as error:
        raise TypeError(f"{proto.DESCRIPTOR.name}.{name}: {error}") from None  # protobuf does not always name the field


def _assign(proto: Any, name: str, val: Any) -> None:
    target = getattr(proto, name)
    if hasattr(target, "extend"):
        for item in val if isinstance(val, list | tuple) else [val]:
            if isinstance(item, dict):
                _fill(target.add(), item)
            else:
                target.append(item)
    elif isinstance(val, dict):
        _fill(target, val)
    else:
        setattr(proto, name, val)


def _hint(name: str, known: Iterable[str]) -> str:
    hint = did_you_mean(name, known)
    return f"; {hint}" if hint else ""


def _fill(proto: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        assign_proto(proto, name, value)


_param_names = param_name_dict()


def _net(tops: Iterable[Top | Function], names: dict[Any, str]) -> Any:
    """Return the net of the layers that `tops` need, each after those of its bottoms; `names` names some blobs."""
    made: dict[Function, Any] = {}
    count: Counter[str] = Counter()
    waiting = [top.fn if isinstance(top, Top) else top for top in tops][::-1]
    while waiting:  # a stack of its own: a deep net would exceed Python's
        function = waiting.pop()
        missing = [bottom.fn for bottom in function.inputs if bottom.fn not in made]
        if missing:
            waiting += [function, *missing[::-1]]
        elif function not in made:
            made[function] = _layer(function, made, names, count)
    net = caffe_pb2.NetParameter()
    net.layer.extend(made.values())
    return net


def _layer(function: Function, made: Mapping[Function, Any], names: dict[Any, str], count: Counter[str]) -> Any:
    layer = caffe_pb2.LayerParameter(type=function.type_name)
    layer.bottom.extend(made[bottom.fn].top[bottom.n] for bottom in function.inputs)

    def name(blob: Top | Function) -> str:
        if blob not in names:
            count[function.type_name] += 1
            names[blob] = f"{function.type_name}{count[function.type_name]}"
        return names[blob]

    layer.top.extend(layer.bottom if function.in_place else map(name, function.tops))
    layer.name = name(function.tops[0] if function.tops else function)
    own = f"{_param_names.get(function.type_name)}_param"
    block = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name.get(own)
    for key, value in function.params.items():
        # as in Caffe: `..._param` is the layer's, everything else first its type's
        is_own = block and not key.endswith("param") and key in block.message_type.fields_by_name
        assign_proto(getattr(layer, own) if is_own else layer, key, value)
    return layer
