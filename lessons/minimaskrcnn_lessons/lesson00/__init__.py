"""Lesson 00: a trained model on a picture, taken apart stage by stage."""
