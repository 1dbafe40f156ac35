"""Demonstrations of robomimic, LeRobot v2.1 and ROS 2 bags, written by those formats' own libraries."""

import io
import json

import numpy as np
import pytest

from robotics.policy.episodes import BagTopics, read_episodes
from shared.errors import InputError

SECOND = 10**9


def write_robomimic(path, lengths, *, mask=None):
    """Write demonstrations whose numbers tell demonstration and frame; return the arrays by demonstration."""
    import h5py

    written = []
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1})
        for demo, length in enumerate(lengths):
            group = data.create_group(f"demo_{demo}")
            actions = demo + np.arange(length * 7).reshape(length, 7) / 1000
            image = np.random.default_rng(demo).integers(0, 256, (length, 6, 8, 3), dtype=np.uint8)
            group["actions"] = actions
            group["obs/robot0_eef_pos"] = actions[:, :3] + 100
            group["obs/agentview_image"] = image
            group["next_obs/robot0_eef_pos"] = actions[:, :3] - 100
            written.append({"actions": actions, "robot0_eef_pos": actions[:, :3] + 100, "agentview_image": image})
        if mask is not None:
            file["mask/train"] = np.array([f"demo_{demo}".encode() for demo in mask])
    return written


def test_robomimic_demonstrations_come_in_the_order_of_their_numbers(tmp_path):
    names = ["robot0_eef_pos", "agentview_image", "actions"]
    written = write_robomimic(tmp_path / "low.hdf5", range(2, 14))  # demo_10 sorts before demo_2 as text
    episodes = read_episodes(tmp_path / "low.hdf5", names)
    assert np.diff(episodes.ends, prepend=0).tolist() == list(range(2, 14))
    for name in names:
        assert np.array_equal(episodes.arrays[name], np.concatenate([one[name] for one in written]))
    assert episodes.arrays["agentview_image"].dtype == np.uint8
    assert episodes.facts == {"env_args": {"env_name": "Lift", "type": 1}}


def test_robomimic_mask_takes_its_demonstrations(tmp_path):
    written = write_robomimic(tmp_path / "low.hdf5", [3, 4, 5, 6], mask=[3, 1])
    episodes = read_episodes(tmp_path / "low.hdf5", ["actions"], mask="train")
    assert np.array_equal(episodes.arrays["actions"], np.concatenate([written[1]["actions"], written[3]["actions"]]))
    with pytest.raises(InputError, match="no mask 'valid'; expected one of train"):
        read_episodes(tmp_path / "low.hdf5", ["actions"], mask="valid")
    np.savez(tmp_path / "data.npz", state=np.zeros((2, 1)), episode_ends=[2])
    with pytest.raises(InputError, match="no masks"):
        read_episodes(tmp_path / "data.npz", ["state"], mask="train")


def test_bad_robomimic_data_say_what_is_wrong(tmp_path):
    import h5py

    write_robomimic(tmp_path / "low.hdf5", [3, 4])
    with pytest.raises(InputError, match="demo_0: speed'; expected one of actions, agentview_image, robot0_eef_pos"):
        read_episodes(tmp_path / "low.hdf5", ["speed"])
    with h5py.File(tmp_path / "low.hdf5", "a") as file:
        del file["data/demo_1/actions"]
        file["data/demo_1/actions"] = np.zeros((5, 7))
    with pytest.raises(InputError, match=r"episode 1 with frames \{'robot0_eef_pos': 4, 'actions': 5\}"):
        read_episodes(tmp_path / "low.hdf5", ["robot0_eef_pos", "actions"])
    with h5py.File(tmp_path / "empty.hdf5", "w") as file:
        file["other"] = 1
    with pytest.raises(InputError, match="no data/demo"):
        read_episodes(tmp_path / "empty.hdf5", ["actions"])
    (tmp_path / "torn.hdf5").write_bytes((tmp_path / "low.hdf5").read_bytes()[:200])
    with pytest.raises(InputError, match="cannot be read"):
        read_episodes(tmp_path / "torn.hdf5", ["actions"])


def write_lerobot_v21(place, arrays, ends, *, said=None, images=None):
    """Write the layout of LeRobot v2.1: one parquet file an episode, and episodes.jsonl."""
    arrow = pytest.importorskip("pyarrow")
    from PIL import Image
    from pyarrow import parquet

    (place / "meta").mkdir(parents=True)
    (place / "data" / "chunk-000").mkdir(parents=True)
    features = {name: {"dtype": "float32", "shape": list(values.shape[1:])} for name, values in arrays.items()}
    if images is not None:
        features["observation.image"] = {"dtype": "image", "shape": list(images.shape[1:])}
    info = {"codebase_version": "v2.1", "total_frames": int(ends[-1]), "fps": 10, "features": features}
    (place / "meta" / "info.json").write_text(json.dumps(info))
    lengths = np.diff(ends, prepend=0)
    rows = [{"episode_index": i, "tasks": ["push"], "length": int(n)} for i, n in enumerate(said or lengths)]
    (place / "meta" / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for episode, (end, length) in enumerate(zip(ends, lengths, strict=True)):
        span = slice(end - length, end)
        columns = {name: list(values[span]) for name, values in arrays.items()}
        if images is not None:
            cells = []
            for image in images[span]:
                file = io.BytesIO()
                Image.fromarray(image).save(file, "PNG")
                cells.append({"bytes": file.getvalue(), "path": None})
            columns["observation.image"] = cells
        index = {"episode_index": np.full(length, episode), "frame_index": np.arange(length)}
        parquet.write_table(
            arrow.table({**columns, **index}), place / "data" / "chunk-000" / f"episode_{episode:06d}.parquet"
        )


@pytest.mark.data
def test_lerobot_v21_and_v3_of_push_t_agree_with_the_replay_buffer(tmp_path, data_file):
    plain = read_episodes(data_file("robotics/pusht_cchi_v7_lowdim.npz"), ["state", "action"])
    many = 24
    last = int(plain.ends[many - 1])
    arrays = {"observation.state": plain.arrays["state"][:last, :2], "action": plain.arrays["action"][:last]}
    write_lerobot_v21(tmp_path / "v21", arrays, plain.ends[:many])
    older = read_episodes(tmp_path / "v21", list(arrays))
    newer = read_episodes(data_file("robotics/lerobot_pusht_v3"), list(arrays))
    for name, values in arrays.items():
        assert np.array_equal(older.arrays[name], values)
        assert np.array_equal(newer.arrays[name][:last], values)
    assert older.ends.tolist() == newer.ends[:many].tolist()
    assert older.facts["rate_hz"] == newer.facts["rate_hz"] == 10


def test_lerobot_v21_images_and_lengths(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 6, 3), dtype=np.uint8)
    arrays, ends = {"action": np.arange(14, dtype=np.float32).reshape(7, 2)}, np.array([3, 7])
    write_lerobot_v21(tmp_path / "good", arrays, ends, images=images)
    found = read_episodes(tmp_path / "good", ["observation.image", "action"])
    assert np.array_equal(found.arrays["observation.image"], images)  # PNG keeps every bit
    write_lerobot_v21(tmp_path / "bad", arrays, ends, said=[3, 5])
    with pytest.raises(InputError, match=r"episode 1 of 4 frames; expected 5, as meta/episodes\.jsonl says"):
        read_episodes(tmp_path / "bad", ["action"])


def write_bag(place, messages):
    """Write (topic, type, arrival in ns, message fields) with rosbags, as the recorder does."""
    pytest.importorskip("rosbags")
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_KILTED)
    with Writer(place, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for topic, kind, arrival, make in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], arrival, store.serialize_cdr(make(store.types), kind))


def header(types, stamp):
    time = types["builtin_interfaces/msg/Time"](sec=stamp // SECOND, nanosec=stamp % SECOND)
    return types["std_msgs/msg/Header"](stamp=time, frame_id="")


def joints(stamp, names, position):
    def make(types):
        none = np.empty(0)
        return types["sensor_msgs/msg/JointState"](
            header=header(types, stamp), name=names, position=np.array(position, float), velocity=none, effort=none
        )

    return make


def image(stamp, pixels, encoding, padding=0):
    def make(types):
        height, width = pixels.shape[:2]
        rows = np.pad(pixels.reshape(height, -1), ((0, 0), (0, padding)))
        return types["sensor_msgs/msg/Image"](
            header=header(types, stamp), height=height, width=width, encoding=encoding, is_bigendian=0,
            step=rows.shape[1], data=rows.reshape(-1).copy(),
        )  # fmt: skip

    return make


def array(values):
    def make(types):
        layout = types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
        return types["std_msgs/msg/Float64MultiArray"](layout=layout, data=np.array(values, float))

    return make


def twist(linear, angular):
    def make(types):
        vector = types["geometry_msgs/msg/Vector3"]
        return types["geometry_msgs/msg/Twist"](
            linear=vector(x=linear, y=0.0, z=0.0), angular=vector(x=0.0, y=0.0, z=angular)
        )

    return make


START = 1_700_000_000 * SECOND
MS = 10**6


def arm_bag(place, *, silence=(0, 0), late_ms=25):
    """An arm at 50 Hz that arrives late, a camera at 30 Hz, commands at 20 Hz without stamps."""
    messages = []
    for n in range(100):
        stamp = START + 20 * MS * n
        if not silence[0] <= 20 * n < silence[1]:
            make = joints(stamp, ["b", "a"], [1000 + n, n])
            messages.append(("/joint_states", "sensor_msgs/msg/JointState", stamp + late_ms * MS, make))
    for n in range(60):
        stamp = START + 33 * MS * n
        pixels = np.full((4, 6, 3), [n, 2 * n, 255 - n], np.uint8)
        messages.append(("/camera", "sensor_msgs/msg/Image", stamp + MS, image(stamp, pixels, "bgr8", padding=2)))
    for n in range(38):
        arrival = START + 50 * MS + 50 * MS * n
        messages.append(("/command", "std_msgs/msg/Float64MultiArray", arrival, array([n, -n])))
    write_bag(place, sorted(messages, key=lambda one: one[2]))


TOPICS = {
    "state": {"topic": "/joint_states", "joints": ["a", "b"]},
    "img": {"topic": "/camera"},
    "action": {"topic": "/command"},
}


def test_bag_is_resampled_by_the_newest_earlier_message(tmp_path):
    arm_bag(tmp_path / "bag")
    topics = BagTopics.model_validate({"rate_hz": 10, "topics": TOPICS})
    found = read_episodes(tmp_path / "bag", ["state", "img", "action"], topics=topics)
    # The first time with all topics is that of the first command, 50 ms; the last is 1900 ms, so 19 of 100 ms each.
    grid = 50 + 100 * np.arange(19)
    newest = np.minimum(grid // 20, 99)
    assert np.array_equal(found.arrays["state"], np.stack([newest, 1000 + newest], axis=1))
    assert np.array_equal(found.arrays["action"][:, 0], (grid - 50) // 50)
    frame = grid // 33
    assert np.array_equal(found.arrays["img"][:, 0, 0], np.stack([255 - frame, 2 * frame, frame], axis=1))  # as RGB
    assert found.arrays["img"].shape == (19, 4, 6, 3)
    arrived = read_episodes(
        tmp_path / "bag", ["state", "action"], topics=topics.model_copy(update={"clock": "arrival"})
    )
    assert np.array_equal(arrived.arrays["state"][:, 0], np.minimum((grid - 25) // 20, 99))  # 25 ms later


def test_several_bags_are_episodes_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9):
        messages = [
            ("/cmd_vel", "geometry_msgs/msg/Twist", START + 100 * MS * n, twist(float(number), float(n)))
            for n in range(4)
        ]
        write_bag(tmp_path / "data" / f"run{number}", messages)
    mapping = {"rate_hz": 20, "topics": {"action": {"topic": "/cmd_vel", "columns": [0, 5]}}}
    found = read_episodes(tmp_path / "data", ["action"], topics=BagTopics.model_validate(mapping))
    assert found.ends.tolist() == [7, 14]  # 0.3 s at 20 Hz, both ends
    assert found.arrays["action"][:, 0].tolist() == [9] * 7 + [10] * 7
    assert found.arrays["action"][:7, 1].tolist() == [0, 0, 1, 1, 2, 2, 3]


def test_bad_bags_say_what_is_wrong(tmp_path):
    def read(name, topics, names=("state", "action")):
        mapping = BagTopics.model_validate({"rate_hz": 10, "topics": topics})
        return read_episodes(tmp_path / name, list(names), topics=mapping)

    arm_bag(tmp_path / "silent", silence=(600, 1300))
    with pytest.raises(
        InputError, match=r"/joint_states silent for 0\.67 s at 1\.2 s; expected a message every 0\.5 s"
    ):
        read("silent", TOPICS)
    read("silent", {**TOPICS, "state": {"topic": "/joint_states", "max_age_s": 1}})
    with pytest.raises(InputError, match="no array '/joints'; expected one of /camera, /command, /joint_states"):
        read("silent", {**TOPICS, "state": {"topic": "/joints"}})
    with pytest.raises(InputError, match=r"a message of /joint_states with numbers of shape \(1,\)"):
        read("silent", {**TOPICS, "state": {"topic": "/joint_states", "joints": ["a", "elbow"]}})
    with pytest.raises(InputError, match="no array 'speed'; expected one of action, img, state"):
        read("silent", TOPICS, names=["speed"])
    with pytest.raises(InputError, match="bags without a mapping"):
        read_episodes(tmp_path / "silent", ["state"])
    clocks = [("/a", "sensor_msgs/msg/JointState", START, joints(5 * SECOND, ["a"], [0]))]
    clocks += [("/command", "std_msgs/msg/Float64MultiArray", START, array([0]))]
    write_bag(tmp_path / "clocks", clocks)
    with pytest.raises(InputError, match="clock: arrival"):
        read("clocks", {"state": {"topic": "/a"}, "action": {"topic": "/command"}})
    with pytest.raises(InputError, match="no array '/camera'"):
        read("clocks", TOPICS, names=["img"])
    broken = tmp_path / "broken"
    arm_bag(broken)
    file = next(broken.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(InputError, match="cannot be read"):
        read("broken", TOPICS)


@pytest.mark.parametrize("name", ["x.npz", "x.zarr.zip", "x.hdf5"])
@pytest.mark.parametrize("content", [b"", b"no data set"])
def test_an_empty_or_foreign_file_is_one_clear_error(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read") as told:
        read_episodes(path, ["state"])
    assert str(path) in str(told.value)
