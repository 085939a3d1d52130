"""The messages of forks of Caffe as classes; forks.py stores them inside Caffe's own.

A class with the name of one of Caffe's has only the fields that forks add to it; fork_messages.pyi has their types.
"""

from __future__ import annotations

from prototxt.schema import messages

globals().update(messages.file_names(messages.POOL.FindFileByName("forks.proto")))
