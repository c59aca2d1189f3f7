"""Backbones: networks that map images to logits."""
