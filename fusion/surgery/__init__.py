"""Operations on one trained net or several of one architecture: pure functions of text and weights. Torch-free."""

from fusion.surgery.average_weights import average, greedy_soup, interpolate
from fusion.surgery.bake_weighted_sums import bake
from fusion.surgery.classes import edit_classes
from fusion.surgery.dense import to_convolution, to_dense
from fusion.surgery.heads import parse_filler, replace_head
from fusion.surgery.horizontal import fuse_horizontally
from fusion.surgery.input_channels import edit_input_channels
from fusion.surgery.remove_layers import restore, strip

__all__ = [
    "average",
    "bake",
    "edit_classes",
    "edit_input_channels",
    "fuse_horizontally",
    "greedy_soup",
    "interpolate",
    "parse_filler",
    "replace_head",
    "restore",
    "strip",
    "to_convolution",
    "to_dense",
]
