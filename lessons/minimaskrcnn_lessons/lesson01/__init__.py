"""Lesson 01: boxes, masks and the COCO format."""
