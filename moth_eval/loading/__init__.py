"""Hostile files in, Subject out. The only place that opens model files."""
