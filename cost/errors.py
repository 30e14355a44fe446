"""The errors of autoshard's cost model: each says what was wrong, what was expected and what to do."""


class AutoshardError(Exception):
    """Base of every error that autoshard raises on purpose."""


class UnknownChipError(AutoshardError, ValueError):
    """A chip name that is not in the table; the message lists the known names."""


class SliceError(AutoshardError, ValueError):
    """A slice or mesh that cannot exist; the message names the rule and gives an example."""


class LayoutError(AutoshardError, ValueError):
    """A layout, or a change of layout, that has no meaning (such as replicated to unreduced)."""


class ProfileError(AutoshardError, ValueError):
    """A chip profile that cannot be read, written or believed."""
