"""Mask R-CNN that people can read, run, take apart and be taught by."""

__version__ = "0.1.0"
