"""What loading a model would do, before anybody does it."""

from __future__ import annotations

from tests.rotation.desk import Desk


async def test_a_preview_says_what_a_load_would_do_and_does_nothing() -> None:
    desk = Desk(max_resident=4, limit=100)
    for name in ("a40", "b30"):
        await desk.ask(name)
    fits = await desk.service.preview(desk.route("c20"))
    assert (fits.evicts, fits.waits, fits.problem) == ((), None, None)
    assert fits.need.bytes == {"host": 20}
    evicts = await desk.service.preview(desk.route("c60"))
    assert (evicts.evicts, evicts.waits) == (("fake/a40",), None)
    never = await desk.service.preview(desk.route("c120"))
    assert never.problem is not None
    async with desk.slot("a40"), desk.slot("b30"):
        waits = await desk.service.preview(desk.route("c60"))
        assert waits.waits is not None
    assert desk.provider.loaded == ["a40", "b30"]
    assert desk.service.queue.tickets == []
