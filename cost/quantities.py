"""A number with its unit, where it comes from and how far to trust it.

Every hardware number of the cost model stands once, as a `Quantity`. Its provenance is one of

* ``spec``: a vendor's page or a published hardware table;
* ``compiler``: read out of the TPU compiler (limits, charged bandwidths, clocks);
* ``measured``: a published or own measurement;
* ``fitted``: chosen so that the model agrees with published step times;
* ``assumed``: nothing better is known; the source says why this value.
"""

from dataclasses import dataclass
from typing import Literal

Provenance = Literal["spec", "compiler", "measured", "fitted", "assumed"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A hardware number.

    Attributes:
        value: The number, in SI units.
        unit: Its unit, such as ``"flop/s"``, ``"byte/s"``, ``"byte"``, ``"s"``, ``"Hz"`` or ``"1"``.
        provenance: How it was found, see the module's text.
        source: Where it was found.
    """

    value: float
    unit: str
    provenance: Provenance
    source: str

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit} ({self.provenance}: {self.source})"


def spec(value: float, unit: str, source: str) -> Quantity:
    """A vendor's number."""
    return Quantity(value, unit, "spec", source)


def compiler(value: float, unit: str, source: str) -> Quantity:
    """A number read out of the TPU compiler."""
    return Quantity(value, unit, "compiler", source)


def measured(value: float, unit: str, source: str) -> Quantity:
    """A measured number."""
    return Quantity(value, unit, "measured", source)


def fitted(value: float, unit: str, source: str) -> Quantity:
    """A number chosen to make the model agree with published times."""
    return Quantity(value, unit, "fitted", source)


def assumed(value: float, unit: str, source: str) -> Quantity:
    """A number with no source; the text says why it was chosen."""
    return Quantity(value, unit, "assumed", source)
