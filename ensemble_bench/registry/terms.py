"""Words that layers share which may not import each other: splits of a data set, and verdicts on a submission."""

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")
VERIFIED, NOT_REPRODUCED, REFUSED = STATUSES = ("verified", "not reproduced", "refused")
