"""Figures of records: lines of accuracies, equal data, equal bytes."""
