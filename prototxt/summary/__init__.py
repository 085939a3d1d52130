"""Summaries of nets and weights as tables and JSON."""
