"""The table in which factors are joined and split while rules are composed."""

from autoshard.factor_table import FactorTable
from autoshard.search.graph import FactorKind


def test_dims_that_merge_inside_one_equation() -> None:
    """The middle op sees (ab) c where the operand had a (bc): the border between them splits both."""
    table = FactorTable()
    operand = [(table.add(4),), (table.add(24),)]
    merged = [(table.add(8),), (table.add(12),)]
    table.join([*operand[0], *operand[1]], [*merged[0], *merged[1]])
    rule = table.rule([operand], [merged], [(4, 24)], [(8, 12)])
    assert rule.operand_dims == (((0,), (1, 2)),)
    assert rule.result_dims == (((0, 1), (2,)),)
    assert [factor.size for factor in rule.factors] == [4, 2, 12]


def test_joining_keeps_what_is_known_of_a_factor() -> None:
    table = FactorTable()
    whole, summed, dim = table.add(6), table.add(5), table.add(30)
    table.replicate(whole)
    table.reduce(summed)
    table.join([dim], [whole, summed])
    rule = table.rule([[(dim,)]], [[]], [(30,)], [()])
    assert rule.operand_dims == (((0, 1),),)
    assert [factor.kind for factor in rule.factors] == [FactorKind.REPLICATED, FactorKind.REDUCTION]


def test_dims_that_do_not_line_up_stay_whole() -> None:
    table = FactorTable()
    left, right = [table.add(4), table.add(6)], [table.add(6), table.add(4)]
    table.join(left, right)
    rule = table.rule([[tuple(left)]], [[tuple(right)]], [(24,)], [(24,)])
    assert {factor.kind for factor in rule.factors} == {FactorKind.REPLICATED}


def test_dims_of_other_sizes_stay_whole() -> None:
    table = FactorTable()
    left, right = table.add(4), table.add(6)
    table.join([left], [right])
    rule = table.rule([[(left,)]], [[(right,)]], [(4,)], [(6,)])
    assert [factor.kind for factor in rule.factors] == [FactorKind.REPLICATED] * 2


def test_a_dim_joined_with_its_own_transpose_ends_and_stays_whole() -> None:
    table = FactorTable()
    a, b = table.add(3), table.add(3)
    table.join([a, b], [b, a])
    rule = table.rule([[(a,), (b,)]], [[(a,), (b,)]], [(3, 3)], [(3, 3)])
    assert {factor.kind for factor in rule.factors} == {FactorKind.REPLICATED}
