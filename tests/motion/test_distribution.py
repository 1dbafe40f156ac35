"""Sets of motions against real ones: the distance, its floor, what damage does to it, and copies."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from typer.testing import CliRunner

from motion.actions import ACTION
from motion.cli import app
from motion.clips import Motion
from motion.collection import Clip, Collection, read_for, save_collection
from motion.distribution import STRIDE, Reference, compare, diversity, frechet_distances
from motion.encoder import MotionEncoder, load_encoder, on_body, windows_of
from motion.formats import write_clip
from motion.metrics import evaluate
from motion.mirror import mirrored
from motion.nearest import NearestWindows
from motion.rotations import about_axis
from shared.bench.metrics import frechet
from shared.errors import InputError
from tests.motion.figures import quietly, walk


@pytest.fixture(scope="module")
def encoder() -> MotionEncoder:
    return load_encoder()


@pytest.fixture(scope="module")
def walker(encoder) -> Motion:
    """Return the figure's walk of 10 s on the encoder's body."""
    return encoder.body.decode(on_body(walk(300), encoder.body, 30.0)[0], 30.0)


def collection(encoder: MotionEncoder, clips: dict[str, Motion]) -> Collection:
    made = []
    for name, motion in clips.items():
        for title, one in ((name, motion), (f"{name} mirrored", mirrored(motion))):
            actions = torch.full((motion.frames,), ACTION["walk"])
            made.append(Clip(title, f"made/{name}.bvh", "CC0", encoder.body.encode(one).float(), actions))
    return Collection(encoder.body, 30.0, tuple(made))


def noisy(motion: Motion, spread: float, seed: int = 0) -> Motion:
    """Return the motion with white noise: angles of all joints, rad, and a tenth of it in m at the root."""
    generator = torch.Generator().manual_seed(seed)
    angles = spread * torch.randn(3, motion.frames, len(motion.skeleton), generator=generator, dtype=torch.float64)
    turns = about_axis(0, angles[0]) @ about_axis(1, angles[1]) @ about_axis(2, angles[2])
    shift = spread / 10 * torch.randn(motion.frames, 3, generator=generator, dtype=torch.float64)
    return replace(motion, root=motion.root + shift, rotations=motion.rotations @ turns)


def slowed(motion: Motion, speed: float) -> Motion:
    return replace(replace(motion, fps=motion.fps * speed).resampled(motion.fps), fps=motion.fps)


def slid(motion: Motion, factor: float) -> Motion:
    """Return the motion with the same steps over another distance."""
    return replace(motion, root=motion.root * torch.tensor([factor, factor, 1.0]).double())


def wrong_mirror(motion: Motion) -> Motion:
    """Return the mirrored poses on the way that the original went."""
    return replace(mirrored(motion), root=motion.root)


def by_sqrtm(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the Frechet distance as pytorch-fid writes it, in NumPy and SciPy."""
    x, y = a.numpy(), b.numpy()
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t).real))


def gaussian(generator: torch.Generator, count: int, mean: float, spread: float) -> torch.Tensor:
    return mean + spread * torch.randn(count, 4, generator=generator, dtype=torch.float64)


def test_distances_of_gaussians_are_the_closed_form_and_real_motion_scores_its_floor():
    generator = torch.Generator().manual_seed(0)
    segments = torch.stack([torch.arange(6000) // 1000, torch.arange(6000) // 5 % 200], 1)
    real = Reference(None, None, frozenset(), gaussian(generator, 6000, 0.0, 1.0), segments)
    numbers = frechet_distances(gaussian(generator, 6000, 0.5, 2.0), real)
    assert numbers["frechet"] == pytest.approx(4 * 0.5**2 + 4 * (2 - 1) ** 2, rel=0.05)
    assert numbers["frechet_low"] < numbers["frechet"] < numbers["frechet_high"]
    assert numbers["frechet_windows"] == pytest.approx(3000, abs=30)
    assert 0 < numbers["frechet_real_floor"] < 0.02
    same = frechet_distances(gaussian(generator, 6000, 0.0, 1.0), real, repeats=6)
    assert same["frechet"] == pytest.approx(numbers["frechet_real_floor"], abs=0.01)
    few = frechet_distances(gaussian(generator, 20, 0.0, 1.0), real, repeats=6)
    assert few["frechet_windows"] == 20
    assert few["frechet_real_floor"] > 10 * numbers["frechet_real_floor"]


def test_halves_share_no_segment_and_halves_of_recordings_no_recording(encoder, walker):
    clips = {"a": walker, "b": walker.cut(0, 250), "c": walker.cut(0, 125)}
    real = Reference.of(collection(encoder, clips), encoder)
    # 5 starts in each 120 frames, of 300, 250 and 125 frames; each of them mirrored too.
    assert len(real.features) == 2 * ((5 + 5 + 1) + (5 + 5) + 5)
    source = np.random.default_rng(3)
    for _ in range(5):
        for half, column in ((real.half_of_segments(source), 2), (real.half_of_recordings(source), 1)):
            first, second = (set(map(tuple, real.segments[part, :column].tolist())) for part in (half, ~half))
            assert first
            assert second
            assert not first & second
    half = real.half_of_segments(source)
    of_a = {int(segment): bool(side) for (clip, segment), side in zip(real.segments, half, strict=True) if clip == 0}
    assert of_a[0] != of_a[1]


def test_features_of_motions_agree_with_the_formula_by_sqrtm(encoder, walker):
    one, other = (encoder.encode(encoder.body.encode(m).float(), 2) for m in (walker, noisy(walker, 0.05)))
    assert len(one) > 3 * encoder.config.size
    assert frechet(one, other) == pytest.approx(by_sqrtm(one, other), rel=1e-4)


def test_damage_raises_the_distance_from_real_motion(encoder, data_file):
    path = data_file("motion/mocap/jl_locomotion_bvh60/locomotion_30s.bvh.gz")
    skeleton = encoder.body.skeleton
    whole = read_for(path, encoder.body, skeleton, 30.0)
    real = whole.cut(0, 500)

    def features(*motions: Motion) -> torch.Tensor:
        return torch.cat([encoder.encode(encoder.body.encode(motion).float(), 5) for motion in motions])

    for damage, amounts in (
        (noisy, (0.01, 0.03, 0.1)), (slowed, (0.9, 0.7, 0.4)), (slid, (1.2, 1.5, 2.5)),
    ):  # fmt: skip
        found = [frechet(features(damage(real, amount)), features(real)) for amount in amounts]
        assert found == sorted(found), damage.__name__
        assert found[-1] > 4 * found[0] > 0, damage.__name__
    # All of it: at first it walks along the plane of the mirror, where the way is its own mirror image.
    both = features(whole, mirrored(whole))
    assert frechet(features(wrong_mirror(whole)), both) > 2 * frechet(features(mirrored(whole)), both)


def test_diversity_is_the_mean_distance_of_pairs():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]])
    assert diversity(features) == pytest.approx((5 + 8 + 5) / 3)


def test_the_nearest_window_is_that_of_a_search_through_all(encoder, walker):
    clips = [
        Clip(name, "", "", encoder.body.encode(motion).float(), torch.full((motion.frames,), ACTION["walk"]))
        for name, motion in {
            "straight": walker.cut(0, 90), "slow": slowed(walker, 0.7).cut(0, 80),
            "noisy": noisy(walker, 0.1).cut(5, 75),
        }.items()
    ]  # fmt: skip
    asked = [noisy(walker, 0.05, seed).cut(start, start + 60) for seed, start in ((1, 3), (2, 17))]
    asked.append(slowed(walker, 0.8).cut(40, 100))
    joints = [0, *encoder.body.driven]
    found = NearestWindows(encoder.body, clips, 60).find(
        torch.stack([encoder.body.encode(one).float() for one in asked])
    )
    for index, one in enumerate(asked):
        place = one.canonical()[0].positions()[:, joints]
        best = min(
            (float((motion.cut(k, k + 60).canonical()[0].positions()[:, joints] - place).norm(dim=-1).mean()), name, k)
            for name, motion in enumerate(encoder.body.decode(clip.features, 30.0) for clip in clips)
            for k in range(motion.frames - 59)
        )
        assert float(found.distance[index]) == pytest.approx(best[0], abs=1e-5)
        assert (int(found.clip[index]), int(found.start[index])) == best[1:]


def test_a_copy_is_found_wherever_it_was_put(encoder, walker):
    turn = about_axis(2, torch.tensor(-1.3, dtype=torch.float64))
    copy = walker.cut(31, 91).placed(turn, torch.tensor([5.0, 1.0, 0.0]).double())
    clip = Clip("walk", "", "", encoder.body.encode(walker).float(), torch.full((300,), ACTION["walk"]))
    found = NearestWindows(encoder.body, [clip], 60).find(encoder.body.encode(copy).float()[None])
    assert float(found.distance[0]) < 1e-4
    assert (int(found.start[0]) - 31) % 30 == 0  # the figure takes a step cycle a second


def test_a_short_clip_is_searched_if_it_ends_in_stillness(encoder, walker):
    features = encoder.body.encode(walker.cut(0, 40)).float()
    for name, windows in (("walk", 1), ("stand", 2)):
        short = Clip(name, "", "", features, torch.full((40,), ACTION[name]))
        long = replace(short, features=encoder.body.encode(walker.cut(0, 60)).float())
        assert len(NearestWindows(encoder.body, [short, long], 60).starts) == windows


def test_the_command_tells_copies_from_other_motion(encoder, walker, tmp_path):
    clips = {"a": walker, "b": slowed(walker, 0.8), "held": slowed(walker, 0.9).cut(0, 120)}
    save_collection(tmp_path / "real.safetensors", collection(encoder, clips))
    (tmp_path / "copies").mkdir()
    for index, start in enumerate((0, 40)):
        write_clip(tmp_path / "copies" / f"{index}.bvh", walker.cut(start, start + 90))
    words = ["evaluate", str(tmp_path / "copies"), "-q"]

    def run(*more: str) -> tuple[dict[str, float], str]:
        result = CliRunner().invoke(app, [*words, *map(str, more), "--json", str(tmp_path / "numbers.json")])
        if result.exception is not None:
            raise result.exception
        return json.loads((tmp_path / "numbers.json").read_text()), result.stderr

    numbers, notes = run("--reference", tmp_path / "real.safetensors", "--held-out", "held")
    assert numbers["clips"] == 2
    assert numbers["frames"] == 180
    assert numbers["windows"] == 6
    assert numbers["nearest_cm"] < 0.01 < numbers["nearest_cm_real"]
    assert numbers["copied"] == 1
    assert numbers["frechet"] > 0
    assert "read frechet beside frechet_real_floor only" in notes
    assert "retargeted" not in notes
    alone, notes = run("--reference", tmp_path / "real.safetensors")
    assert "copied" not in alone
    assert "no held-out recording" in notes
    write_clip(tmp_path / "copies" / "other.bvh", walk(30))
    both, notes = run("--reference", tmp_path / "real.safetensors")
    assert both["windows"] == 6
    assert "other.bvh: retargeted to the body of real.safetensors" in notes
    assert "other.bvh: shorter than 2 s" in notes
    plain, _ = run()
    assert plain["clips"] == 3
    each = [evaluate(quietly(path)) for path in sorted((tmp_path / "copies").iterdir())]
    assert plain["jerk_mean"] == pytest.approx(np.mean([one["jerk_mean"] for one in each]), rel=1e-6)
    assert "frechet" not in plain


def test_what_cannot_be_compared_is_told(encoder, walker):
    with pytest.raises(InputError, match="at least two"):
        Reference.of(collection(encoder, {"a": walker}), encoder)
    real = collection(encoder, {"a": walker, "b": walker})
    with pytest.raises(InputError, match="at least 2"):
        compare([walker.cut(0, 50)], Reference.of(real, encoder))
    with pytest.raises(InputError, match="Train an encoder on this collection"):
        Reference.of(replace(real, fps=60.0), encoder)
    assert len(windows_of(real.clips[0].features, 60, STRIDE)) == 17
