"""Which server gets a group: the one that knows the image, else the emptiest, never a full one."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.pool import MAX_IMAGES, Server, ServerPool, best
from rollout.serving import Served, ServingState
from tests.waiting import LIMIT_S

pytestmark = pytest.mark.smoke

ANY = Served(0, 0)


def make_server(name: str, capacity: int = 2, version: int | None = 0) -> Server:
    serving = ServingState()
    serving.weights = None if version is None else Served(0, version)
    return Server(name, None, serving, capacity)  # type: ignore[arg-type]


async def started_pool(*servers: Server) -> ServerPool:
    pool = ServerPool()
    for server in servers:
        await pool.add(server)
    return pool


async def test_groups_on_one_image_go_to_one_server_as_long_as_it_has_room():
    first, second = make_server("a"), make_server("b")
    pool = await started_pool(first, second)
    chosen = [await pool.choose("cat", ANY) for _ in range(3)]
    assert chosen[0] is chosen[1]
    assert chosen[2] is not chosen[0]


async def test_other_images_go_to_the_server_with_most_free_slots():
    first, second = make_server("a", capacity=4), make_server("b", capacity=2)
    pool = await started_pool(first, second)
    names = [(await pool.choose(str(image), ANY)).name for image in range(6)]
    assert names == ["a", "a", "a", "b", "a", "b"] or sorted(names) == ["a"] * 4 + ["b"] * 2
    assert (first.free, second.free) == (0, 0)


async def test_a_full_pool_waits_until_a_slot_is_free():
    server = make_server("a", capacity=1)
    pool = await started_pool(server)
    await pool.choose("cat", ANY)
    waiting = asyncio.create_task(pool.choose("dog", ANY))
    await asyncio.sleep(0)
    assert not waiting.done()
    await pool.release(server)
    async with asyncio.timeout(LIMIT_S):
        assert await waiting is server


async def test_a_server_without_weights_gets_nothing():
    silent, serving = make_server("a", capacity=9, version=None), make_server("b", capacity=1)
    pool = await started_pool(silent, serving)
    assert await pool.choose("cat", ANY) is serving


async def test_a_push_makes_images_unknown():
    first, second = make_server("a"), make_server("b")
    pool = await started_pool(first, second)
    known = await pool.choose("cat", ANY)
    await pool.release(known)
    assert known.has_seen("cat")
    await known.serving.set(Served(0, 1))
    assert not known.has_seen("cat")


async def test_a_server_that_failed_is_avoided_while_there_is_another():
    first, second = make_server("a", capacity=9), make_server("b", capacity=1)
    pool = await started_pool(first, second)
    assert await pool.choose("cat", ANY, avoid=first) is second
    await pool.release(second)
    await pool.remove(second)
    assert await pool.choose("cat", ANY, avoid=first) is first


async def test_a_server_that_failed_is_taken_all_the_same_when_no_other_can():
    first, second = make_server("a"), make_server("b", version=None)
    pool = await started_pool(first, second)
    async with asyncio.timeout(LIMIT_S):
        assert await pool.choose("cat", ANY, avoid=first) is first


async def test_weights_that_come_wake_who_waits_for_a_server():
    pool = ServerPool()
    server = Server("a", None, ServingState(pool.changed), 1)  # type: ignore[arg-type]
    await pool.add(server)
    waiting = asyncio.create_task(pool.choose("cat", ANY))
    await asyncio.sleep(0)
    assert not waiting.done()
    await server.serving.set(Served(0, 0))
    async with asyncio.timeout(LIMIT_S):
        assert await waiting is server


async def test_a_group_goes_to_no_server_that_is_behind_its_lease_or_in_an_undone_history():
    behind, undone, right = make_server("a", 9), make_server("b", 9), make_server("c", 1)
    behind.serving.weights, undone.serving.weights = Served(1, 4), Served(0, 7)
    right.serving.weights = Served(1, 5)
    pool = await started_pool(behind, undone, right)
    assert await pool.choose("cat", Served(1, 5)) is right
    waiting = asyncio.create_task(pool.choose("cat", Served(1, 5)))
    for _ in range(5):  # turns of the event loop
        await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_leases_are_asked_for_as_long_as_there_is_room():
    server = make_server("a", capacity=3)
    pool = await started_pool(server)
    server.reserved = 1
    await pool.choose("cat", ANY)
    assert await pool.wait_for_room(server) == 1
    server.reserved = 2
    waiting = asyncio.create_task(pool.wait_for_room(server))
    await asyncio.sleep(0)
    assert not waiting.done()
    server.reserved = 0
    await pool.notify()
    async with asyncio.timeout(LIMIT_S):
        assert await waiting == 2


async def test_digests_remembered_are_bounded():
    server = make_server("a")
    for image in range(MAX_IMAGES + 5):
        server.note_image(str(image))
    assert not server.has_seen("4")
    assert server.has_seen("5")


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=5),
    st.integers(0, 9),
)
def test_the_best_server_serves_has_room_and_none_is_better(states, image):
    async def check() -> None:
        servers = []
        for number, (capacity, running, serves) in enumerate(states):
            server = make_server(str(number), capacity, 0 if serves else None)
            server.running = min(running, capacity)
            if (number + image) % 2:
                server.note_image("cat")
            servers.append(server)
        found = best(servers, "cat", ANY)
        able = [s for s in servers if s.serving.weights is not None and s.free > 0]
        if found is None:
            assert not able
            return
        assert found in able
        assert found.has_seen("cat") or not any(s.has_seen("cat") for s in able)
        rivals = [s for s in able if s.has_seen("cat") == found.has_seen("cat")]
        assert found.free == max(s.free for s in rivals)

    asyncio.run(check())


@pytest.mark.parametrize("version", [None, 3])
async def test_results_wait_until_the_weights_are_verified(version):
    serving = ServingState()
    await serving.set(Served(0, 2))
    async with serving.held_back():
        waiting = asyncio.create_task(serving.settled())
        await asyncio.sleep(0)
        assert not waiting.done()
        await serving.set(None if version is None else Served(0, version))
    async with asyncio.timeout(LIMIT_S):
        assert await waiting == (None if version is None else Served(0, version))


async def test_weights_that_turn_out_wrong_are_not_served():
    serving = ServingState()
    await serving.set(Served(0, 2))
    with pytest.raises(ValueError, match="wrong"):
        async with serving.held_back():
            raise ValueError("wrong")
    assert await serving.settled() is None


async def test_a_claimed_server_is_idle_first_and_nobody_else_s_until_it_is_free_again():
    server, other = make_server("a"), make_server("b")
    pool = await started_pool(server, other)
    await pool.choose("cat", ANY)
    busy = server if server.running else other
    claim = asyncio.create_task(pool.claim(busy, ANY))
    await asyncio.sleep(0)
    assert not claim.done() and busy.free == 0, "it drains, and takes nothing new"
    assert await pool.choose("cat", ANY) is not busy
    await pool.release(busy)
    async with asyncio.timeout(LIMIT_S):
        await claim
    await pool.release(busy, is_claimed=True)
    assert busy.free == busy.capacity


async def test_a_claim_that_is_given_up_frees_the_server():
    server = make_server("a")
    pool = await started_pool(server)
    await pool.choose("cat", ANY)
    claim = asyncio.create_task(pool.claim(server, ANY))
    await asyncio.sleep(0)
    claim.cancel()
    await asyncio.gather(claim, return_exceptions=True)
    assert server.free == 1
