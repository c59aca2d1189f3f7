"""Figures of records and training curves, one file a figure of the paper; lines.py draws them."""
