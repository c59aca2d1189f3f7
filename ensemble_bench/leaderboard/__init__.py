"""Leaderboards: renderings of many records, nothing more."""

from ensemble_bench.leaderboard.board import leaderboard_csv, write_leaderboard

__all__ = ["leaderboard_csv", "write_leaderboard"]
