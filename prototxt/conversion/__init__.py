"""Convert whole files from one format or schema version to another."""
