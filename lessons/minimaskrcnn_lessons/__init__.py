"""Checks, explorers and figures of the lessons.  Imports minimaskrcnn; nothing imports it back."""
