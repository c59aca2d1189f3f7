"""The format of a bundle, and the checks that hold off bad input; without torch."""
