"""Trust: the signs that a number is too good to be true."""
