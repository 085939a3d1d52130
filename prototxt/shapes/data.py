"""Shapes of the data layers: from their parameters and, where the source is present, its first record.

Paths are relative to the working directory, as in Caffe. A source that is absent or cannot be read leaves its
dimensions unknown: whoever reads the data reports it better, and composing or merging nets needs no data.
"""

from __future__ import annotations

from prototxt.errors import ShapeError
from prototxt.schema.messages import BlobShape, LayerParameter, TransformationParameter
from prototxt.shapes import sources
from prototxt.shapes.dimensions import UNKNOWN, Dim, Shape, count_text
from prototxt.shapes.registry import shape_function


def _dims(shape: BlobShape) -> Shape:
    if any(dim < 0 for dim in shape.dim):
        raise ShapeError(f"a dimension is negative: {list(shape.dim)}")
    return tuple(int(dim) for dim in shape.dim)


def _one_per_top(shapes: list[Shape], layer: LayerParameter, field: str) -> list[Shape]:
    if len(shapes) not in (1, len(layer.top)):
        raise ShapeError(
            f"{field} is given {count_text(len(shapes), 'time')} for {count_text(len(layer.top), 'top')}",
            hint="give one, or one per top",
        )
    return shapes * len(layer.top) if len(shapes) == 1 else shapes


@shape_function("Input", bottoms=0, tops=(1, None), source=True)
def _input(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return the given shapes; without any, the caller must give them."""
    shapes = [_dims(shape) for shape in layer.input_param.shape]
    return (_one_per_top(shapes, layer, "shape") if shapes else [UNKNOWN] * len(layer.top)), []


@shape_function("DummyData", bottoms=0, tops=(1, None), source=True)
def _dummy_data(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return the given shapes, or the older num, channels, height and width."""
    param = layer.dummy_data_param
    old = [param.num, param.channels, param.height, param.width]
    if param.shape and any(old):
        raise ShapeError("shape and num/channels/height/width are both given", hint="keep shape")
    if len(param.data_filler) not in (0, 1, len(layer.top)):
        raise ShapeError(
            f"{count_text(len(param.data_filler), 'filler')} for {count_text(len(layer.top), 'top')}",
            hint="give none, one, or one per top",
        )
    if param.shape:
        return _one_per_top([_dims(shape) for shape in param.shape], layer, "shape"), []
    if len({len(values) for values in old}) != 1 or not param.num:
        raise ShapeError("num, channels, height and width must be given equally often, at least once", hint="use shape")
    return _one_per_top([tuple(map(int, dims)) for dims in zip(*old, strict=True)], layer, "num"), []


@shape_function("MemoryData", bottoms=0, tops=2, source=True)
def _memory_data(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return [batch, channels, height, width] and [batch]."""
    param = layer.memory_data_param
    shape = (param.batch_size, param.channels, param.height, param.width)
    if min(shape) <= 0:
        raise ShapeError("batch_size, channels, height and width must all be at least 1")
    return [shape, shape[:1]], []


@shape_function("Data", bottoms=0, tops=(1, 2), source=True)
def _data(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return [batch, channels, height, width] of the first record after cropping, and [batch] labels."""
    param = layer.data_param
    batch = batch_size(param.batch_size)
    color = _forced_channels(layer.transform_param)
    image = sources.database_record(param.source, param.backend == param.LMDB, color)
    return [(batch, *_cropped(image, layer.transform_param)), (batch,)][: len(layer.top)], []


@shape_function("ImageData", bottoms=0, tops=2, source=True)
def _image_data(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return [batch, channels, height, width] of the first picture, resized and cropped, and [batch] labels."""
    param = layer.image_data_param
    if (param.new_height > 0) != (param.new_width > 0):
        raise ShapeError("new_height and new_width must be given together")
    batch, channels = batch_size(param.batch_size), 3 if param.is_color else 1
    if param.new_height:
        size: tuple[Dim, Dim] = (param.new_height, param.new_width)
    elif layer.transform_param.crop_size:
        size = (None, None)
    else:
        size = sources.listed_image(param.source, param.root_folder)
    return [(batch, *_cropped((channels, *size), layer.transform_param)), (batch,)], []


@shape_function("WindowData", bottoms=0, tops=2, source=True)
def _window_data(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return [batch, channels, crop, crop] and [batch] labels."""
    param, crop = layer.window_data_param, layer.transform_param.crop_size or layer.window_data_param.crop_size
    if crop <= 0:
        raise ShapeError("crop_size must be at least 1", hint="windows are warped to crop_size x crop_size")
    batch = batch_size(param.batch_size)
    return [(batch, sources.window_channels(param.source), crop, crop), (batch,)], []


@shape_function("HDF5Data", bottoms=0, tops=(1, None), source=True)
def _hdf5_data(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return [batch, ...] of the data set named like each top."""
    param = layer.hdf5_data_param
    if layer.HasField("transform_param"):
        raise ShapeError(
            "HDF5Data does not transform data", hint="drop transform_param, and prepare the data beforehand"
        )
    batch = batch_size(param.batch_size)
    rows = sources.hdf5_rows(param.source, list(layer.top))
    return [UNKNOWN if row is None else (batch, *row) for row in rows], []


@shape_function("HDF5Output", bottoms=2, tops=0)
def _hdf5_output(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return no tops: the layer writes its bottoms to a file."""
    return [], []


def batch_size(size: int) -> int:
    """Check and return the batch size.

    Raises: ShapeError when it is not at least 1.
    """
    if size <= 0:
        raise ShapeError("batch_size must be at least 1", hint="set batch_size")
    return size


def _forced_channels(transform: TransformationParameter) -> Dim:
    if transform.force_color and transform.force_gray:
        raise ShapeError("force_color and force_gray exclude each other")
    return 3 if transform.force_color else 1 if transform.force_gray else None


def _cropped(image: tuple[Dim, Dim, Dim], transform: TransformationParameter) -> Shape:
    channels, height, width = image
    crop = transform.crop_size
    if not crop:
        return image
    if any(size is not None and size < crop for size in (height, width)):
        raise ShapeError(
            f"crop_size {crop} is larger than the pictures ({height}x{width})", hint="use a smaller crop_size"
        )
    return channels, crop, crop
