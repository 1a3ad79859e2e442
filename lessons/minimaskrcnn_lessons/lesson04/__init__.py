"""Lesson 04: the region proposal network."""
