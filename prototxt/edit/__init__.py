"""Edits of whole nets as text: rename, freeze, upgrade, deploy."""
