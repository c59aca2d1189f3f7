"""What layers share that may not import each other: words for splits and verdicts, and the sizes of images."""

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")
VERIFIED, NOT_REPRODUCED, REFUSED = STATUSES = ("verified", "not reproduced", "refused")
SMALLEST, LARGEST = 8, 512
"""Pixels of a side that networks take."""
