"""File kinds detected from bytes: protobuf fields, weights formats, text encodings."""
