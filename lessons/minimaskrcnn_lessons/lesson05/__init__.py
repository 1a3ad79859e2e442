"""Lesson 05: RoIPool, RoIWarp, RoIAlign."""
