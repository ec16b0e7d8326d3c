import pytest

from entropick_server.engine.pages import PagePool


def test_pages_are_handed_out_once_and_come_back() -> None:
    pool = PagePool(5)
    first, second = pool.allocate(2), pool.allocate(3)
    assert first is not None
    assert second is not None
    assert sorted(first + second) == [1, 2, 3, 4, 5]
    assert (pool.used, pool.available) == (5, 0)
    pool.free(first)
    assert (pool.used, pool.available, pool.total) == (3, 2, 5)


def test_too_many_pages_take_none() -> None:
    pool = PagePool(3)
    assert pool.allocate(4) is None
    assert pool.used == 0


@pytest.mark.parametrize("page", [0, 1, 4])
def test_a_page_that_is_not_handed_out_cannot_come_back(page: int) -> None:
    with pytest.raises(ValueError, match="not handed out"):
        PagePool(3).free([page])


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        PagePool(0)
