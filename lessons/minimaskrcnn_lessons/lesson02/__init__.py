"""Lesson 02, Anchors: exercises, figures, the pictures that it uses, and a measurement of memory."""
