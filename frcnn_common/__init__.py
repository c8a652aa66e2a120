"""Faster R-CNN from Scratch: a small, real two-stage detection library."""

__version__ = "0.1.0"
