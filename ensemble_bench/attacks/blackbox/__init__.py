"""Black-box sets, and the transfer attack that shows them to a model."""
