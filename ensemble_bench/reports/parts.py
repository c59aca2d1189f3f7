"""The parts of a report: their names, their captions, and the commands that make what a missing one needs."""

from collections.abc import Iterable

from ensemble_bench.errors import UnknownNameError

TABLES = {
    "1": ("table1a", "table1b", "table1c"),
    "2": ("table2",),
    "cost": ("cost_table",),
    "suites": ("suites",),
    "credits": ("credits", "alone"),
    "paper": ("beside_paper",),
    "classes": ("classes", "confusion"),
}
FIGURES = {
    "2": ("figure2a", "figure2b", "figure2c"),
    "3": ("figure3",),
    "cost": ("cost_figure",),
    "eps": ("robustness_curve",),
}
CAPTIONS = {
    "figure2a": "Figure 2a: accuracy over training steps, 5 steps of IFGSM",
    "figure2b": "Figure 2b: accuracy over training steps, 20 steps of PGD",
    "figure2c": "Figure 2c: accuracy over the number of attack steps",
    "figure3": "Figure 3: accuracy over the number of attack steps, doubled until it stops falling",
    "cost_figure": "Worst-case accuracy over the cost of a prediction",
    "robustness_curve": "Worst-case accuracy over the size of the perturbation",
}
MISSING = {  # notes on parts without inputs
    ("table1a", "figure2a", "figure2b"): (
        "Table 1a and Figures 2a, 2b are left out: no curves.csv; `ensemble-bench train RECIPE` writes it."
    ),
    ("table1b",): "Table 1b is left out: no record of the suite paper; `ensemble-bench evaluate` makes it.",
    ("table1c",): (
        "Table 1c is left out: no record of the suite paper500; `ensemble-bench evaluate --suite paper500` makes it."
    ),
    ("figure2c",): (
        "Figure 2c is left out: no record holds the accuracy at each step of pgd; `ensemble-bench evaluate` makes it."
    ),
    ("table2",): (
        "Table 2 is left out: no record of the suite appendix; `ensemble-bench evaluate --suite appendix` makes it."
    ),
    ("figure3",): (
        "Figure 3 is left out: no record of an ensemble's parts; `ensemble-bench evaluate --suite appendix` makes it."
    ),
    ("cost_table",): (
        "Costs are left out: no record of suite quick or strongest; `ensemble-bench evaluate --suite quick` makes it."
    ),
    ("cost_figure",): (
        "The figure of costs is left out: no two recipes of adversarial training with records of suite quick or "
        "strongest on as many images; `ensemble-bench evaluate --suite quick` makes them."
    ),
    ("suites",): (
        "Tables of other suites are left out: no record of one; `ensemble-bench evaluate --suite quick` makes it."
    ),
    ("credits",): (
        "Credits are left out: no record of a cascade of two attacks or more; "
        "`ensemble-bench evaluate --suite strongest` makes it."
    ),
    ("beside_paper",): "No table stands beside the paper's: no run or record of one of its recipes.",
    ("classes", "confusion"): "Tables of classes are left out: no record; `ensemble-bench evaluate` makes one.",
    ("robustness_curve",): (
        "The robustness curve is left out: no model has records of one suite at two eps; "
        "`ensemble-bench evaluate --eps 4/255,8/255` makes them."
    ),
}
ALL = frozenset(name for choices in (TABLES, FIGURES) for names in choices.values() for name in names)

WHOLE = ALL - set(TABLES["classes"])
"""What a report holds unless parts are chosen: tables of classes, three a model, are made when asked for."""


def parts_of(tables: Iterable[str] = (), figures: Iterable[str] = ()) -> frozenset[str] | None:
    """Return the parts that a choice of tables ("1", "suites", "classes", …) and figures ("2", "3", "eps") means.

    None, which stands for everything, where nothing is chosen. Raises UnknownNameError for any other.
    """
    chosen: set[str] = set()
    for kind, names, choices in (("table", tables, TABLES), ("figure", figures, FIGURES)):
        for name in names:
            if name not in choices:
                raise UnknownNameError(kind, name, choices)
            chosen |= set(choices[name])
    return frozenset(chosen) or None


def notes_on_missing_parts(present: Iterable[str], parts: Iterable[str]) -> list[str]:
    """Return a note on each of `parts` that is not `present`, with the command that makes what it needs."""
    missing = set(parts) - set(present)
    return [note for names, note in MISSING.items() if missing & set(names)]
