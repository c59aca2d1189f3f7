"""The tables of the paper, and the credits of a cascade, from records."""
