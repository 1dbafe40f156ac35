import json

import numpy as np
import pytest

from robotics.policy.episodes import read_episodes
from robotics.policy.windows import split_episodes, window_frames
from shared.errors import InputError

ENDS = np.array([5, 12, 15])
STATE = np.arange(30, dtype=np.float32).reshape(15, 2)
ACTION = -STATE


def write_npz(folder):
    np.savez(folder / "data.npz", state=STATE, action=ACTION, episode_ends=ENDS)
    return folder / "data.npz"


def write_zarr(folder, zipped: bool):
    zarr = pytest.importorskip("zarr")
    path = folder / ("data.zarr.zip" if zipped else "data.zarr")
    store = zarr.storage.ZipStore(str(path), mode="w") if zipped else zarr.storage.LocalStore(str(path))
    root = zarr.create_group(store, zarr_format=2)
    for name, values in (("data/state", STATE), ("data/action", ACTION), ("meta/episode_ends", ENDS)):
        root.create_array(name, data=values, chunks=(4, *values.shape[1:]))
    store.close()
    return path


def write_lerobot(folder, version="v3.0", frames=15):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    place = folder / "lerobot"
    (place / "meta").mkdir(parents=True)
    (place / "data" / "chunk-000").mkdir(parents=True)
    features = {name: {"dtype": "float32", "shape": [2]} for name in ("state", "action")}
    features["image"] = {"dtype": "video", "shape": [4, 4, 3]}
    info = {"codebase_version": version, "total_frames": frames, "features": features}
    (place / "meta" / "info.json").write_text(json.dumps(info))
    episode = np.repeat(np.arange(3), np.diff(ENDS, prepend=0))
    frame = np.concatenate([np.arange(n) for n in np.diff(ENDS, prepend=0)])
    for number, rows in enumerate((slice(9, 15), slice(0, 9))):  # the order of files is not that of the episodes
        columns = {"state": list(STATE[rows]), "action": list(ACTION[rows])}
        table = arrow.table({**columns, "episode_index": episode[rows], "frame_index": frame[rows]})
        parquet.write_table(table, place / "data" / "chunk-000" / f"file-{number:03d}.parquet")
    return place


@pytest.mark.parametrize(
    "write", [write_npz, lambda f: write_zarr(f, True), lambda f: write_zarr(f, False), write_lerobot]
)
def test_every_format_gives_the_same_episodes(tmp_path, write):
    episodes = read_episodes(write(tmp_path), ["state", "action"])
    assert np.array_equal(episodes.arrays["state"], STATE)
    assert np.array_equal(episodes.arrays["action"], ACTION)
    assert episodes.bounds == [(0, 5), (5, 12), (12, 15)]
    assert (episodes.frames, episodes.count) == (15, 3)


def test_bad_data_say_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="no array 'speed'; expected one of action, episode_ends, state"):
        read_episodes(write_npz(tmp_path), ["speed"])
    np.savez(tmp_path / "short.npz", state=STATE[:9], episode_ends=ENDS)
    with pytest.raises(InputError, match="9 frames of state; expected 15"):
        read_episodes(tmp_path / "short.npz", ["state"])
    np.savez(tmp_path / "nan.npz", state=np.where(STATE == 8, np.nan, STATE), episode_ends=ENDS)
    with pytest.raises(InputError, match="not finite in frame 4"):
        read_episodes(tmp_path / "nan.npz", ["state"])
    np.savez(tmp_path / "pickle.npz", state=np.array([{}], dtype=object), episode_ends=ENDS)
    with pytest.raises(InputError, match="cannot be read"):
        read_episodes(tmp_path / "pickle.npz", ["state"])
    with pytest.raises(InputError, match="nothing there"):
        read_episodes(tmp_path / "absent.zarr", ["state"])
    (tmp_path / "torn.npz").write_bytes((tmp_path / "data.npz").read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        read_episodes(tmp_path / "torn.npz", ["state"])


def test_bad_lerobot_data_say_what_is_wrong(tmp_path):
    place = write_lerobot(tmp_path, frames=20)
    with pytest.raises(InputError, match="15 frames; expected 20"):
        read_episodes(place, ["state"])
    with pytest.raises(InputError, match="image of type video"):
        read_episodes(place, ["image"])
    with pytest.raises(InputError, match=r"version v1\.6"):
        read_episodes(write_lerobot(tmp_path / "old", version="v1.6"), ["state"])


def copied_windows(ends, length, before, after):
    """The published procedure: copy what lies in the episode, fill the front and the end."""
    found, begin = [], 0
    for end in ends:
        for start in range(-before, (end - begin) - length + after + 1):
            inside = [begin + i for i in range(start, start + length) if 0 <= i < end - begin]
            front = sum(i < 0 for i in range(start, start + length))
            found.append([inside[0]] * front + inside + [inside[-1]] * (length - front - len(inside)))
        begin = end
    return np.array(found)


@pytest.mark.parametrize(("length", "before", "after"), [(4, 1, 2), (4, 0, 0), (6, 1, 5), (3, 2, 2)])
def test_windows_are_those_of_copy_and_fill(length, before, after):
    found = window_frames(ENDS, length, before=before, after=after)
    assert np.array_equal(found, copied_windows(ENDS, length, before, after))


def test_windows_never_cross_an_episode_and_refuse_none():
    frames = window_frames(ENDS, 4, before=1, after=2, episodes=[1])
    assert frames.min() == 5
    assert frames.max() == 11
    with pytest.raises(InputError, match="none with a window"):
        window_frames(ENDS, 30)


@pytest.mark.data
def test_push_t_recordings_agree_and_have_the_published_windows(data_file):
    names = ["state", "action", "keypoint"]
    ours = read_episodes(data_file("robotics/pusht_cchi_v7_lowdim.npz"), names)
    assert (ours.count, ours.frames) == (206, 25_650)
    # Each episode gives n - 16 + 1 + 1 + 7 windows, so 25 650 - 7 x 206.
    assert len(window_frames(ours.ends, 16, before=1, after=7)) == 24_208
    train, held = split_episodes(206, validation=0.02, most=90, seed=42)
    assert (len(train), len(held), set(train) & set(held)) == (90, 4, set())
    assert len(window_frames(ours.ends, 16, before=1, after=7, episodes=train)) == 10_726
    lerobot = read_episodes(data_file("robotics/lerobot_pusht_v3"), ["action", "observation.state"])
    assert np.array_equal(lerobot.arrays["action"], ours.arrays["action"])
    assert np.array_equal(lerobot.arrays["observation.state"], ours.arrays["state"][:, :2])
    assert np.array_equal(lerobot.ends, ours.ends)


@pytest.mark.data
def test_replay_buffer_of_push_t_is_read_from_its_zip(data_file):
    pytest.importorskip("zarr")
    zipped = read_episodes(data_file("robotics/pusht_keypoint_x356_y356_lowdim.zarr.zip"), ["state", "action"])
    plain = read_episodes(data_file("robotics/pusht_x356_y356_lowdim.npz"), ["state", "action"])
    assert (zipped.count, zipped.frames) == (151, 24_644)
    for name in ("state", "action"):
        assert np.array_equal(zipped.arrays[name], plain.arrays[name])
