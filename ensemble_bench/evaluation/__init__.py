"""Evaluation: attack a model on a data set, and say how sure the numbers are."""
