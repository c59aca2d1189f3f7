"""Submissions: a trained model as a bundle, a bundle verified by running it, and what is verified published."""

VERIFIED, NOT_REPRODUCED, REFUSED = STATUSES = ("verified", "not reproduced", "refused")
"""What may become of a submission."""
