"""The leaderboard as a static site: one page of all models and one a model, rendered from records alone."""

from ensemble_bench.leaderboard.site.build import build_site

__all__ = ["build_site"]
