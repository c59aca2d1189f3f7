"""Submissions: a model is packed as a bundle, a bundle is verified by running it, a verified model is published."""
