"""The viewer: what a page holds is the motion, the scene and the goals; a browser shows it and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from motion.formats.gltf import COLOURS
from motion.scene.loading import Scene, SceneObject, read_scene
from motion.viewer import GoalMarker, body, scenery, three, write_viewer
from motion.viewer.packing import unpacked
from shared.errors import InputError
from tests.motion import chromium
from tests.motion.figures import FLAVOURS, quietly, walk

HOSTILE = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">\u2028 &lt;"


class Page(HTMLParser):
    """What a browser's parser makes of a page: elements in order, and the text of each script, style and title."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.open = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open = tag
        if tag in ("script", "style", "title"):
            self.texts.append((tag, ""))

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        if self.open in ("script", "style", "title"):
            self.texts[-1] = (self.open, self.texts[-1][1] + data)

    def all(self, tag):
        return [text for name, text in self.texts if name == tag]

    @property
    def data(self):
        return json.loads(self.all("script")[0])


def page_of(path):
    return Page(path.read_text(encoding="utf-8"))


def points_of(drawn):
    local = drawn["low"] + drawn["step"] * unpacked(drawn["points"]).astype(np.float64)
    return local + unpacked(drawn["root"])[:, None].astype(np.float64)


def box(name, low, high):
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    quads = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    faces = [f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))]
    return SceneObject(name, np.array(low) + corners * (np.array(high) - np.array(low)), np.array(faces))


def sphere(name, subdivisions=3):
    import trimesh

    mesh = trimesh.creation.icosphere(subdivisions, 1.0)
    return SceneObject(name, np.add(mesh.vertices, [0, 0, 1.0]), np.array(mesh.faces))


def scene_of(*objects, floor=0.0):
    return Scene(objects, floor, "z", "m", (), "test")


@pytest.mark.parametrize("fps", [12.5, 30.0, 120.0])
def test_the_page_holds_every_joint_and_end_site_of_every_frame_to_half_a_step(tmp_path, fps):
    motion = replace(walk(25, fps), root=walk(25, fps).root + torch.tensor([300.0, -20.0, 0.0]))
    write_viewer(tmp_path / "a.html", motion)
    drawn = page_of(tmp_path / "a.html").data["body"]
    assert (drawn["fps"], drawn["frames"]) == (fps, 25)
    positions, turned = motion.pose()
    error = np.abs(points_of(drawn)[:, :20] - positions.numpy()).max()
    assert error < 2e-5  # 2 m of arms in 65 535 steps: half a step is 15 micrometres
    head = positions[:, 3] + turned[:, 3] @ torch.tensor([0, 0, 0.15], dtype=torch.float64)
    assert np.abs(points_of(drawn)[:, 20] - head.numpy()).max() < 2e-5
    bones = unpacked(drawn["bones"])
    assert {(2, 3), (3, 20), (12, 13), (7, 21)} <= {tuple(bone) for bone in bones.tolist()}
    left, right, middle = (drawn["sides"][bones.tolist().index(bone)] for bone in ([12, 13], [16, 17], [2, 3]))
    assert [drawn["colours"][k] for k in (left, right, middle)] == drawn["colours"]
    assert drawn["facing"] == pytest.approx([0.0, -1.0], abs=1e-6)
    assert drawn["hips"] == 0


@pytest.mark.data
def test_clips_of_the_shelf_are_held_and_are_as_thick_as_people(data_file, tmp_path):
    motion = quietly(data_file(FLAVOURS["sit_down"]))
    write_viewer(tmp_path / "a.html", motion.to(torch.float32))
    data = page_of(tmp_path / "a.html").data
    assert np.abs(points_of(data["body"])[:, : len(motion.skeleton)] - motion.positions().numpy()).max() < 5e-5
    radii = unpacked(data["body"]["radii"])
    assert 0.005 < radii.min() < 0.03 < 0.08 < radii.max() < 0.15


def test_bones_of_unknown_names_are_as_thick_as_their_length_says():
    skeleton = walk(1).skeleton
    names = tuple(f"joint {index}" for index in range(len(skeleton)))
    capsules = body.capsules_on(replace(skeleton, names=names, roles={}))
    thigh = capsules.bones.tolist().index([12, 13])
    assert capsules.radii[thigh] == pytest.approx(0.12 * 0.42, abs=1e-3)
    assert len(capsules.bones) == 19 + 3


def test_the_floor_is_where_the_toes_are_or_the_lowest_point_of_a_body_without():
    motion = walk(30)
    assert body.floor_under(motion) == pytest.approx(0.0, abs=1e-6)
    nameless = replace(motion, skeleton=replace(motion.skeleton, roles={}))
    assert body.floor_under(nameless) == pytest.approx(float(motion.positions()[..., 2].min()))


def test_the_page_holds_the_scene_to_half_a_step_and_joins_equal_vertices(tmp_path):
    chair, room = box("chair.001", (1, 2, 0), (1.5, 2.6, 0.9)), box("room", (-3, -3, 0), (3, 3, 2.5))
    soup = SceneObject("soup", chair.triangles.reshape(-1, 3), np.arange(36).reshape(-1, 3))
    scene = scene_of(chair, replace(chair, name="chair.002"), room, soup, box("lamp", (0, 0, 2), (0.2, 0.2, 2.3)))
    write_viewer(tmp_path / "a.html", walk(3), scene)
    drawn = page_of(tmp_path / "a.html").data["scene"]
    assert (drawn["cell"], drawn["triangles"], drawn["height"]) == (0, 60, 2.5)
    for shown, o in zip(drawn["objects"], scene.objects, strict=True):
        vertices = shown["low"] + shown["step"] * unpacked(shown["vertices"]).astype(float)
        assert len(vertices) == 8
        assert np.abs(vertices[unpacked(shown["faces"])] - o.triangles).max() <= 0.5 * shown["step"] + 1e-12
    assert [o["room"] for o in drawn["objects"]] == [False, False, True, False, True]
    assert [o["kind"] for o in drawn["objects"]] == [0, 0, 1, 2, 3]


def test_a_scene_of_too_many_triangles_is_clustered_and_no_vertex_leaves_its_cell(tmp_path):
    ball, small = sphere("ball", 4), sphere("dot", 2)
    dot = replace(small, vertices=0.002 + 1e-4 * small.vertices)
    drawn = scenery.drawn_scene(scene_of(ball, dot), most=1500)
    (shown,) = drawn["objects"]  # the dot is smaller than a cell
    faces = unpacked(shown["faces"])
    assert 500 < len(faces) <= 1500
    assert drawn["triangles"] == 20 * 4**4 + 20 * 4**2
    vertices = shown["low"] + shown["step"] * unpacked(shown["vertices"]).astype(float)
    off = np.abs(np.linalg.norm(vertices - [0, 0, 1.0], axis=1) - 1.0)
    assert off.max() < drawn["cell"] * np.sqrt(3)
    assert off.max() < 0.02
    ordered = np.sort(faces, axis=1)
    assert (np.diff(ordered.astype(int), axis=1) > 0).all()
    assert len(np.unique(ordered, axis=0)) == len(faces)
    a, b, c = vertices[faces].swapaxes(0, 1)
    volume = np.einsum("ij,ij->i", a - [0, 0, 1], np.cross(b - [0, 0, 1], c - [0, 0, 1])).sum() / 6
    assert volume == pytest.approx(4 / 3 * np.pi, rel=0.03)  # still closed, and still the same side out


@pytest.mark.data
def test_the_apartment_takes_less_than_a_megabyte(data_file, tmp_path):
    scene = read_scene(data_file("motion/scenes/apartment.glb"))
    write_viewer(tmp_path / "a.html", walk(90), scene)
    assert (tmp_path / "a.html").stat().st_size < 1e6
    drawn = page_of(tmp_path / "a.html").data["scene"]
    assert [o["name"] for o in drawn["objects"]] == list(scene.names)
    assert [o["name"] for o in drawn["objects"] if o["room"]] == ["C6_plein_ext_P"]


def test_limits_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(body, "LARGEST", 1000)
    with pytest.raises(InputError, match="fewer frames a second"):
        write_viewer(tmp_path / "a.html", walk(20))
    monkeypatch.undo()
    with pytest.raises(InputError, match="at least 2"):
        write_viewer(tmp_path / "a.html", walk(2), path_points=[[0.0, 1.0]])
    with pytest.raises(InputError, match="goal 'here': found NaN"):
        write_viewer(tmp_path / "a.html", walk(2), goals=[GoalMarker("here", (0.0, float("nan")))])
    with pytest.raises(InputError, match=r"expected \.html"):
        write_viewer(tmp_path / "a.glb", walk(2))
    assert not list(tmp_path.iterdir())


def test_a_page_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.html"
    write_viewer(path, walk(2))
    before = path.read_bytes()
    with pytest.raises(InputError, match="existing output"):
        write_viewer(path, walk(3))

    def torn(self, text, **_):
        self.write_bytes(text[:100].encode())
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", torn)
        with pytest.raises(OSError, match="disk full"):
            write_viewer(path, walk(3), overwrite=True)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.html"]
    write_viewer(path, walk(3), overwrite=True)
    assert page_of(path).data["body"]["frames"] == 3


def test_names_and_titles_stay_text_and_only_the_pages_own_scripts_may_run(tmp_path):
    scene = scene_of(box(HOSTILE, (1, 1, 0), (2, 2, 1)))
    write_viewer(tmp_path / "a.html", walk(2), scene, [GoalMarker(HOSTILE, (0, 0))], title=HOSTILE)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    page = Page(text)
    data = page.data
    assert data["title"] == data["scene"]["objects"][0]["name"] == data["goals"][0]["label"] == HOSTILE
    tags = [tag for tag, _ in page.elements]
    assert (tags.count("script"), tags.count("img")) == (3, 0)
    assert page.all("title") == [HOSTILE]
    assert "<" not in re.search('id="data">(.*)</script>', text)[1].split("</script>")[0]
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    digests = [base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in page.all("script")[1:]]
    assert allowed["default-src"] == "'none'"
    assert allowed["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    addresses = [
        value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")
    ]
    assert addresses == ["data:,"]
    assert not re.search(r"url\(|@import", page.all("style")[0])


def test_three_js_keeps_its_notice_and_its_absence_is_told(monkeypatch):
    text = three.three_js()
    assert re.match(
        r"/\*\*\s+\* @license\s+\* Copyright [\d-]+ Three.js Authors\s+\* SPDX-License-Identifier: MIT", text
    )
    assert "TrackballControls" not in text
    three.three_js.cache_clear()
    monkeypatch.setattr(three, "END", "a newer build")
    with pytest.raises(InputError, match="pip install trimesh=="):
        three.three_js()
    three.three_js.cache_clear()


@pytest.mark.skipif(chromium.find_chromium() is None, reason="no Chromium on the PATH (Debian package chromium)")
def test_a_browser_draws_the_body_where_it_is_and_loads_nothing(tmp_path):
    scene = scene_of(box(HOSTILE, (1.2, -2, 0), (2, -1, 0.8)))
    goals = [GoalMarker("sit", (1.5, -1.5, 0.8), True), GoalMarker(HOSTILE, (1.2, 1.6), False)]
    motion = walk(60)
    write_viewer(tmp_path / "a.html", motion, scene, goals, [[0, 0], [0.2, -1], [0, -2.4]], title=HOSTILE)
    address = (tmp_path / "a.html").as_uri()
    with chromium.Browser(chromium.find_chromium(), tmp_path / "profile", (640, 480)) as browser:
        browser.call("Page.navigate", url=f"{address}#frame=5")
        browser.wait("document.body?.dataset.ready === 'yes'")
        clock = "document.getElementById('time').textContent"
        assert browser.evaluate(clock) == "0:00.17 / 0:01.97 · frame 5 / 59"
        bar = browser.evaluate("document.getElementById('controls').getBoundingClientRect().top")
        browser.press("f")  # the camera stays where it is
        browser.evaluate("document.getElementById('facts').hidden = true")  # it would lie before the body
        first, again = browser.picture(), browser.picture()
        browser.evaluate("document.getElementById('scrub').value = 50")
        browser.evaluate("document.getElementById('scrub').dispatchEvent(new Event('input'))")
        browser.wait(f"{clock}.endsWith('frame 50 / 59')")
        second = browser.picture()
        texts = browser.evaluate("[...document.querySelectorAll('.label, h1')].map((e) => e.textContent)")
        images = browser.evaluate("document.images.length")
        browser.press(" ")
        browser.wait(f"!{clock}.endsWith('frame 50 / 59')")
        browser.press("ArrowLeft")
        browser.wait("document.getElementById('play').getAttribute('aria-label') === 'Play'")
        title = browser.evaluate("document.title")
    assert browser.console == []
    assert [url.partition("#")[0] for url in browser.requests if url != "about:blank"] == [address]
    assert title.startswith("</script>")
    assert (sum(text.endswith(HOSTILE) for text in texts), images) == (3, 0)  # heading, goal, thing
    assert (first == again).all()  # paused
    positions = motion.positions().numpy()
    for picture, frame in ((first, 5), (second, 50)):
        hue = np.array(list(COLOURS.values()))[:, None] / np.max(list(COLOURS.values()), 1)[:, None, None]
        for joint, expected in (("LeftForeArm", hue[0]), ("LeftLeg", hue[0]), ("Chest", hue[2])):
            place = positions[frame, motion.skeleton.names.index(joint)]
            column, row = seen_at(place, positions[5, 0], bar, (640, 480))
            pixel = (picture[round(row), round(column)] / 255.0) ** 2.2
            assert np.abs(pixel / pixel.max() - expected).max() < 0.2, (frame, joint, column, row, pixel)


def seen_at(place, hips, bar, size):
    """Return column and row of a point for a camera 7.5 m from the hips, 0.7 rad to the left of where the body looks.

    The view is 40 degrees high; its middle is the middle of what the bar at the bottom leaves free.
    """
    width, height = size
    azimuth, elevation = -np.pi / 2 + 0.7, 0.6
    back = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    away = place - [hips[0], hips[1], 0.9] - 7.5 * back
    scale = height / 2 / np.tan(np.radians(20)) / -(away @ back)
    return width / 2 + scale * (away @ right), bar / 2 - scale * (away @ np.cross(back, right))
