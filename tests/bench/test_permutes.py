"""Where the rules of permutes say that there is one, and nowhere else, XLA's partitioner makes one."""

import pytest

from bench.permutes import draw, has_permute, is_permuted, make_mesh, partitioned


@pytest.mark.parametrize("seed", range(32))
def test_xla_permutes_where_the_rules_say(seed: int) -> None:
    reshard = draw(seed, 3)
    assert has_permute(partitioned(reshard, make_mesh((2, 2, 2)))) == is_permuted(reshard)


def test_permutes_are_found_in_a_program() -> None:
    verdicts = {has_permute(partitioned(draw(seed, 3), make_mesh((2, 2, 2)))) for seed in range(32)}
    assert verdicts == {False, True}
