"""The forms that Caffe's files take: which one a name asks for, and what can become what."""

from __future__ import annotations

from prototxt.conversion.file_content import BINARY, BLOB, HDF5, NET, NUMPY, SAFETENSORS, SOLVER, STATE, TEXT, Content
from prototxt.errors import WeightsError

STREAM = "-"
_ENDINGS = (
    ((".prototxt", ".pbtxt", ".txt", ".pt"), TEXT),
    ((".caffemodel", ".binaryproto", ".solverstate", ".pb", ".bin"), BINARY),
    ((".h5", ".hdf5"), HDF5),
    ((".safetensors",), SAFETENSORS),
    ((".npy",), NUMPY),
)
_NAMES = {
    NET: {
        TEXT: "a net's text",
        BINARY: "a caffemodel (binary net)",
        HDF5: "weights in HDF5",
        SAFETENSORS: "weights in safetensors",
    },
    SOLVER: {TEXT: "a solver's text", BINARY: "a binary solver"},
    STATE: {TEXT: "a solver state as text", BINARY: "a solver state", HDF5: "a solver state in HDF5"},
    BLOB: {TEXT: "a blob as text", BINARY: "a mean image", NUMPY: "a NumPy array"},
}
_TARGETS = {
    NET: ".prototxt, .caffemodel, .h5 or .safetensors",
    SOLVER: ".prototxt or .binaryproto",
    STATE: ".solverstate or .solverstate.h5",
    BLOB: ".binaryproto, .prototxt or .npy",
}


def form_of(name: str) -> str:
    """The form that a file of this name has.

    Raises: WeightsError when the name does not say.
    """
    if name == STREAM:
        return TEXT
    for endings, form in _ENDINGS:
        if name.lower().endswith(endings):
            return form
    hint = (
        "end it in .prototxt (text), .caffemodel, .binaryproto or .solverstate (protobuf), .h5, .safetensors, "
        "or .npy (a mean image)"
    )
    raise WeightsError("the name does not say in which form to write", place=name, hint=hint)


def describe_content(content: Content) -> str:
    """What a file holds, in words."""
    return _NAMES[content.what].get(content.form, "this")


def check_conversion(content: Content, source: str, target: str, *, upgrade: bool, deploy: bool) -> None:
    """Raises: WeightsError for a conversion that cannot be, or has no point, with these wishes beside it."""
    form = form_of(target)
    what = describe_content(content)

    def refuse(message: str, hint: str) -> WeightsError:
        return WeightsError(message, place=source, hint=hint)

    if form == TEXT and content.form != TEXT and target.lower().endswith(".pt"):
        raise refuse(f"{target} could be a net's text or a PyTorch file", f"name the target {_TARGETS[content.what]}")
    if deploy and not (content.what == NET and content.form in (TEXT, BINARY)):
        raise refuse(f"this is {what}; only a net can be deployed", "give the net to train (train_val.prototxt)")
    if form not in _NAMES[content.what] or (content.what == STATE and TEXT in (content.form, form)):
        hint = f"name the target {_TARGETS[content.what]}"
        raise refuse(f"this is {what}, which cannot be written as {target}", hint)
    if content.what == NET and form == TEXT and content.form in (HDF5, SAFETENSORS):
        raise refuse(f"this is {what}: it does not describe the net", "fusion-show lists what it holds")
    if content.what == NET and content.form == TEXT and form in (HDF5, SAFETENSORS):
        raise refuse("a net's text holds no weights", "give the .caffemodel that belongs to it")
    if deploy and form not in (TEXT, BINARY):
        raise refuse("--deploy makes a net's description, not weights", "name the target .prototxt")
    if content.form == form and not (upgrade or deploy):
        hint = "give --upgrade for today's form, or --deploy for the net in use"
        if content.what in (STATE, BLOB) or form in (HDF5, SAFETENSORS):
            hint = "copy it, or give the target another ending"
        raise refuse(f"there is nothing to do: both are {what}", hint)
    if upgrade and content.what in (STATE, BLOB):
        raise refuse(f"{what} has one form only", "leave out --upgrade")
