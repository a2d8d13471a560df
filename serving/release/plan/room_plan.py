"""Choose how a challenger is tried beside the champion, from the room that there is; say what downtime it costs. Pure."""

from typing import Literal, NamedTuple

from pipeline.params import ReleaseSettings

SPARE = 1.2  # a second model must fit this many times: its first large batch needs more than its weights
FULL = 0.7  # of the device's time; beyond it answers wait for each other
LEAST_SHARE = 0.01  # of texts copied; a release waits longer, and never without an end
How = Literal["side_by_side", "time_sharing", "cpu_canary", "recreate"]


class Room(NamedTuple):
    """What there is, and what one model takes of it."""

    device: Literal["cpu", "gpu"]  # on which the versions are served
    device_free: int  # bytes of its memory
    memory_free: int  # bytes of the machine's
    model_bytes: int  # that one loaded version takes
    load_s: float  # until a version is loaded and checked
    cpu_text_s: float  # of all cores, for one text
    device_text_s: float  # of the device, for one text


class RoomPlan(NamedTuple):
    """How the challenger is tried. Shares are of texts copied, and of units that it may answer at most."""

    how: How
    downtime_s: float  # that callers notice when it becomes champion
    downtime_back_s: float  # and when it is rolled back afterwards
    shadow_share: float
    largest_share: float
    why: tuple[str, ...]  # sentences


def plan_room(room: Room, settings: ReleaseSettings, *, requests_per_s: float, deadline_s: float) -> RoomPlan:
    """Choose the plan with the least downtime that fits.

    side_by_side: both are loaded. time_sharing: both are loaded, and copies take only the time that callers leave.
    cpu_canary: the accelerator has room for one, so the challenger answers on the processor. recreate: one after the other, at
    the price of downtime; what it would answer is then compared on texts of the prediction log.
    """
    largest = settings.shares[-1]
    needed = f"a version takes {_size(room.model_bytes)}, and {_size(room.device_free)} are free"
    if room.device_free >= SPARE * room.model_bytes:
        busy = min(1.0, requests_per_s * room.device_text_s)
        use = f"callers take {busy:.0%} of the time at {requests_per_s:g} requests/s"
        if busy * (1 + settings.shadow_share) <= FULL:
            why = (
                f"both versions fit: {needed}",
                f"{use}, which leaves enough for copies of {settings.shadow_share:.0%} of texts",
            )
            return RoomPlan("side_by_side", 0.0, 0.0, settings.shadow_share, largest, why)
        share = min(settings.shadow_share, max(LEAST_SHARE, FULL / busy - 1))
        why = (
            f"both versions fit: {needed}",
            f"{use}: copies of {share:.0%} of texts is what it leaves, and the release takes longer",
        )
        return RoomPlan("time_sharing", 0.0, 0.0, share, largest, why)
    one = f"there is room for one version: {needed}"
    if room.device == "gpu" and room.memory_free >= SPARE * room.model_bytes and 2 * room.cpu_text_s <= deadline_s:
        return _on_processor(room, settings, requests_per_s, one)
    why = (one, f"the champion goes before the next one is loaded: {room.load_s:.1f} s without an answer, and again to go back")
    return RoomPlan("recreate", room.load_s, room.load_s, 0.0, 0.0, why)


def _on_processor(room: Room, settings: ReleaseSettings, requests_per_s: float, one: str) -> RoomPlan:
    """Return the plan of a challenger on the processor; it stands in while the accelerator changes over, if it can."""
    carried = min(1.0, FULL / (requests_per_s * room.cpu_text_s)) if requests_per_s else 1.0
    downtime_s = 0.0 if carried >= 1 else room.load_s
    change = (
        "and everybody while the accelerator changes over"
        if carried >= 1
        else f"but not everybody: {room.load_s:.1f} s of downtime"
    )
    why = (
        f"on the accelerator {one}",
        f"the challenger answers on the processor, {1000 * room.cpu_text_s:.0f} ms a text: {carried:.0%} of the texts, {change}",
    )
    shadow, largest = min(settings.shadow_share, carried), min(settings.shares[-1], carried)
    return RoomPlan("cpu_canary", downtime_s, downtime_s, shadow, largest, why)


def _size(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
