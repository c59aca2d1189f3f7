"""Names that are those of files on every system."""

RESERVED = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}
)
"""Windows keeps them for devices, whatever follows a dot."""


def is_reserved(name: str) -> bool:
    """Whether a system takes a name for a device's, or drops the end of it."""
    return name.partition(".")[0].rstrip(" ").lower() in RESERVED or name.endswith((".", " "))
