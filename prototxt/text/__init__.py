"""Lossless text: tokens, tree, parser, edits."""
