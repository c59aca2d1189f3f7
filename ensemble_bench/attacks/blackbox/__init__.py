"""Black-box sets, and the transfer attack that runs a model on them."""
