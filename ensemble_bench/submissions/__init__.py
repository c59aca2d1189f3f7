"""Submissions: a trained model as a bundle, a bundle verified by running it, and what is verified published."""
