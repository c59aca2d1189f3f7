"""The paper's whole experiment as jobs that depend on each other: planned, priced, carried out, shown, resumed."""
