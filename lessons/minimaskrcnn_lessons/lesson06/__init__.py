"""Lesson 06: RoIAlign as a Triton kernel, forward and backward."""
