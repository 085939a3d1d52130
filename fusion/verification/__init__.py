"""Layer-by-layer comparison of a fused net with its sources, of two nets, and of weights files.

for found in verify_branches("fused.prototxt", "init.caffemodel", {"odd": ("odd.prototxt", "odd.caffemodel")}):
    print(found.verdict())
"""

from fusion.verification.nets import Feed
from fusion.verification.outputs import verify_branches, verify_nets
from fusion.verification.weights import verify_weights

__all__ = ["Feed", "verify_branches", "verify_nets", "verify_weights"]
