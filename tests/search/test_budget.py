from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from autoshard.search.budget import solve_with_budgets
from autoshard.search.budget_rows import BudgetRow, priced
from autoshard.search.errors import BudgetError, NoSolutionError, TimeLimitError
from autoshard.search.experience import Experience
from autoshard.search.k_best import k_best
from autoshard.search.least_use import require_within, thriftiest
from autoshard.search.network import FloatArray, Network
from autoshard.search.repair import Repair
from autoshard.search.solver import solve

Networks = Callable[..., st.SearchStrategy[Network]]
Ranked = Callable[[Network], list[tuple[float, tuple[int, ...]]]]
Blocks = Callable[[int, int, int], Network]


def _two() -> Network:
    """Fast labels use more: costs 1, 4, 9 use 8, 4, 1 on either variable."""
    network = Network()
    network.add_variable([1.0, 4.0, 9.0], "w0")
    network.add_variable([1.0, 4.0, 9.0], "w1")
    return network


HBM = BudgetRow("hbm", {0: [8.0, 4.0, 1.0], 1: [8.0, 4.0, 1.0]})


def test_a_slack_budget_changes_nothing() -> None:
    assert solve_with_budgets(_two(), [HBM], [16.0]) == solve(_two())


@pytest.mark.parametrize(
    ("limit", "value"),
    [(15.9, 5.0), (12.0, 5.0), (11.9, 8.0), (8.0, 8.0), (7.9, 13.0), (4.9, 18.0), (2.0, 18.0)],
)
def test_a_binding_budget_by_hand(limit: float, value: float) -> None:
    """Pairs of labels: 16 cost 2, 12 cost 5, 9 cost 10, 8 cost 8, 5 cost 13, 2 cost 18."""
    solution = solve_with_budgets(_two(), [HBM], [limit])
    assert solution.value == value
    assert solution.bound == value
    assert HBM.use(solution.labels) <= limit
    assert solution.method.startswith("priced")


def test_the_prices_rank_what_else_keeps_the_budget() -> None:
    """4 units of use cost 3 on either variable: at that price the assignments up to use 8 cost least."""
    solution = solve_with_budgets(_two(), [HBM], [8.0])
    assert solution.prices == pytest.approx((0.75,), rel=1e-6)
    found = k_best(
        priced(_two(), [HBM], solution.prices),
        3,
        signature=lambda labels: labels,
        keys=[0, 1],
        accept=lambda labels: HBM.use(labels) <= 8.0,
    )
    assert [_two().value(s.labels) for s in found] == [8.0, 13.0, 13.0]


def test_a_budget_below_the_least_use_is_named() -> None:
    with pytest.raises(
        BudgetError, match=r"budget hbm: the least possible use is 2, the limit 1\.5"
    ) as caught:
        solve_with_budgets(_two(), [HBM], [1.5])
    assert (caught.value.row, caught.value.minimum_use, caught.value.limit) == ("hbm", 2.0, 1.5)
    assert isinstance(caught.value, ValueError)


def test_budgets_that_exclude_each_other_are_found_out() -> None:
    speed = BudgetRow("speed", {0: [1.0, 4.0, 9.0], 1: [1.0, 4.0, 9.0]})
    with pytest.raises(BudgetError, match="cannot be kept together: hbm, speed"):
        solve_with_budgets(_two(), [HBM, speed], [5.0, 5.0])


def test_forbidden_labels_do_not_count_towards_the_least_use() -> None:
    network = _two().restricted({0: np.array([True, True, False])})
    thrifty = thriftiest(network, HBM)
    assert HBM.use(thrifty.labels) == 5.0
    require_within(HBM, 5.0, thrifty)
    with pytest.raises(BudgetError, match="least possible use is 5"):
        require_within(HBM, 4.0, thrifty)


def test_priced_charges_every_use() -> None:
    row = BudgetRow("r", {1: [1.0, 2.0, 3.0]}, {(1, 0): np.arange(9.0).reshape(3, 3)})
    assert row.use((2, 1)) == 2.0 + 5.0
    assert priced(_two(), [row], [10.0]).value((2, 1)) == 9.0 + 4.0 + 70.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (BudgetRow("r", {0: [1.0]}), r"expected uses of shape \(3,\), got \(1,\)"),
        (BudgetRow("r", {7: [1.0]}), "does not have"),
        (BudgetRow("r", {0: [1.0, 2.0, np.inf]}), "finite"),
        (BudgetRow("r", {}, {(0, 1): [[1.0]]}), r"expected uses of shape \(3, 3\)"),
    ],
)
def test_rows_are_checked(row: BudgetRow, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_with_budgets(_two(), [row], [1.0])


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="one limit per budget row"):
        solve_with_budgets(_two(), [HBM], [])
    with pytest.raises(ValueError, match="finite"):
        solve_with_budgets(_two(), [HBM], [np.inf])


def test_repair_takes_the_cheapest_way_back_and_then_saves() -> None:
    repair = Repair(_two(), [HBM], [12.0])
    # from (0, 0), use 16: one step to label 1 costs 3 for 4 units, to label 2 8 for 7 of which 4 are needed
    assert repair((0, 0)) == (1, 0)
    # from (2, 2), use 2: label 0 saves 8, the other then has 4 left and takes label 1
    assert repair((2, 2)) == (0, 1)
    assert Repair(_two(), [HBM], [1.0])((0, 0)) is None


@st.composite
def _rows(draw: st.DrawFn, network: Network) -> BudgetRow:
    uses = st.integers(0, 5).map(float)
    unary = {
        i: draw(st.lists(uses, min_size=size, max_size=size))
        for i, size in enumerate(network.sizes)
        if i != 1
    }
    shape = (network.size(2), network.size(0))
    matrix = draw(st.lists(uses, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    pairwise = {(2, 0): np.reshape(matrix, shape)} if draw(st.booleans()) else {}
    return BudgetRow("r", unary, pairwise)


@pytest.mark.parametrize("n_rows", [1, 2])
@pytest.mark.parametrize("forbidden", [False, True])
def test_budgets_equal_brute_force(networks: Networks, ranked: Ranked, n_rows: int, forbidden: bool) -> None:
    @settings(max_examples=80, deadline=None)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        network = data.draw(networks(forbidden=forbidden, max_variables=5))
        rows = [data.draw(_rows(network)) for _ in range(n_rows)]
        limits = [float(data.draw(st.integers(0, 14))) for _ in rows]
        every = ranked(network)
        kept = [
            value
            for value, labels in every
            if all(row.use(labels) <= limit for row, limit in zip(rows, limits, strict=True))
        ]
        if not every:
            with pytest.raises(NoSolutionError):
                solve_with_budgets(network, rows, limits)
        elif not kept:
            with pytest.raises(BudgetError):
                solve_with_budgets(network, rows, limits)
        else:
            solution = solve_with_budgets(network, rows, limits)
            assert solution.value == kept[0] == network.value(solution.labels)
            assert solution.gap == 0.0
            assert all(row.use(solution.labels) <= limit for row, limit in zip(rows, limits, strict=True))

    check()


def _table(
    unary: Mapping[int, ArrayLike], pairwise: Mapping[tuple[int, int], ArrayLike], n: int
) -> FloatArray:
    """The sum of all terms for every assignment of n variables: one axis per variable."""
    total = np.zeros((1,) * n)
    for i, vector in unary.items():
        total = total + np.reshape(vector, [-1 if axis == i else 1 for axis in range(n)])
    for (i, j), matrix in pairwise.items():
        aligned = np.asarray(matrix) if i < j else np.transpose(matrix)
        sizes = {min(i, j): aligned.shape[0], max(i, j): aligned.shape[1]}
        total = total + aligned.reshape([sizes.get(axis, 1) for axis in range(n)])
    return np.asarray(total, np.float64)


@pytest.mark.parametrize("n_rows", [1, 2])
def test_knapsacks_with_a_duality_gap_equal_brute_force(n_rows: int) -> None:
    """Dear labels use little; the limits lie where prices alone cannot meet them, so branching is needed."""
    methods = set()

    @settings(max_examples=40 // n_rows, deadline=None)
    @given(st.integers(0, 10**6), st.floats(0.2, 0.8), st.booleans())
    def check(seed: int, share: float, shared: bool) -> None:
        rng = np.random.default_rng(seed)
        network, n = Network(), 8
        use = [np.sort(rng.integers(0, 30, 4))[::-1].astype(float) for _ in range(n)]
        for vector in use:
            network.add_variable((30 - vector) + rng.integers(0, 6, 4))
        for i in range(n - 1):
            network.add_pairwise(i, i + 1, rng.integers(0, 5, (4, 4)))
        between = {(4, 1): rng.integers(0, 9, (4, 4)).astype(float)} if shared else {}
        rows = [BudgetRow("hbm", dict(enumerate(use)), between)]
        rows += [BudgetRow("odd", dict(enumerate(use[::2])))][: n_rows - 1]
        tables = [_table(row.unary, row.pairwise, n) for row in rows]
        limits = [float(round(table.min() + share * np.ptp(table))) for table in tables]
        costs = _table(dict(enumerate(network.unary)), network.pairwise, n)
        for table, limit in zip(tables, limits, strict=True):
            costs = np.where(table <= limit, costs, np.inf)
        if np.isinf(costs.min()):
            with pytest.raises(BudgetError):
                solve_with_budgets(network, rows, limits)
            return
        solution = solve_with_budgets(network, rows, limits)
        methods.add(solution.method)
        assert solution.value == costs.min() == costs[solution.labels]
        assert solution.gap == 0.0

    check()
    assert "priced branch and bound" in methods


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_early_stop_still_gives_a_valid_bound(
    networks: Networks, ranked: Ranked, data: st.DataObject
) -> None:
    network = data.draw(networks(forbidden=False, max_variables=5))
    row = data.draw(_rows(network))
    limit = float(data.draw(st.integers(0, 10)))
    kept = [value for value, labels in ranked(network) if row.use(labels) <= limit]
    try:
        solution = solve_with_budgets(network, [row], [limit], time_limit_seconds=0.0)
    except BudgetError:
        assert kept == []
    except TimeLimitError:
        pass
    else:
        assert solution.bound <= kept[0] <= solution.value
        assert row.use(solution.labels) <= limit


def test_a_gap_is_kept_on_a_transformer_like_network(blocks: Blocks) -> None:
    network = blocks(3, 16, 1)
    rng = np.random.default_rng(2)
    row = BudgetRow("hbm", {i: (5.0 - unary) + rng.random(16) for i, unary in enumerate(network.unary)})
    free = solve(network)
    limit = 0.9 * row.use(free.labels)
    exact = solve_with_budgets(network, [row], [limit])
    near = solve_with_budgets(network, [row], [limit], gap=0.02)
    assert free.value < exact.value
    assert exact.gap == 0.0
    assert near.gap <= 0.02
    assert near.bound <= exact.value <= near.value


@settings(deadline=None)
@given(data=st.data())
def test_what_was_learnt_under_other_limits_changes_no_answer(
    data: st.DataObject, networks: Networks, ranked: Ranked
) -> None:
    network = data.draw(networks())
    uses = st.integers(0, 9).map(float)
    rows = [
        BudgetRow(
            f"row {r}",
            {i: data.draw(st.lists(uses, min_size=n, max_size=n)) for i, n in enumerate(network.sizes)},
        )
        for r in range(2)
    ]
    experience = Experience()
    for limits in data.draw(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=4)):
        fitting = [
            value
            for value, labels in ranked(network)
            if all(row.use(labels) <= limit for row, limit in zip(rows, limits, strict=True))
        ]
        experience.turn()
        try:
            found = solve_with_budgets(network, rows, limits, experience=experience)
        except (BudgetError, NoSolutionError):
            assert not fitting
        else:
            assert found.value == fitting[0]
            assert found.bound == pytest.approx(fitting[0])


def test_budgets_that_many_assignments_miss_together_are_refused_without_trying_them_all() -> None:
    """Of each of 40 variables a label uses 1 of either row: 2 x 19 units cannot hold them."""
    network, n = Network(), 40
    for i in range(n):
        network.add_variable([1.0, 2.0], f"v{i}")
    rows = [
        BudgetRow(name, {i: use for i in range(n)}) for name, use in (("a", [1.0, 0.0]), ("b", [0.0, 1.0]))
    ]
    with pytest.raises(BudgetError, match="cannot be kept together: a, b"):
        solve_with_budgets(network, rows, [19.0, 19.0])


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_few_nodes_leave_an_honest_bound(data: st.DataObject, networks: Networks, ranked: Ranked) -> None:
    network = data.draw(networks())
    uses = st.integers(0, 9).map(float)
    row = BudgetRow(
        "row", {i: data.draw(st.lists(uses, min_size=n, max_size=n)) for i, n in enumerate(network.sizes)}
    )
    limit = data.draw(st.integers(0, 30))
    fitting = [value for value, labels in ranked(network) if row.use(labels) <= limit]
    try:
        found = solve_with_budgets(network, [row], [limit], most_nodes=1)
    except (BudgetError, NoSolutionError):
        assert not fitting
    except TimeLimitError:
        pass
    else:
        assert found.bound <= fitting[0] + 1e-9
        assert found.value >= fitting[0] - 1e-9
