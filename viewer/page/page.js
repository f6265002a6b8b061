// The twin in a browser: drawn here with WebGL 2, live over a websocket, in a headset over WebXR.
// Positions are metres, y up. `window.surgicalTwin` tells what is shown, for tests and measurements.
import { multiply, perspective, lookAt, fromAxes } from "./geometry.js";
import { Detail } from "./detail.js";
import { Registration } from "./registration.js";
import { Renderer } from "./renderer.js";

const query = window.location.search;
const canvas = document.getElementById("view");
// Edges are smoothed by the renderer, which can leave it where it takes too long.
const gl = canvas.getContext("webgl2", { antialias: false, alpha: true, xrCompatible: true, premultipliedAlpha: true });
const twin = (window.surgicalTwin = {
  ready: false, readyAfterMs: null, frames: 0, messages: 0, trusted: false, sequence: null, tip: null, inXr: false,
  words: "", error: null, xrFrames: 0, views: 0, registration: null, placement: null,
  detail: null, triangles: 0,
});
const silentAfterMs = 1000;
let model, renderer, socket, heardAt = -Infinity, alerts = [], camera, placement = null, xrSession = null, xrSpace = null;
let anatomyShown = true, state = null, retryMs = 250, registration;
const detail = twin.detail = new Detail();

const say = (id, words) => { const node = document.getElementById(id); if (node.textContent !== words) node.textContent = words; };

async function start() {
  if (!gl) throw new Error("This browser has no WebGL 2.");
  const reply = await fetch("model.bin" + query);
  if (!reply.ok) throw new Error(`The model was not sent (${reply.status}).`);
  model = unpackModel(await reply.arrayBuffer());
  renderer = new Renderer(gl, model);
  registration = twin.registration = new Registration(model.anchors, tell);
  resetView();
  drawScale();
  connect();
  listen();
  requestAnimationFrame(frame);
  if (navigator.xr && await navigator.xr.isSessionSupported("immersive-ar").catch(() => false)) {
    const button = document.getElementById("ar");
    button.disabled = false;
    button.textContent = "Enter AR";
  }
}

function unpackModel(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  at += (4 - (at % 4)) % 4;
  for (const one of head.structures) {
    one.points = new Float32Array(buffer, at, 3 * one.vertices); at += 12 * one.vertices;
    one.normals = new Float32Array(buffer, at, 3 * one.vertices); at += 12 * one.vertices;
    // All triangles, and fewer of the same vertices.
    one.indices = one.triangles.map((count) => { const some = new Uint32Array(buffer, at, 3 * count); at += 12 * count; return some; });
  }
  head.map = new Uint8Array(buffer, at, 1024);
  return head;
}

// --- the stream -----------------------------------------------------------------------------------------------------
function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/stream${query}`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { retryMs = 250; };
  socket.onmessage = (event) => (typeof event.data === "string" ? hear(JSON.parse(event.data)) : take(event.data));
  // A server that comes back is found again without a person's doing.
  socket.onclose = () => { setTimeout(connect, retryMs); retryMs = Math.min(2 * retryMs, 4000); };
}

const tell = (message) => { if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message)); };
function hear(message) { if (message.registration) registration.answer(message.registration); }

function take(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < 104 || view.getUint32(0, true) !== 0x31575453) return;
  const f = (at) => view.getFloat32(at, true);
  const bits = view.getUint32(16, true);
  const count = view.getUint32(20, true), words = view.getUint32(24, true);
  if (count !== model.structures[0].vertices && count !== 0) { twin.error = "another case"; return; }
  state = {
    sequence: view.getUint32(4, true), time: view.getFloat64(8, true), trusted: (bits & 1) !== 0, tipKnown: (bits & 2) !== 0,
    tip: [f(28), f(32), f(36)], axes: Array.from({ length: 9 }, (_, i) => f(40 + 4 * i)),
    pressure: [f(76), f(80), f(84)], wall: [f(88), f(92)], target: f(96),
  };
  if (count) renderer.setValues(new Uint16Array(buffer.slice(104, 104 + 2 * count)));
  const text = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 104 + 2 * count, words)));
  alerts = text.alerts; state.rows = text.rows; state.words = text.words;
  heardAt = performance.now();
  twin.messages += 1; twin.sequence = state.sequence; twin.tip = state.tipKnown ? state.tip : null;
}

const silentMs = () => performance.now() - heardAt;
const trusted = () => state !== null && state.trusted && silentMs() < silentAfterMs;

// --- what is read ---------------------------------------------------------------------------------------------------
let drawnAt = 0;
function drawNumbers(now) {
  if (now - drawnAt < 100) return;
  drawnAt = now;
  const good = trusted();
  twin.trusted = good;
  const reasons = [];
  if (silentMs() >= silentAfterMs) {
    reasons.push(state === null ? "no state received yet" : `no state from the twin for ${(silentMs() / 1000).toFixed(1)} s`);
  }
  document.getElementById("hud").className = good ? "" : "untrusted";
  const trust = document.getElementById("trust");
  trust.className = good ? "good" : "";
  say("trust", good ? "TRUSTED" : "NOT TRUSTED");
  const known = state && Number.isFinite(state.pressure[0]);
  const tip = document.getElementById("tip");
  const value = known ? state.pressure[0].toFixed(1) : "–";
  if (tip.dataset.value !== value) {
    tip.dataset.value = value;
    tip.replaceChildren(value, Object.assign(document.createElement("small"), { textContent: known ? " mmHg" : "" }));
  }
  say("interval", known ? `${state.pressure[1].toFixed(1)} to ${state.pressure[2].toFixed(1)} mmHg (95 %)` : "no estimate");
  const rows = state ? state.rows : [];
  const table = document.getElementById("rows");
  const key = JSON.stringify(rows);
  if (table.dataset.key !== key) {
    table.dataset.key = key;
    table.replaceChildren(...rows.map(([name, words]) => {
      const row = document.createElement("tr");
      row.append(Object.assign(document.createElement("td"), { textContent: name }), Object.assign(document.createElement("td"), { textContent: words }));
      return row;
    }));
  }
  const banner = document.getElementById("banner");
  const shown = JSON.stringify([good, reasons, alerts]);
  if (banner.dataset.key !== shown) {
    banner.dataset.key = shown;
    banner.style.display = good && !alerts.length ? "none" : "block";
    banner.style.background = good ? "#10141a" : "#c62f3b";
    const parts = good ? [] : [Object.assign(document.createElement("b"), { textContent: "NOT TRUSTED" })];
    if (reasons.length) parts.push(Object.assign(document.createElement("span"), { textContent: reasons.join(" · ") + " " }));
    for (const [priority, words, seen] of alerts) {
      parts.push(Object.assign(document.createElement("span"), {
        className: `alert p${priority}${seen ? " seen" : ""}`, textContent: `${seen ? "✓" : "!".repeat(priority)} ${words}`,
      }));
    }
    banner.replaceChildren(...parts);
  }
  twin.words = banner.textContent;
  renderer.setBoard(good, known ? `${value} mmHg` : "no estimate",
    known ? `${state.pressure[1].toFixed(1)} to ${state.pressure[2].toFixed(1)} (95 %)` : "",
    [...reasons, ...alerts.map((a) => a[1])].join(" · "), overlayWords());
  say("overlay", overlayWords());
  say("drawn", detailWords());
}

// That less is drawn than there is must not go unsaid.
function detailWords() {
  const all = renderer.trianglesAt(0, anatomyShown);
  const some = renderer.trianglesAt(detail.level.detail, anatomyShown);
  if (some === all) return detail.level.samples ? "" : "edges not smoothed, to keep pace";
  return `simplified to keep pace: ${some.toLocaleString("en")} of ${all.toLocaleString("en")} triangles`;
}

// What a wearer must know of where the vessel is seen: told all the time, since it looks as if it were in the patient.
function overlayWords() {
  if (registration.words && !registration.matrix) return registration.words;
  if (registration.matrix) return `laid over the patient ± ${registration.error.toFixed(1)} mm (95 %): ${registration.words}`;
  return twin.inXr ? "not laid over the patient; squeeze: register" : "";
}

function drawScale() {
  const stops = Array.from({ length: 17 }, (_, i) => {
    const at = 4 * Math.round((255 * i) / 16);
    return `rgb(${model.map[at]},${model.map[at + 1]},${model.map[at + 2]})`;
  });
  document.getElementById("bar").style.background = `linear-gradient(90deg, ${stops.join(",")})`;
  say("caption", `${model.title} ${model.unit}`);
  const [low, high] = model.limits;
  document.getElementById("ends").replaceChildren(...[low, 0.5 * (low + high), high].map(
    (v) => Object.assign(document.createElement("span"), { textContent: String(v) })));
}

// --- what is seen ---------------------------------------------------------------------------------------------------
function resetView() { camera = { turn: 0, tilt: 0, distance: 3.7 * model.radius, target: [0, 0, 0] }; }

function toolParts() {
  if (!state || !state.tipKnown) return null;
  const size = model.tool;
  return {
    tip: fromAxes([size, 0, 0, 0, size, 0, 0, 0, size], state.tip),
    ellipsoid: fromAxes(state.axes, state.tip),
  };
}

function frame(now) {
  if (xrSession) return;
  requestAnimationFrame(frame);
  drawNumbers(now);
  const level = detail.see(now, 31);
  const ratio = level.scale * Math.min(window.devicePixelRatio || 1, 2);
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  if (!width || !height) return;
  renderer.begin(width, height, level.samples);
  gl.clearColor(0.063, 0.078, 0.102, 1);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  const { turn, tilt, distance, target } = camera;
  const eye = [
    target[0] + distance * Math.sin(turn) * Math.cos(tilt), target[1] + distance * Math.sin(tilt),
    target[2] + distance * Math.cos(turn) * Math.cos(tilt),
  ];
  const view = lookAt(eye, target, [0, 1, 0]);
  const projection = perspective(0.6, width / height, distance / 50, distance * 20);
  // The model's middle goes to the middle of what the numbers leave free.
  if (canvas.clientWidth > 800) projection[8] = 0.28;
  renderer.draw(projection, view, eye, { trusted: trusted(), anatomy: anatomyShown, tool: toolParts(), board: false, anchors: model.anchors, detail: level.detail, sieve: level.sieve });
  renderer.end(width, height);
  twin.triangles = renderer.triangles;
  twin.frames += 1;
  if (!twin.ready) {
    gl.finish();
    twin.ready = true;
    twin.readyAfterMs = performance.now();
  }
}

async function enterAr() {
  const session = await navigator.xr.requestSession("immersive-ar", {
    optionalFeatures: ["local-floor", "dom-overlay", "anchors", "hand-tracking"], domOverlay: { root: document.getElementById("hud") },
  });
  await gl.makeXRCompatible();
  session.updateRenderState({ baseLayer: new XRWebGLLayer(session, gl), depthNear: 0.05, depthFar: 20 });
  xrSpace = await session.requestReferenceSpace("local-floor").catch(() => session.requestReferenceSpace("local"));
  xrSession = session;
  placement = null;
  registration.reset("");
  // A headset that has lost its place and found another one cannot know where the patient was.
  xrSpace.addEventListener("reset", () => {
    if (registration.matrix || registration.active) registration.reset("the headset lost its place: squeeze, and register again");
  });
  twin.inXr = true;
  document.getElementById("register").disabled = false;
  say("ar", "Leave AR");
  session.addEventListener("end", () => {
    xrSession = null; twin.inXr = false;
    registration.reset("");
    document.getElementById("register").disabled = true;
    say("ar", "Enter AR");
    requestAnimationFrame(frame);
  });
  // A pinch or a trigger touches a fiducial while these are asked for; else it puts the model before the eyes anew.
  session.addEventListener("select", (event) => {
    if (registration.active) {
      const pose = event.frame.getPose(event.inputSource.targetRaySpace, xrSpace);
      if (pose) registration.take(pose.transform.matrix, event.inputSource.targetRayMode === "tracked-pointer");
    } else if (!registration.matrix) placement = null;
  });
  session.addEventListener("squeeze", () => registration.back());
  session.requestAnimationFrame(xrFrame);
}

function xrFrame(now, xr) {
  if (!xrSession) return;
  xrSession.requestAnimationFrame(xrFrame);
  drawNumbers(now);
  const pose = xr.getViewerPose(xrSpace);
  if (!pose) return;
  const layer = xrSession.renderState.baseLayer;
  gl.bindFramebuffer(gl.FRAMEBUFFER, layer.framebuffer);
  gl.clearColor(0, 0, 0, 0);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  // The headset smooths edges itself. It shows 72 to 120 frames a second, and is nothing to wear below 60.
  const level = detail.see(now, 60);
  if (!placement) {
    const m = pose.transform.matrix;
    const flat = Math.hypot(m[8], m[10]) || 1;
    const ahead = [-m[8] / flat, 0, -m[10] / flat];
    const turn = Math.atan2(-ahead[0], -ahead[2]);
    const [c, s] = [Math.cos(turn), Math.sin(turn)];
    placement = [c, 0, -s, 0, 0, 1, 0, 0, s, 0, c, 0, m[12] + 0.6 * ahead[0], m[13] - 0.1, m[14] + 0.6 * ahead[2], 1];
  }
  const laid = registration.place(xr, xrSpace);
  twin.placement = Array.from(laid || placement);
  twin.views = pose.views.length;
  for (const eye of pose.views) {
    const port = layer.getViewport(eye);
    gl.viewport(port.x, port.y, port.width, port.height);
    const view = multiply(eye.transform.inverse.matrix, laid || placement);
    renderer.draw(eye.projectionMatrix, view, null, {
      trusted: trusted(), anatomy: anatomyShown, tool: toolParts(), board: true, anchors: model.anchors, next: registration.next,
      detail: level.detail,
    });
  }
  twin.triangles = renderer.triangles;
  twin.xrFrames += 1;
}

// --- mouse, touch and keys: as in 3D Slicer, left turns, middle or shift moves, right or wheel zooms ----------------
function listen() {
  const pointers = new Map();
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, button: event.button, shift: event.shiftKey });
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (e) => pointers.delete(e.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    const held = pointers.get(event.pointerId);
    if (!held) return;
    const dx = event.clientX - held.x, dy = event.clientY - held.y;
    if (pointers.size === 2) {
      const [a, b] = [...pointers.values()];
      const before = Math.hypot(a.x - b.x, a.y - b.y);
      held.x = event.clientX; held.y = event.clientY;
      zoom(before / Math.max(Math.hypot(a.x - b.x, a.y - b.y), 1));
      return;
    }
    held.x = event.clientX; held.y = event.clientY;
    if (held.button === 2) zoom(Math.exp(0.006 * dy));
    else if (held.button === 1 || held.shift) move(dx, dy);
    else {
      camera.turn -= 0.008 * dx;
      camera.tilt = Math.max(-1.55, Math.min(1.55, camera.tilt + 0.008 * dy));
    }
  });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(0.0012 * event.deltaY)); }, { passive: false });
  const press = (id, act) => document.getElementById(id).addEventListener("click", act);
  press("reset", resetView);
  press("seen", acknowledge);
  press("register", () => registration.begin());
  press("surround", () => {
    anatomyShown = !anatomyShown;
    say("surround", anatomyShown ? "Hide anatomy" : "Show anatomy");
  });
  press("detail", () => {
    detail.hold(!detail.held);
    say("detail", detail.held ? "Detail: full" : "Detail: automatic");
  });
  press("ar", () => (xrSession ? xrSession.end() : enterAr().catch((error) => { twin.error = String(error); say("ar", "AR refused"); })));
  window.addEventListener("keydown", (event) => {
    if (event.key === "r") resetView();
    if (event.key === "a") acknowledge();
    if (event.key === "d") document.getElementById("detail").click();
    if (event.key === "v") document.getElementById("surround").click();
  });
}
const acknowledge = () => tell({ do: "acknowledge" });
const zoom = (factor) => { camera.distance = Math.max(0.3 * model.radius, Math.min(20 * model.radius, camera.distance * factor)); };
function move(dx, dy) {
  const step = (0.62 * camera.distance) / canvas.clientHeight;
  const [c, s] = [Math.cos(camera.turn), Math.sin(camera.turn)];
  const lift = Math.sin(camera.tilt);
  camera.target[0] += step * (-dx * c - dy * lift * s);
  camera.target[1] += step * dy * Math.cos(camera.tilt);
  camera.target[2] += step * (dx * s - dy * lift * c);
}

start().catch((error) => {
  twin.error = String(error);
  const banner = document.getElementById("banner");
  banner.style.display = "block";
  banner.textContent = String(error.message || error);
});
