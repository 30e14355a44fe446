"""The layout of an einsum as the paper writes it (Pope et al. 2022, arXiv:2211.05102, section 3.1).

Every letter is a dim, with the mesh axes that shard it behind it: `BLE_x,E_xF_yz->BLF_yz{U_x}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase

from autoshard.cost.torus import TorusMesh
from autoshard.search.candidates import shard_notation
from autoshard.search.decisions import OpDecision
from autoshard.search.graph import Dims
from autoshard.search.ordering import Spec


def einsum_layout(decision: OpDecision, mesh: TorusMesh) -> str:
    """Write an einsum's layout as the paper does, an open sum in braces: "BLE_x,E_xF_yz->BLF_yz{U_x}"."""
    op = decision.op
    inputs, _, output = (op.equation or _plain_equation(op.operand_dims, op.result_dims)).partition("->")
    read = [chain[-1] if chain else None for chain in decision.operands]
    texts = [_notate(letters, spec, mesh) for letters, spec in zip(inputs.split(","), read, strict=False)]
    open_axes = [mesh.names[a] for a in decision.open_axes]
    return ",".join(texts) + "->" + _notate(output, decision.made, mesh, open_axes)


def _notate(letters: str, spec: Spec | None, mesh: TorusMesh, open_axes: Sequence[str] = ()) -> str:
    if spec is None:
        return letters.upper()
    return shard_notation(letters, [[mesh.names[a] for a in dim] for dim in spec], open_axes)


def _plain_equation(operand_dims: Sequence[Dims], result_dims: Sequence[Dims]) -> str:
    """Letters for contractions without an einsum string (convolutions, ragged dots): one per distinct dim."""
    letters: dict[object, str] = {}

    def letter(dim: tuple[int, ...]) -> str:
        key = dim or object()  # dims of size 1 have no factor, and nothing in common
        if key not in letters:
            letters[key] = ascii_lowercase[len(letters) % 26]
        return letters[key]

    operands, result = (
        ["".join(map(letter, dims)) for dims in tensors] for tensors in (operand_dims, result_dims[:1])
    )
    return ",".join(operands) + "->" + "".join(result)
