"""Tables of records: a table without looks, its renderings, and those of the paper."""
