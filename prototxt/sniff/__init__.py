"""What kind of file bytes are: protobuf fields, weights formats, text encodings."""
