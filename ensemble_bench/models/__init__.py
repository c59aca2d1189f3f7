"""Backbones, ensembles of them, what they cost, and their checkpoints."""
