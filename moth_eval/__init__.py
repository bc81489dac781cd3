"""Evaluate backdoor scanners and removal methods on image classifiers you do not trust."""

__version__ = "0.1.0"
