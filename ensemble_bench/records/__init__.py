"""Records: one evaluation each, as strict, deterministic JSON beside a row an image in Parquet."""

from ensemble_bench.records.record import (
    CARRIED,
    SCHEMA,
    AttackResult,
    Blackbox,
    CleanScore,
    NamedWarning,
    Randomised,
    Record,
    RobustScore,
    SavedImages,
    Search,
    StageResult,
    Surrogate,
)
from ensemble_bench.records.samples import (
    ADVERSARIAL_PREDICTION,
    SAMPLE_COLUMNS,
    SAMPLES_FILE,
    attack_columns,
    read_samples,
    samples_to_parquet,
    worst_case,
)
from ensemble_bench.records.store import RECORD_FILE, find_records, identify, read_record, to_json, write_record
from ensemble_bench.records.threat import Threat
from ensemble_bench.records.training import CHECKPOINTS, described, folder_of, place_of, training_of

__all__ = [
    "ADVERSARIAL_PREDICTION",
    "CARRIED",
    "CHECKPOINTS",
    "RECORD_FILE",
    "SAMPLES_FILE",
    "SAMPLE_COLUMNS",
    "SCHEMA",
    "AttackResult",
    "Blackbox",
    "CleanScore",
    "NamedWarning",
    "Randomised",
    "Record",
    "RobustScore",
    "SavedImages",
    "Search",
    "StageResult",
    "Surrogate",
    "Threat",
    "attack_columns",
    "described",
    "find_records",
    "folder_of",
    "identify",
    "place_of",
    "read_record",
    "read_samples",
    "samples_to_parquet",
    "to_json",
    "training_of",
    "worst_case",
    "write_record",
]
