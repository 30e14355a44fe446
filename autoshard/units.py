"""Quantities as a person reads them: three digits and a unit.

Times are SI (us, ms, s); memory and traffic are binary (KiB, MiB, GiB), as the compiler and the tools
report them.
"""

_TIME_UNITS = (("us", 1e-6), ("ms", 1e-3), ("s", 1.0))
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def format_seconds(seconds: float | None) -> str:
    """Return a time, such as ``12.3 us``; ``-`` where there is none."""
    if seconds is None:
        return "-"
    for unit, size in _TIME_UNITS[:-1]:
        if abs(seconds) / size < 999.5:
            return f"{three_digits(seconds / size)} {unit}"
    return f"{three_digits(seconds)} s"


def format_bytes(count: float | None) -> str:
    """Return an amount of memory, such as ``8.67 GiB``; ``-`` where there is none."""
    if count is None:
        return "-"
    amount, units = float(count), list(_BYTE_UNITS)
    while abs(amount) >= 1023.5 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.0f} B" if units[0] == "B" else f"{three_digits(amount)} {units[0]}"


def format_percent(fraction: float | None) -> str:
    """Return a fraction as percent, such as ``4.2%``; ``-`` where there is none."""
    return "-" if fraction is None else f"{100 * fraction:.1f}%"


def three_digits(value: float) -> str:
    """Return a number with about three digits and no exponent: ``0.05``, ``1.23``, ``45.6``, ``789``."""
    size = abs(value)
    if size == 0:
        return "0"
    decimals = 0 if size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{value:.{decimals}f}"
