import pytest

from entropick_server.engine.embedded.block_pool import BlockPool, block_digest


def figures(pool: BlockPool) -> tuple[int, int, int]:
    return pool.free, pool.cached, pool.used


def test_blocks_are_handed_out_once_and_come_back() -> None:
    pool = BlockPool(5)
    first, second = pool.allocate(2), pool.allocate(3)
    assert first is not None
    assert second is not None
    assert sorted(first + second) == [1, 2, 3, 4, 5]
    assert (pool.used, pool.available) == (5, 0)
    pool.release(first)
    assert (pool.used, pool.available, pool.total) == (3, 2, 5)


def test_too_many_blocks_take_none() -> None:
    pool = BlockPool(3)
    assert pool.allocate(4) is None
    assert pool.used == 0


@pytest.mark.parametrize("block", [0, 1, 4])
def test_a_block_that_is_not_handed_out_cannot_be_used(block: int) -> None:
    pool = BlockPool(3)
    with pytest.raises(ValueError, match="not handed out"):
        pool.release([block])
    with pytest.raises(ValueError, match="not handed out"):
        pool.share([block])
    with pytest.raises(ValueError, match="not handed out"):
        pool.register(block, b"x")


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        BlockPool(0)


def test_a_shared_block_is_used_until_nobody_uses_it() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    assert blocks is not None
    pool.share(blocks)
    assert pool.references(blocks[0]) == 2
    pool.release(blocks)
    assert figures(pool) == (1, 0, 1)
    pool.release(blocks)
    assert figures(pool) == (2, 0, 0)
    with pytest.raises(ValueError, match="not handed out"):
        pool.release(blocks)


def test_known_blocks_are_found_until_they_are_evicted_the_longest_unused_first() -> None:
    pool = BlockPool(4)
    a, b, c, d = pool.allocate(4) or []
    for block, name in ((a, b"a"), (b, b"b"), (c, b"c")):
        pool.register(block, name)
    pool.release([a, b])  # a chain: its end is of no use without its beginning
    pool.release([c])
    pool.release([d])
    assert figures(pool) == (1, 3, 0)
    assert pool.allocate(1) == [d]
    assert pool.allocate(1) == [b]
    assert pool.evictions == 1
    assert (pool.find(b"a"), pool.find(b"b"), pool.find(b"c")) == (a, None, c)
    pool.share([a])
    assert pool.allocate(2) is None
    assert pool.allocate(1) == [c]
    assert figures(pool) == (0, 0, 4)


def test_the_first_block_of_a_digest_stays_the_known_one() -> None:
    pool = BlockPool(2)
    a, b = pool.allocate(2) or []
    pool.register(a, b"same")
    pool.register(b, b"same")
    pool.register(a, b"other")
    assert (pool.find(b"same"), pool.find(b"other")) == (a, None)
    pool.release([b])
    assert figures(pool) == (1, 0, 1)


def test_forgotten_blocks_are_not_found_whoever_uses_them() -> None:
    pool = BlockPool(2)
    a, b = pool.allocate(2) or []
    pool.register(a, b"a")
    pool.register(b, b"b")
    pool.release([b])
    pool.forget([a, b])
    assert (pool.find(b"a"), pool.find(b"b")) == (None, None)
    assert figures(pool) == (1, 0, 1)
    pool.release([a])
    assert figures(pool) == (2, 0, 0)


def test_a_digest_is_of_the_whole_chain() -> None:
    digests = {
        block_digest(b"", (1, 2)),
        block_digest(b"", (2, 1)),
        block_digest(b"", (1, 2, 0)),
        block_digest(b"", (258,)),
        block_digest(block_digest(b"", (1, 2)), (1, 2)),
        block_digest(block_digest(b"", (1, 3)), (1, 2)),
    }
    assert len(digests) == 6
    assert block_digest(b"", [1, 2]) in digests
