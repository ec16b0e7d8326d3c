import pytest
import torch

from entropick_lens.terrain.reach import EDGES, HeadReach, ReachSums


def reach(attention: torch.Tensor, cut: int | None = None) -> list[HeadReach]:
    sums = ReachSums(attention.shape[0])
    if cut is None:
        sums.add(attention, 0)
    else:
        sums.add(attention[:, :cut, :cut], 0)
        sums.add(attention[:, cut:], cut)
    return list(sums.reach(3))


def test_heads_that_look_at_one_distance() -> None:
    size = 12
    at = torch.arange(size)
    attention = torch.zeros(3, size, size)
    attention[0, at, at] = 1.0
    attention[1, at, (at - 4).clamp(min=0)] = 1.0
    attention[2, :, 0] = 1.0
    own, back, first = reach(attention)
    assert (own.layer, own.head, back.head) == (3, 0, 1)
    assert (own.mean_distance, own.peak, own.local_share, own.first_share) == (0.0, 0, 1.0, 0.0)
    assert (back.mean_distance, back.peak, back.local_share) == (4.0, 3, 0.0)
    assert back.first_share == pytest.approx(4 / 11)
    assert (first.mean_distance, first.local_share, first.first_share) == (None, None, 1.0)


def test_uniform_attention_has_no_favourite_distance_but_its_own() -> None:
    size = 10
    attention = torch.ones(1, size, size).tril() / torch.arange(1, size + 1)[:, None]
    found = reach(attention)[0]
    pairs = [[1 / (q + 1) for q in range(d + 1, size)] for d in range(size - 1)]
    assert found.by_distance[0] == pytest.approx(sum(pairs[0]) / len(pairs[0]))
    joined = pairs[3] + pairs[4]
    assert found.by_distance[EDGES.index(3)] == pytest.approx(sum(joined) / len(joined))
    assert found.by_distance[EDGES.index(9)] is None
    assert found.first_share == pytest.approx(sum(1 / (q + 1) for q in range(1, size)) / 9)


def test_pieces_give_what_the_whole_gives() -> None:
    attention = torch.rand(2, 40, 40, generator=torch.Generator().manual_seed(0)).tril()
    attention /= attention.sum(-1, keepdim=True)
    for whole, parts in zip(reach(attention), reach(attention, 17), strict=True):
        assert parts.by_distance[:8] == pytest.approx(whole.by_distance[:8])
        assert parts.mean_distance == pytest.approx(whole.mean_distance)
        assert parts.first_share == pytest.approx(whole.first_share)
