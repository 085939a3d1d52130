"""The messages of forks of Caffe, as classes; see forks.py for how they ride in Caffe's own.

Each class that is named after one of Caffe's holds only the fields that forks add to it. fork_messages.pyi tells their
types.
"""

from __future__ import annotations

from prototxt.schema import messages

globals().update(messages._names(messages.POOL.FindFileByName("forks.proto")))
