"""What finds candidates for a tuning run: a search of one program, or of the combinations of its choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from autoshard.errors import InfeasibleError
from autoshard.infeasible import does_not_fit
from autoshard.mesh_search import SearchResult, search_candidates
from autoshard.tune_session import Session


class CandidateSearch(Protocol):
    """Finds candidates."""

    @property
    def session(self) -> Session:
        """What is planned; where there are several programs, what they have in common."""

    def candidates(self, headroom_bytes: float = 0.0) -> SearchResult:
        """Search with so much HBM per chip held back."""

    def does_not_fit(self) -> InfeasibleError:
        """The error where a search found nothing."""


@dataclass(frozen=True, slots=True)
class SessionSearch:
    """A search of one program on all meshes."""

    session: Session

    def candidates(self, headroom_bytes: float = 0.0) -> SearchResult:
        """Search with so much HBM per chip held back."""
        return search_candidates(self.session, headroom_bytes)

    def does_not_fit(self) -> InfeasibleError:
        """The error for a function that no plan fits into the slice."""
        return does_not_fit(self.session)
