"""The forms of Caffe's files: the form that a file name stands for, and the conversions that are possible."""

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
    """Return the form that a file name stands for.

    Raises: WeightsError for an unknown ending.
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
    raise WeightsError("the form to write cannot be derived from the name", place=name, hint=hint)


def describe_content(content: Content) -> str:
    """Describe the content of a file in words."""
    return _NAMES[content.kind].get(content.form, "this")


def check_conversion(content: Content, source: str, target: str, *, upgrade: bool, deploy: bool) -> None:
    """Check that a conversion is possible and changes something. Raises: WeightsError."""
    form = form_of(target)
    words = describe_content(content)
    targets = f"name the target {_TARGETS[content.kind]}"

    def refuse(message: str, hint: str) -> WeightsError:
        return WeightsError(message, place=source, hint=hint)

    # Old Caffe texts end in .pt, and so do PyTorch's files: as the target of a binary file this is ambiguous.
    if form == TEXT and content.form != TEXT and target.lower().endswith(".pt"):
        raise refuse(f"{target} could be a net's text or a PyTorch file", targets)
    if deploy and not (content.kind == NET and content.form in (TEXT, BINARY)):
        raise refuse(f"this is {words}; only a net can be deployed", "give the net to train (train_val.prototxt)")
    if form not in _NAMES[content.kind] or (content.kind == STATE and TEXT in (content.form, form)):
        raise refuse(f"this is {words}, which cannot be written as {target}", targets)
    if content.kind == NET and form == TEXT and content.form in (HDF5, SAFETENSORS):
        raise refuse(f"this is {words}: it does not describe the net", "list its blobs with fusion-show")
    if content.kind == NET and content.form == TEXT and form in (HDF5, SAFETENSORS):
        raise refuse("a net's text holds no weights", "give the .caffemodel that belongs to it")
    if deploy and form not in (TEXT, BINARY):
        raise refuse("--deploy makes a net's description, not weights", "name the target .prototxt")
    # A conversion to the same form would be a copy, except that --upgrade and --deploy change a net.
    if content.form == form and not (upgrade or deploy):
        hint = "give --upgrade for today's form, or --deploy for the net in use"
        if content.kind in (STATE, BLOB) or form in (HDF5, SAFETENSORS):
            hint = "copy it, or give the target another ending"
        raise refuse(f"there is nothing to do: both are {words}", hint)
    if upgrade and content.kind in (STATE, BLOB):
        raise refuse(f"{words} has one form only", "leave out --upgrade")
