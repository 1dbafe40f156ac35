import numpy as np
import pytest

from robotics.policy.environments import with_mirrored
from robotics.policy.episodes import read_episodes
from robotics.policy.pusht import KEYPOINTS, PushT, initial_state, keypoints, mirrored, observation
from shared.errors import InputError


def test_seeds_are_the_published_worlds():
    # numpy's legacy generator is frozen, so these numbers can never change.
    source = np.random.RandomState(100_000)
    expected = [source.randint(50, 450), source.randint(50, 450), source.randint(100, 400), source.randint(100, 400)]
    state = initial_state(100_000)
    assert state[:4].tolist() == expected
    assert state[4] == source.randn() * 2 * np.pi - np.pi
    assert not np.array_equal(state, initial_state(100_001))


def test_keypoints_turn_and_move_with_the_block():
    still = keypoints(np.array([0, 0, 100, 50, 0.0]))
    np.testing.assert_allclose(still, KEYPOINTS + np.array([100, 50]))
    turned = keypoints(np.array([0, 0, 0, 0, np.pi / 2]))
    np.testing.assert_allclose(turned, np.stack([-KEYPOINTS[:, 1], KEYPOINTS[:, 0]], axis=1), atol=1e-9)


@pytest.mark.data
def test_keypoints_are_those_of_the_recordings(data_file):
    with np.load(data_file("robotics/pusht_cchi_v7_lowdim.npz")) as file:
        error = np.abs(keypoints(file["state"]) - file["keypoint"])
    assert error.mean() < 0.02  # pixels
    assert np.quantile(error, 0.999) < 0.2


def test_world_is_deterministic_and_pushes():
    pytest.importorskip("gym_pusht")
    first, second = PushT(), PushT()
    try:
        seen = first.reset(100_003)
        assert np.array_equal(second.reset(100_003)["state"], seen["state"])
        np.testing.assert_allclose(seen["state"][:2], initial_state(100_003)[:2])
        still, reward, solved = first.step(first.hold(seen))
        np.testing.assert_allclose(still["state"], seen["state"], atol=1e-4)
        assert 0 <= reward < 0.95
        assert not solved
        second.step(second.hold(seen))
        centre = keypoints(seen["state"])[3]
        for _ in range(30):
            pushed, one, _ = first.step(centre)
            also, other, _ = second.step(centre)
        assert np.array_equal(pushed["state"], also["state"])
        assert one == other
        assert np.linalg.norm(pushed["state"][2:4] - seen["state"][2:4]) > 5  # pixels
        np.testing.assert_allclose(pushed["keypoint"], observation(pushed["state"])["keypoint"], rtol=1e-6)
    finally:
        first.close()
        second.close()


@pytest.mark.data
def test_the_mirror_image_of_a_demonstration_is_one(data_file):
    pytest.importorskip("gym_pusht")
    episodes = read_episodes(data_file("robotics/pusht_cchi_v7_lowdim.npz"), ["state", "keypoint", "action"])
    both = with_mirrored(episodes, "pusht")
    assert both.count == 2 * episodes.count
    begin, end = both.bounds[episodes.count]
    worlds = PushT(), PushT()
    try:
        for world, start in zip(worlds, (0, begin), strict=True):
            world.reset(0)
            world.place(both.arrays["state"][start])
        for frame in range(end - begin):
            actions = (both.arrays["action"][start + frame] for start in (0, begin))
            (seen, reward, _), (other, again, _) = (
                world.step(action) for world, action in zip(worlds, actions, strict=True)
            )
            # Walls end one pixel off; this demonstration never touches them.
            np.testing.assert_allclose(other["state"], mirrored(seen)["state"], atol=1e-2)
            np.testing.assert_allclose(other["keypoint"], mirrored(seen)["keypoint"], atol=1e-2)
            assert again == pytest.approx(reward, abs=1e-4)
        assert reward > 0.9
    finally:
        for world in worlds:
            world.close()


def test_what_has_no_mirror_image_is_refused():
    with pytest.raises(InputError, match=r"img.*no mirror image"):
        mirrored({"img": np.zeros((2, 3))})
    with pytest.raises(InputError, match="no state of five"):
        mirrored({"keypoint": np.zeros((2, 9, 2)), "state": np.zeros((2, 2))})


def test_disturbance_moves_the_block_by_its_size_and_keeps_it_inside():
    pytest.importorskip("gym_pusht")
    task, source = PushT(), np.random.default_rng(0)
    try:
        for seed in range(100_000, 100_010):
            before = task.reset(seed)["state"]
            task.disturb(source, 30.0)
            after, _, _ = task.step(before[:2].astype(float))
            moved = np.linalg.norm(after["state"][2:4] - before[2:4])
            free = np.linalg.norm(before[2:4] - before[:2]) > 200  # the pusher, which stands still, is not in the way
            assert moved == pytest.approx(30, abs=0.5) if free else moved < 45
            assert np.all(np.abs(after["state"][2:4] - 256) < 200)
            np.testing.assert_allclose(after["state"][:2], before[:2], atol=0.5)
    finally:
        task.close()


@pytest.mark.data
def test_recorded_actions_solve_the_recorded_worlds(data_file):
    pytest.importorskip("gym_pusht")
    with np.load(data_file("robotics/pusht_cchi_v7_lowdim.npz")) as file:
        ends, states, actions = file["episode_ends"], file["state"], file["action"]
    scores = []
    for episode in range(3):
        begin = 0 if episode == 0 else ends[episode - 1]
        task = PushT()
        task.reset(0)
        world, start = task._env, states[begin].astype(float).tolist()
        world.agent.position, world.agent.velocity = start[:2], (0, 0)
        world.block.angle = start[4]  # the order matters: turning is about the centre of gravity
        world.block.position, world.block.velocity, world.block.angular_velocity = start[2:4], (0, 0), 0
        scores.append(max(task.step(action)[1] for action in actions[begin : ends[episode]]))
        task.close()
    assert np.mean(scores) > 0.9  # all episodes: 0.947
