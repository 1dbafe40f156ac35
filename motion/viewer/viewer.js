"use strict";
// The page's own script: draws what motion/viewer/page.py wrote into the JSON block. Metres, z up; text is set as text.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const { body, floor } = data;
  const last = body.frames - 1;
  const KINDS = { f4: Float32Array, i2: Int16Array, u2: Uint16Array, u4: Uint32Array };
  const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
  const BACKGROUND = 0xe9edf1;
  const FURNITURE = [0xc9a97c, 0x8fa6a3, 0xb98f7a, 0x93a5bd, 0xb8b08d, 0xa493ab, 0x9db08c, 0xc2a5a0];
  const STATES = { met: [0x2c8a57, "✓", "met"], failed: [0xc23b3b, "✗", "not met"], unknown: [0x4a5a78, "•", "not measured"] };

  function unpacked(entry) {
    const text = atob(entry.base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return new KINDS[entry.kind](bytes.buffer);
  }
  function metres(entry, low, step) {
    return Float32Array.from(unpacked(entry), (q, i) => low[i % 3] + step * q);
  }
  function element(name, parent, className, text) {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return parent.appendChild(made);
  }
  const colour = (value) => new THREE.Color(value).convertSRGBToLinear();

  // ---- the stage: light, floor, camera
  let renderer;
  try {
    renderer = new THREE.WebGLRenderer({ canvas: byId("view"), antialias: true });
  } catch {
    element("p", document.body, "notice", "This browser shows no WebGL. Turn hardware acceleration on, or try another browser.");
    return;
  }
  renderer.outputEncoding = THREE.sRGBEncoding;
  renderer.shadowMap.enabled = true;
  renderer.shadowMap.type = THREE.PCFSoftShadowMap;
  renderer.localClippingEnabled = true;
  renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
  const stage = new THREE.Scene();
  stage.background = new THREE.Color(BACKGROUND); // this release encodes neither background nor fog
  stage.fog = new THREE.Fog(BACKGROUND, 10, 60);
  const camera = new THREE.PerspectiveCamera(40, 1, 0.05, 500);
  camera.up.set(0, 0, 1);
  const sun = new THREE.DirectionalLight(0xfff4e6, 0.85);
  sun.castShadow = true;
  sun.shadow.mapSize.set(2048, 2048);
  sun.shadow.bias = -0.0005;
  sun.shadow.normalBias = 0.02;
  sun.shadow.radius = 3;
  Object.assign(sun.shadow.camera, { left: -8, right: 8, top: 8, bottom: -8, near: 1, far: 40 });
  const sky = new THREE.HemisphereLight(0xffffff, 0xb9b2a8, 0.55);
  sky.position.set(0, 0, 1);
  stage.add(sun, sun.target, sky);

  const root = unpacked(body.root);
  const reach = root.reduce((most, value, i) => (i % 3 < 2 ? Math.max(most, Math.abs(value)) : most), 0);
  const size = 2 * Math.ceil(reach + 40);
  const below = floor - (data.scene ? 0.015 : 0.002); // under a scene's own floor, which is level to a centimetre
  function squares() { // one metre of floor; as a texture it fades into the distance and takes shadows, as lines do not
    const tile = document.createElement("canvas");
    tile.width = tile.height = 256;
    const pen = tile.getContext("2d");
    pen.fillStyle = "#c3cad2";
    pen.fillRect(0, 0, 256, 256);
    pen.strokeStyle = "#a3adb8";
    pen.lineWidth = 5;
    pen.strokeRect(0, 0, 256, 256);
    const texture = new THREE.CanvasTexture(tile);
    texture.encoding = THREE.sRGBEncoding;
    texture.wrapS = texture.wrapT = THREE.RepeatWrapping;
    texture.repeat.set(size, size);
    texture.anisotropy = renderer.capabilities.getMaxAnisotropy();
    return texture;
  }
  const ground = new THREE.Mesh(new THREE.PlaneGeometry(size, size), new THREE.MeshPhongMaterial({ map: squares(), specular: 0x000000 }));
  ground.position.z = below;
  ground.receiveShadow = true;
  stage.add(ground);

  // ---- scenery
  const cutPlane = new THREE.Plane(new THREE.Vector3(0, 0, -1), 0);
  const labels = [];
  function label(text, className, place) {
    const made = { element: element("div", byId("labels"), `label ${className}`, text), place, shown: true };
    labels.push(made);
    return made;
  }
  const names = [];
  function addScenery(scenery) {
    const edged = scenery.objects.reduce((sum, o) => sum + o.faces.shape[0], 0) < 60000;
    const walls = [cutPlane];
    const edge = (planes) => new THREE.LineBasicMaterial({ color: colour(0x3c4858), transparent: true, opacity: 0.35, clippingPlanes: planes });
    const edges = [edge([]), edge(walls)];
    for (const o of scenery.objects) {
      const geometry = new THREE.BufferGeometry();
      geometry.setAttribute("position", new THREE.BufferAttribute(metres(o.vertices, o.low, o.step), 3));
      geometry.setIndex(new THREE.BufferAttribute(unpacked(o.faces), 1));
      geometry.computeBoundingBox();
      const { min, max } = geometry.boundingBox;
      const flat = max.z - min.z < 0.03;
      const mesh = new THREE.Mesh(geometry, new THREE.MeshPhongMaterial({
        color: colour(o.room ? 0xf3efe8 : flat ? 0xd3d8dd : FURNITURE[o.kind % FURNITURE.length]),
        specular: 0x000000, flatShading: true, side: THREE.DoubleSide, clippingPlanes: o.room ? walls : [], clipShadows: true,
      }));
      mesh.castShadow = !flat;
      mesh.receiveShadow = true;
      stage.add(mesh);
      if (edged) stage.add(new THREE.LineSegments(new THREE.EdgesGeometry(geometry, 30), edges[o.room ? 1 : 0]));
      if (!o.room) names.push(label(o.name, "", new THREE.Vector3((min.x + max.x) / 2, (min.y + max.y) / 2, max.z + 0.05)));
    }
    byId("naming").hidden = false;
    byId("cutting").hidden = !scenery.objects.some((o) => o.room);
    const cut = byId("cut");
    cut.min = floor + 0.1;
    cut.max = scenery.height + 0.01;
    cut.value = Math.min(scenery.height + 0.01, floor + 1.1);
  }
  if (data.scene) addScenery(data.scene);

  // ---- the body
  const steps = unpacked(body.points);
  const count = body.points.shape[1];
  const points = new Float32Array(3 * count);
  const bones = unpacked(body.bones);
  const radii = unpacked(body.radii);
  const skin = () => new THREE.MeshPhongMaterial({ specular: 0x181818, shininess: 30 });
  const balls = new THREE.InstancedMesh(new THREE.SphereGeometry(1, 24, 16), skin(), 2 * radii.length);
  const tubes = new THREE.InstancedMesh(new THREE.CylinderGeometry(1, 1, 1, 24, 1, true), skin(), radii.length);
  for (const mesh of [balls, tubes]) {
    Object.assign(mesh, { castShadow: true, receiveShadow: true, frustumCulled: false });
    stage.add(mesh);
  }
  body.sides.forEach((side, i) => {
    const shade = new THREE.Color(...body.colours[side]);
    balls.setColorAt(2 * i, shade);
    balls.setColorAt(2 * i + 1, shade);
    tubes.setColorAt(i, shade);
  });
  const [start, stop, along, scale] = [0, 1, 2, 3].map(() => new THREE.Vector3());
  const matrix = new THREE.Matrix4();
  const turn = new THREE.Quaternion();
  const Y = new THREE.Vector3(0, 1, 0);
  const upright = new THREE.Quaternion();

  // Fill `into` with the joints at a time between two frames; the two are joined by straight lines.
  function placePoints(at, into) {
    const low = Math.min(Math.floor(at), last);
    const high = Math.min(low + 1, last);
    const share = at - low;
    for (let i = 0; i < 3 * count; i++) {
      const axis = i % 3;
      const a = root[3 * low + axis] + body.step * steps[3 * count * low + i];
      const b = root[3 * high + axis] + body.step * steps[3 * count * high + i];
      into[i] = body.low[axis] + a + share * (b - a);
    }
  }
  function poseBody() {
    for (let i = 0; i < radii.length; i++) {
      start.fromArray(points, 3 * bones[2 * i]);
      stop.fromArray(points, 3 * bones[2 * i + 1]);
      const r = radii[i];
      balls.setMatrixAt(2 * i, matrix.compose(start, upright, scale.set(r, r, r)));
      balls.setMatrixAt(2 * i + 1, matrix.compose(stop, upright, scale));
      const length = along.subVectors(stop, start).length();
      turn.setFromUnitVectors(Y, length > 1e-6 ? along.divideScalar(length) : Y);
      tubes.setMatrixAt(i, matrix.compose(start.add(stop).multiplyScalar(0.5), turn, scale.set(r, length, r)));
    }
    balls.instanceMatrix.needsUpdate = tubes.instanceMatrix.needsUpdate = true;
  }

  // ---- ways on the floor, and goals
  function ribbon(places, width, value, opacity, height, keep) {
    const corners = [];
    for (let i = 0; i + 1 < places.length; i++) {
      const [a, b] = [places[i], places[i + 1]];
      const length = Math.hypot(b[0] - a[0], b[1] - a[1]) || 1;
      const [x, y] = [(-(b[1] - a[1]) / length) * (width / 2), ((b[0] - a[0]) / length) * (width / 2)];
      const at = (p, sign) => [p[0] + sign * x, p[1] + sign * y, p[2] + height];
      if (keep(i)) corners.push(...at(a, 1), ...at(a, -1), ...at(b, 1), ...at(b, 1), ...at(a, -1), ...at(b, -1));
    }
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(corners), 3));
    const material = new THREE.MeshBasicMaterial({ color: colour(value), transparent: true, opacity, side: THREE.DoubleSide, depthWrite: false });
    const mesh = new THREE.Mesh(geometry, material);
    mesh.frustumCulled = false;
    stage.add(mesh);
    return geometry;
  }
  const way = [];
  for (let frame = 0; frame <= last; frame++) {
    const i = 3 * (count * frame + body.hips);
    way.push([0, 1].map((axis) => body.low[axis] + root[3 * frame + axis] + body.step * steps[i + axis]).concat(floor));
  }
  const trace = ribbon(way, 0.035, 0x2f6f9f, 0.75, 0.014, () => true);
  if (data.path) {
    const dashes = [];
    for (let i = 0; i + 1 < data.path.length; i++) {
      const [a, b] = [data.path[i], data.path[i + 1]];
      const parts = Math.max(Math.round(Math.hypot(b[0] - a[0], b[1] - a[1]) / 0.05), 1);
      for (let k = 0; k < parts; k++) dashes.push(a.map((value, axis) => value + (k / parts) * (b[axis] - value)));
    }
    dashes.push(data.path[data.path.length - 1]);
    ribbon(dashes, 0.06, 0xd98a1f, 0.85, 0.01, (i) => i % 5 < 3);
  }
  for (const goal of data.goals) {
    const state = goal.met === null ? "unknown" : goal.met ? "met" : "failed";
    const [value, mark, word] = STATES[state];
    const [x, y, z] = goal.position;
    const paint = new THREE.MeshPhongMaterial({ color: colour(value), specular: 0x000000 });
    const ball = new THREE.Mesh(new THREE.SphereGeometry(0.05, 20, 14), paint);
    ball.position.set(x, y, Math.max(z, floor + 0.05));
    const stem = new THREE.Mesh(new THREE.CylinderGeometry(0.008, 0.008, 1), paint);
    stem.rotation.x = Math.PI / 2;
    stem.scale.y = Math.max(ball.position.z - floor, 0.01);
    stem.position.set(x, y, floor + stem.scale.y / 2);
    const ring = new THREE.Mesh(
      new THREE.RingGeometry(0.16, 0.2, 40),
      new THREE.MeshBasicMaterial({ color: colour(value), side: THREE.DoubleSide, transparent: true, opacity: 0.9, depthWrite: false }),
    );
    ring.position.set(x, y, floor + 0.016);
    stage.add(ball, stem, ring);
    label(`${mark} ${goal.label}`, `goal ${state}`, new THREE.Vector3(x, y, ball.position.z + 0.1));
    const button = element("button", element("li", byId("goals"), "", ""), "", "");
    button.type = "button";
    button.title = `${word}; click to look there`;
    element("span", button, `mark ${state}`, mark);
    element("span", button, "", goal.label);
    button.addEventListener("click", () => {
      byId("follow").checked = false;
      view.target.set(x, y, Math.max(z, floor + 0.4));
      dirty = true;
    });
  }

  // ---- what is seen from where: a target, and the camera's direction and distance from it
  const view = { target: new THREE.Vector3(), azimuth: 0, elevation: 0, distance: 5 };
  const hips = new THREE.Vector3();
  const before = new THREE.Vector3();
  let [now, playing, speed, dirty, clock] = [0, false, 1, true, 0];

  function resetView() {
    view.target.set(hips.x, hips.y, floor + 0.9);
    view.azimuth = Math.atan2(body.facing[1], body.facing[0]) + 0.7;
    view.elevation = data.scene ? 0.6 : 0.28;
    const narrow = Math.max(1, (1.1 * window.innerHeight) / window.innerWidth); // a phone upright needs more distance
    view.distance = narrow * (data.scene ? 7.5 : 5);
    byId("follow").checked = true;
    dirty = true;
  }
  function placeCamera() {
    const across = Math.cos(view.elevation) * view.distance;
    camera.position.set(
      view.target.x + across * Math.cos(view.azimuth),
      view.target.y + across * Math.sin(view.azimuth),
      Math.max(view.target.z + view.distance * Math.sin(view.elevation), below + 0.05),
    );
    camera.lookAt(view.target);
    stage.fog.near = 3 + 1.1 * view.distance;
    stage.fog.far = 14 + 3 * view.distance;
  }
  function orbit(x, y) {
    view.azimuth -= 0.006 * x;
    view.elevation = Math.min(Math.max(view.elevation + 0.006 * y, -0.2), 1.55);
    dirty = true;
  }
  function shift(x, y) {
    const metre = (2 * view.distance * Math.tan((camera.fov * Math.PI) / 360)) / window.innerHeight;
    view.target.addScaledVector(along.setFromMatrixColumn(camera.matrix, 0), -metre * x);
    view.target.addScaledVector(along.setFromMatrixColumn(camera.matrix, 1), metre * y);
    dirty = true;
  }
  function zoom(factor) {
    view.distance = Math.min(Math.max(view.distance * factor, 0.4), 120);
    dirty = true;
  }

  // ---- time
  const clockText = (seconds) => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;
  function seek(frame) {
    now = Math.min(Math.max(frame, 0), last);
    dirty = true;
  }
  function setPlaying(on) {
    playing = on && last > 0;
    if (playing && now >= last) now = 0;
    if (!playing) seek(Math.round(now));
    byId("play").classList.toggle("on", playing);
    byId("play").setAttribute("aria-label", playing ? "Pause" : "Play");
    clock = performance.now();
  }
  function setSpeed(index) {
    const place = Math.min(Math.max(index, 0), SPEEDS.length - 1);
    byId("speed").selectedIndex = place;
    speed = SPEEDS[place];
  }
  function draw() {
    placePoints(now, points);
    before.copy(hips);
    hips.fromArray(points, 3 * body.hips);
    if (byId("follow").checked) view.target.add(along.subVectors(hips, before).setZ(0));
    poseBody();
    trace.setDrawRange(0, 6 * Math.round(now));
    sun.target.position.set(Math.round(hips.x), Math.round(hips.y), floor); // whole metres, so that shadows do not swim
    sun.position.copy(sun.target.position).add(along.set(-6, 5, 14));
    cutPlane.constant = Number(byId("cut").value);
    placeCamera();
    renderer.render(stage, camera);
    for (const { element: tag, place, shown } of labels) {
      along.copy(place).project(camera);
      tag.hidden = !shown || Math.abs(along.z) > 1;
      const [x, y] = [(0.5 + 0.5 * along.x) * window.innerWidth, (0.5 - 0.5 * along.y) * window.innerHeight];
      tag.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px) translate(-50%, -100%)`;
    }
    const frame = Math.round(now);
    byId("scrub").value = frame;
    byId("time").textContent = `${clockText(now / body.fps)} / ${clockText(last / body.fps)} · frame ${frame} / ${last}`;
  }
  function tick(time) {
    if (playing) {
      now += (Math.min(Math.max(time - clock, 0), 500) / 1000) * body.fps * speed;
      clock = time;
      if (now > last) now %= last;
      dirty = true;
    }
    if (dirty) {
      dirty = false;
      draw();
    }
    requestAnimationFrame(tick);
  }

  // ---- hands on it
  const canvas = byId("view");
  const pointers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  canvas.addEventListener("pointermove", (event) => {
    const from = pointers.get(event.pointerId);
    if (!from) return;
    const [x, y] = [event.clientX - from[0], event.clientY - from[1]];
    const other = [...pointers].find(([id]) => id !== event.pointerId);
    if (other) {
      const apart = (p) => Math.hypot(p[0] - other[1][0], p[1] - other[1][1]) || 1;
      zoom(apart(from) / apart([event.clientX, event.clientY]));
      shift(x / 2, y / 2);
    } else if (event.shiftKey || event.buttons & 6) shift(x, y);
    else orbit(x, y);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(event.deltaY * (event.deltaMode ? 0.04 : 0.0012)));
  }, { passive: false });

  const toggle = (id) => byId(id).click();
  const KEYS = {
    " ": () => setPlaying(!playing),
    ArrowLeft: (event) => { setPlaying(false); seek(now - (event.shiftKey ? 10 : 1)); },
    ArrowRight: (event) => { setPlaying(false); seek(now + (event.shiftKey ? 10 : 1)); },
    Home: () => seek(0),
    End: () => { setPlaying(false); seek(last); },
    "-": () => setSpeed(byId("speed").selectedIndex - 1),
    "+": () => setSpeed(byId("speed").selectedIndex + 1),
    "=": () => setSpeed(byId("speed").selectedIndex + 1),
    f: () => toggle("follow"),
    n: () => toggle("names"),
    r: resetView,
    t: () => { view.elevation = 1.55; dirty = true; },
    "?": () => toggle("ask"),
    Escape: () => { byId("help").hidden = true; },
  };
  window.addEventListener("keydown", (event) => {
    const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    const own = event.target.matches("select") || (event.key === " " && event.target.matches("button, input[type=checkbox]"));
    if (!act || own || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act(event);
  });
  byId("scrub").max = last;
  byId("scrub").addEventListener("input", (event) => { setPlaying(false); seek(Number(event.target.value)); });
  byId("play").addEventListener("click", () => setPlaying(!playing));
  for (const value of SPEEDS) element("option", byId("speed"), "", `${value}×`);
  byId("speed").addEventListener("change", (event) => setSpeed(event.target.selectedIndex));
  byId("names").addEventListener("change", showNames);
  byId("cut").addEventListener("input", () => { dirty = true; });
  byId("reset").addEventListener("click", resetView);
  byId("ask").addEventListener("click", () => { byId("help").hidden = !byId("help").hidden; });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  function showNames() {
    for (const name of names) name.shown = byId("names").checked;
    dirty = true;
  }
  function resize() {
    renderer.setSize(window.innerWidth, window.innerHeight, false);
    const [width, height] = [window.innerWidth, window.innerHeight];
    camera.aspect = width / height;
    camera.setViewOffset(width, height, 0, (height - byId("controls").getBoundingClientRect().top) / 2, width, height); // the middle of what the bar leaves free
    dirty = true;
  }
  function readAddress() {
    const asked = /frame=(\d+)/.exec(window.location.hash);
    if (asked) { setPlaying(false); seek(Number(asked[1])); }
    return Boolean(asked);
  }
  window.addEventListener("resize", resize);
  new ResizeObserver(resize).observe(byId("controls")); // its rows wrap as its text grows
  window.addEventListener("hashchange", readAddress);
  canvas.addEventListener("webglcontextrestored", () => { dirty = true; });

  // ---- begin
  const facts = [`${body.frames} frames`, `${Number(body.fps.toPrecision(4))} a second`, `${(last / body.fps).toFixed(2)} s`];
  if (data.scene) facts.push(`${data.scene.objects.length} objects`);
  if (data.scene && data.scene.cell) facts.push(`scene simplified to ${(100 * data.scene.cell).toFixed(1)} cm`);
  byId("summary").textContent = facts.join(" · ");
  setSpeed(SPEEDS.indexOf(1));
  showNames();
  const asked = readAddress();
  placePoints(now, points);
  hips.fromArray(points, 3 * body.hips);
  resetView();
  resize();
  if (!asked && !window.matchMedia("(prefers-reduced-motion: reduce)").matches) setPlaying(true);
  requestAnimationFrame((time) => {
    clock = time;
    tick(time);
    document.body.dataset.ready = "yes";
  });
})();
