"""Attacks of other toolkits, and ours as toolkits run them."""
