// Draws the vessel, its surroundings, the tool and a board of words, for one eye at a time.
import { multiply, normalMatrix, sphere } from "./geometry.js";

const VERTEX = `#version 300 es
layout(location = 0) in vec3 position; layout(location = 1) in vec3 normal; layout(location = 2) in float value;
uniform mat4 projection, view_place; uniform mat3 turn; uniform float pitch;
out vec3 shade;
void main() {
  vec4 seen = view_place * vec4(position, 1.0);
  // How much it faces the eye, its value, its place along the stripes: where a processor draws, what is handed on to the
  // points of a triangle costs more than all else.
  shade = vec3(abs(dot(normalize(turn * normal), normalize(seen.xyz))), value, dot(position, vec3(0.6, 0.74, -0.3)) / pitch);
  gl_Position = projection * seen;
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec3 shade;
uniform sampler2D map; uniform vec3 color; uniform float opacity; uniform int kind; uniform bool sieve;
out vec4 shown;
void main() {
  // The near half of the wall in one go with the far half: only every third of its points is there.
  if (sieve && gl_FrontFacing && (int(gl_FragCoord.x) + int(gl_FragCoord.y)) % 3 != 0) discard;
  vec3 base = color;
  if (kind == 1) base = texture(map, vec2((0.5 + 255.0 * shade.y) / 256.0, 0.5)).rgb;
  if (kind == 2) {
    float stripe = abs(fract(shade.z) - 0.5);
    base = vec3(0.545, 0.576, 0.612) * (stripe > 0.25 ? 1.0 : 0.42);
  }
  vec3 lit = base * (0.4 + 0.6 * min(shade.x, 1.0));
  shown = vec4(lit * opacity, opacity);
}`;

const BOARD_VERTEX = `#version 300 es
layout(location = 0) in vec2 corner; uniform mat4 projection, view; uniform vec3 middle; uniform vec2 size; out vec2 at;
void main() { at = 0.5 + 0.5 * corner * vec2(1.0, -1.0); vec4 seen = view * vec4(middle, 1.0);
  gl_Position = projection * (seen + vec4(corner * size, 0.0, 0.0)); }`;
const BOARD_FRAGMENT = `#version 300 es
precision mediump float; in vec2 at; uniform sampler2D words; out vec4 shown;
void main() { shown = texture(words, at); }`;

export class Renderer {
  constructor(gl, model) {
    this.gl = gl;
    this.model = model;
    this.mesh = this.program(VERTEX, FRAGMENT);
    this.flat = this.program(BOARD_VERTEX, BOARD_FRAGMENT);
    this.parts = model.structures.map((one) => this.upload(one));
    this.ball = this.upload(sphere());
    this.map = this.texture(256, 1, model.map);
    const zeros = new Uint16Array(model.structures[0].vertices);
    gl.bindVertexArray(this.parts[0].array);
    this.values = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.values);
    gl.bufferData(gl.ARRAY_BUFFER, zeros, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(2);
    gl.vertexAttribPointer(2, 1, gl.UNSIGNED_SHORT, true, 0, 0);
    gl.bindVertexArray(null);
    this.makeBoard();
  }

  program(vertex, fragment) {
    const { gl } = this;
    const made = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
    const places = {};
    for (let i = 0; i < gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); i++) {
      const { name } = gl.getActiveUniform(made, i);
      places[name] = gl.getUniformLocation(made, name);
    }
    return { made, places };
  }

  upload({ points, normals, indices, ...rest }) {
    const { gl } = this;
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    [points, normals].forEach((data, location) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(location);
      gl.vertexAttribPointer(location, 3, gl.FLOAT, false, 0, 0);
    });
    // All levels of detail behind one another; each is a range of the same buffer.
    const all = new Uint32Array(indices.reduce((sum, level) => sum + level.length, 0));
    const ranges = [];
    let begin = 0;
    for (const level of indices) {
      all.set(level, begin);
      ranges.push({ begin, count: level.length });
      begin += level.length;
    }
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, all, gl.STATIC_DRAW);
    gl.bindVertexArray(null);
    return { array, ranges, ...rest };
  }

  // How many triangles a level of detail has.
  trianglesAt(detail, anatomy) {
    return this.parts.slice(0, anatomy ? undefined : 1).reduce((sum, one) => sum + one.ranges[detail].count / 3, 0);
  }

  // To the screen, its edges smoothed by so many samples, or to none.
  begin(width, height, samples) {
    const { gl } = this;
    if (this.smooth && (this.smooth.width !== width || this.smooth.height !== height || this.smooth.samples !== samples)) {
      gl.deleteFramebuffer(this.smooth.frame);
      for (const one of this.smooth.buffers) gl.deleteRenderbuffer(one);
      this.smooth = null;
    }
    if (samples && !this.smooth) {
      const frame = gl.createFramebuffer();
      const most = Math.min(samples, gl.getParameter(gl.MAX_SAMPLES));
      gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
      const buffers = [[gl.RGBA8, gl.COLOR_ATTACHMENT0], [gl.DEPTH_COMPONENT24, gl.DEPTH_ATTACHMENT]].map(([format, place]) => {
        const buffer = gl.createRenderbuffer();
        gl.bindRenderbuffer(gl.RENDERBUFFER, buffer);
        gl.renderbufferStorageMultisample(gl.RENDERBUFFER, most, format, width, height);
        gl.framebufferRenderbuffer(gl.FRAMEBUFFER, place, gl.RENDERBUFFER, buffer);
        return buffer;
      });
      this.smooth = { frame, buffers, width, height, samples };
    }
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.smooth ? this.smooth.frame : null);
    gl.viewport(0, 0, width, height);
  }

  end(width, height) {
    const { gl } = this;
    if (!this.smooth) return;
    gl.bindFramebuffer(gl.READ_FRAMEBUFFER, this.smooth.frame);
    gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, null);
    gl.blitFramebuffer(0, 0, width, height, 0, 0, width, height, gl.COLOR_BUFFER_BIT, gl.NEAREST);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
  }

  texture(width, height, data) {
    const { gl } = this;
    const made = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, made);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, width, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, data);
    for (const axis of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, axis, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
    return made;
  }

  // (vertices,) 0 to 65535 along the color scale.
  setValues(values) {
    const { gl } = this;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.values);
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, values);
  }

  makeBoard() {
    const { gl } = this;
    this.paper = Object.assign(document.createElement("canvas"), { width: 1024, height: 384 });
    this.words = this.texture(1024, 384, null);
    this.quad = gl.createVertexArray();
    gl.bindVertexArray(this.quad);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
    gl.bindVertexArray(null);
  }

  // In a headset there is no page: the words hang above the vessel.
  setBoard(trusted, value, interval, reasons, overlay) {
    const key = `${trusted}|${value}|${interval}|${reasons}|${overlay}`;
    if (key === this.boardKey) return;
    this.boardKey = key;
    const pen = this.paper.getContext("2d");
    pen.clearRect(0, 0, 1024, 384);
    pen.fillStyle = trusted ? "#171d26" : "#c62f3b";
    pen.fillRect(0, 0, 1024, 384);
    pen.fillStyle = "#ffffff";
    pen.font = "bold 130px sans-serif";
    pen.fillText(value, 36, 140);
    pen.font = "bold 60px sans-serif";
    pen.fillText(trusted ? interval : "NOT TRUSTED", 36, 220);
    pen.font = "46px sans-serif";
    pen.fillText(reasons, 36, 290, 950);
    pen.fillStyle = "#ffd166";
    pen.fillText(overlay, 36, 356, 950);
    const { gl } = this;
    gl.bindTexture(gl.TEXTURE_2D, this.words);
    gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, true);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, this.paper);
    gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  }

  draw(projection, view, eye, { trusted, anatomy, tool, board, anchors = [], next = null, detail = 0, sieve = false }) {
    const { gl } = this;
    const { made, places } = this.mesh;
    gl.useProgram(made);
    gl.enable(gl.DEPTH_TEST);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.map);
    gl.uniform1i(places.map, 0);
    gl.uniformMatrix4fv(places.projection, false, projection);
    this.view = view;
    gl.uniform1f(places.pitch, this.model.radius / 18);
    const one = new Float32Array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]);
    const [vessel, ...around] = this.parts;
    this.detail = detail;
    this.triangles = this.trianglesAt(detail, anatomy);
    gl.enable(gl.CULL_FACE);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    // The far half of the wall is opaque and the near half see-through, so that the tool inside is seen.
    if (sieve) gl.disable(gl.CULL_FACE);
    gl.cullFace(gl.FRONT);
    gl.uniform1i(places.sieve, sieve);
    this.part(vessel, one, trusted ? 1 : 2, [1, 1, 1], 1);
    gl.uniform1i(places.sieve, 0);
    gl.enable(gl.CULL_FACE);
    gl.cullFace(gl.BACK);
    if (tool) {
      const pink = trusted ? [1, 0.373, 0.635] : [0.545, 0.576, 0.612];
      this.part(this.ball, tool.tip, 0, pink, 1);
      gl.depthMask(false);
      this.part(this.ball, tool.ellipsoid, 0, pink, 0.4);
    }
    gl.depthMask(true);
    // The fiducials; the one that is asked for is larger.
    for (const anchor of anchors) {
      const r = (anchor === next ? 2.2 : 1) * Math.max(0.002, this.model.tool), [x, y, z] = anchor.at;
      this.part(this.ball, new Float32Array([r, 0, 0, 0, 0, r, 0, 0, 0, 0, r, 0, x, y, z, 1]), 0, [1, 0.82, 0.4], 1);
    }
    gl.depthMask(false);
    if (!sieve) this.part(vessel, one, trusted ? 1 : 2, [1, 1, 1], 0.3);
    if (anatomy) for (const part of around) this.part(part, one, 0, part.color, part.opacity);
    gl.depthMask(true);
    gl.disable(gl.CULL_FACE);
    if (board) this.drawBoard(projection, view);
    gl.bindVertexArray(null);
  }

  part(part, place, kind, color, opacity) {
    const { gl } = this;
    const { places } = this.mesh;
    gl.uniformMatrix4fv(places.view_place, false, multiply(this.view, place));
    gl.uniform1i(places.kind, kind);
    gl.uniform3fv(places.color, color);
    gl.uniform1f(places.opacity, opacity);
    gl.uniformMatrix3fv(places.turn, false, normalMatrix(this.view, place));
    gl.bindVertexArray(part.array);
    const { begin, count } = part.ranges[Math.min(this.detail, part.ranges.length - 1)];
    gl.drawElements(gl.TRIANGLES, count, gl.UNSIGNED_INT, 4 * begin);
  }

  drawBoard(projection, view) {
    const { gl } = this;
    const { made, places } = this.flat;
    gl.useProgram(made);
    gl.bindTexture(gl.TEXTURE_2D, this.words);
    gl.uniform1i(places.words, 0);
    gl.uniformMatrix4fv(places.projection, false, projection);
    gl.uniformMatrix4fv(places.view, false, view);
    gl.uniform3fv(places.middle, [0, 1.1 * this.model.radius + 0.05, 0]);
    gl.uniform2fv(places.size, [0.16, 0.06]);
    gl.bindVertexArray(this.quad);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }
}
