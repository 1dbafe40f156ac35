"""The parts of the stereo node, each by itself: pairing, the loop, parameters, diagnostics."""

import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from robotics.ros2.stereo_loop import FrameLoop
from robotics.ros2.stereo_parameters import SPECS, different, read
from robotics.ros2.synchroniser import Synchroniser
from shared.errors import InputError

needs_ros = pytest.mark.skipif(find_spec("rclpy") is None, reason="rclpy is absent: pip install 'fewstep[ros]'")
AMENT = Path(__file__).resolve().parents[3] / "robotics" / "ros2" / "ament"
MS = 10**6


def defaults(**changes):
    return {name: spec.default for name, spec in SPECS.items()} | changes


# Pairing


def test_equal_stamps_go_together_and_each_message_is_used_once():
    together = Synchroniser(("left", "right"), 0.01)
    assert together.add("left", 100 * MS, "l1") is None
    assert together.add("right", 100 * MS, "r1") == {"left": "l1", "right": "r1"}
    assert together.add("right", 100 * MS, "again") is None
    assert together.add("left", 100 * MS, "again") is None
    assert together.unpaired == 0


def test_nearest_within_the_slop_goes_and_what_is_older_is_given_up():
    together = Synchroniser(("left", "right", "raw"), 0.01)
    for stamp in (0, 33, 66):
        together.add("left", stamp * MS, stamp)
    for stamp in (20, 60, 70):
        assert together.add("right", stamp * MS, stamp) is None
    assert together.add("raw", 67 * MS, 67) == {"left": 66, "right": 70, "raw": 67}
    assert together.unpaired == 2
    assert together.add("raw", 34 * MS, 34) is None  # its frame is over


def test_stamps_that_never_meet_are_counted_and_their_distance_told():
    together = Synchroniser(("left", "right"), 0.01, depth=4)
    assert together.apart() is None
    for place in range(10):
        assert together.add("left", 100 * place * MS, place) is None
        assert together.add("right", (100 * place + 50) * MS, place) is None
    assert together.since == together.unpaired == 6
    assert together.apart() == pytest.approx(0.05)


def test_time_that_begins_again_is_followed_even_between_clocks_far_apart():
    together = Synchroniser(("left", "right"), 0.01)
    for stamp in (5000, 5100):
        together.add("left", stamp * MS, stamp)
        together.add("right", stamp * MS, stamp)
    assert together.add("left", 0, "l") is None
    assert together.add("right", 0, "r") == {"left": "l", "right": "r"}
    apart = Synchroniser(("left", "right"), 0.01, depth=2)
    for place in range(5):
        apart.add("left", place * MS, place)
        apart.add("right", (10**12 + place) * MS, place)
    assert apart.since == 3
    assert apart.apart() == pytest.approx(1e9, rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_set_lies_within_the_slop_and_time_only_goes_on(data):
    """Frames of 30 Hz, each topic with a jitter of 4 ms, some lost, in an order that is almost that of time."""
    names = ("left", "right", "raw")
    sent = []
    for place in range(12):
        for name in names:
            if data.draw(st.floats(0, 1)) < 0.85:
                stamp = 33 * place * MS + data.draw(st.integers(0, 4 * MS))
                sent.append((stamp + data.draw(st.integers(0, 20 * MS)), name, stamp, place))
    together, found = Synchroniser(names, 0.01), []
    for _, name, stamp, place in sorted(sent):
        if taken := together.add(name, stamp, (stamp, place)):
            found.append(taken)
    for taken in found:
        assert len({place for _, place in taken.values()}) == 1
    leading = [taken["left"][0] for taken in found]
    assert leading == sorted(set(leading))
    whole = [place for place in range(12) if sum(one[3] == place for one in sent) == 3]
    assert {taken["left"][1] for taken in found} <= set(whole)
    if not any(one[0] > two[2] for one in sent for two in sent if two[3] > one[3]):  # nothing overtook
        assert len(found) == len(whole)


# The loop


class Slow:
    """A map that is made when the test says so."""

    def __init__(self):
        self.begun, self.gate = threading.Semaphore(0), threading.Semaphore(0)
        self.made, self.told, self.rested, self.forgot = [], [], [], 0

    def make(self, frame):
        self.begun.release()
        assert self.gate.acquire(timeout=10)
        if isinstance(frame, Exception):
            raise frame
        self.made.append(frame)
        return frame == "warm"

    def forget(self):
        self.forgot += 1

    def loop(self) -> FrameLoop:
        return FrameLoop(self.make, self.rested.append, self.forget, self.told.append)


def finished(loop: FrameLoop, count: int) -> None:
    """Wait until `count` frames have gone through."""
    for _ in range(1000):
        if loop.frames_out + loop.frames_refused >= count:
            return
        threading.Event().wait(0.01)
    raise AssertionError("waited in vain")


def test_newest_frame_wins_and_no_queue_grows():
    slow = Slow()
    loop = slow.loop()
    loop.offer(0)
    assert slow.begun.acquire(timeout=10)  # it is being worked on: it cannot be dropped
    for frame in range(1, 50):
        loop.offer(frame)
    slow.gate.release(2)
    finished(loop, 2)
    assert slow.made == [0, 49]
    told = loop.numbers()
    assert (told["frames_in"], told["frames_out"], told["frames_dropped"]) == (50, 2, 48)
    assert told["latency_ms_p50"] >= 0
    loop.close()
    assert slow.rested == [0, 49]
    assert not loop.alive


def test_failures_are_told_once_and_the_next_frame_is_tried():
    slow = Slow()
    loop = slow.loop()
    slow.gate.release(5)
    wrong = InputError("left/camera_info", found="nothing", expected="a camera", fix="Calibrate.")
    for count, frame in enumerate((wrong, wrong, MemoryError("too large"), "warm", "cold"), start=1):
        loop.offer(frame)
        finished(loop, count)
        if count == 2:
            assert loop.refused == str(wrong)
    loop.close()
    assert slow.told == [str(wrong), "MemoryError: too large"]
    assert (loop.refused, loop.frames_refused, loop.frames_out) == ("", 3, 2)
    assert loop.numbers()["warm_share"] == 0.5
    assert slow.forgot == 1


def test_what_fails_after_a_map_takes_neither_the_map_nor_the_thread():
    slow = Slow()

    def fails(frame):
        raise ValueError(f"no look at {frame}")

    loop = FrameLoop(slow.make, fails, slow.forget, slow.told.append)
    slow.gate.release(2)
    for count in (1, 2):
        loop.offer(count)
        finished(loop, count)
    assert loop.alive
    loop.close()
    assert (slow.made, loop.refused, loop.frames_out) == ([1, 2], "", 2)
    assert slow.told == ["ValueError: no look at 1", "ValueError: no look at 2"]


def test_restart_forgets_before_the_next_frame():
    slow = Slow()
    loop = slow.loop()
    slow.gate.release(3)
    for count in (1, 2, 3):
        if count == 2:
            loop.restart()
        loop.offer(count)
        finished(loop, count)
    loop.close()
    assert slow.forgot == 2


# Parameters, diagnostics, package


def test_parameters_become_settings():
    found = read(
        defaults(calls=2, first="none", max_disparity=90.0, threshold=0.5, video=True, slop_ms=5.0, baseline=0.2)
    )
    made = found.estimate
    assert (made.calls, made.first, made.max_disparity, made.threshold) == (2, "none", 90, 0.5)
    assert found.video is not None
    assert (found.slop, found.baseline) == (0.005, 0.2)
    plain = read(defaults())
    assert plain.estimate == type(plain.estimate)()
    assert (plain.weights, plain.video, plain.baseline) == ("robotics/stereo_small", None, None)


def test_settings_that_a_confidence_was_not_fitted_with_are_told():
    fitted = read(defaults()).estimate.model_dump(mode="json", exclude={"threshold"})
    assert different(fitted, read(defaults(threshold=0.5))) == ""
    assert different(fitted, read(defaults(samples=1, scale=0.5))) == "samples 4, scale 1.0"
    assert different(fitted, read(defaults(glass=0.1))) == "glass 0.0"
    assert read(defaults(glass=0.1)).estimate.glass == 0.1


def test_unknown_first_map_is_named():
    with pytest.raises(InputError, match="parameter first: found 'bm'; expected one of sgbm, raw, none"):
        read(defaults(first="bm"))


@needs_ros
def test_diagnostics_tell_the_first_thing_that_is_wrong():
    from diagnostic_msgs.msg import DiagnosticStatus

    from robotics.ros2.stereo_diagnostics import stereo_status

    slow = Slow()
    loop = slow.loop()
    told = {
        "problem": "", "configured": True, "loop": loop, "missing": (), "silent": {}, "unpaired": "", "findings": (),
        "numbers": {"unpaired": 3},
    }  # fmt: skip
    level, message, values = stereo_status(**told)
    assert (level, message) == (DiagnosticStatus.OK, "the first map is being made")
    assert {"frames_in": "0", "unpaired": "3"}.items() <= {pair.key: pair.value for pair in values}.items()
    rising = [
        ({"findings": ("rows differ. Rectify.",)}, DiagnosticStatus.WARN, "rows differ. Rectify."),
        ({"unpaired": "50 ms apart"}, DiagnosticStatus.WARN, "50 ms apart"),
        ({"silent": {"left/image_rect": 3.04}}, DiagnosticStatus.ERROR, "no message of left/image_rect for 3.0 s"),
        ({"missing": ["raw/depth"]}, DiagnosticStatus.WARN, "waits for raw/depth"),
        ({"loop": None}, DiagnosticStatus.STALE, "not active"),
        ({"configured": False}, DiagnosticStatus.STALE, "not configured"),
        ({"problem": "no file"}, DiagnosticStatus.ERROR, "no file"),
    ]
    for change, level, message in rising:
        told |= change
        assert stereo_status(**told)[:2] == (level, message)
    loop.close()
    told |= {"problem": "", "configured": True, "loop": loop}
    assert "the thread of the maps has ended" in stereo_status(**told)[1]


def test_parameters_of_the_package_are_the_defaults():
    given = yaml.safe_load((AMENT / "config" / "stereo.yaml").read_text())["/**/stereo"]["ros__parameters"]
    assert given == defaults()
