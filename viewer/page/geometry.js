// Matrices by columns, as WebGL and WebXR have them, and a ball.
export function multiply(a, b) {
  const c = new Float32Array(16);
  for (let i = 0; i < 4; i++) for (let j = 0; j < 4; j++) {
    let sum = 0;
    for (let k = 0; k < 4; k++) sum += a[4 * k + j] * b[4 * i + k];
    c[4 * i + j] = sum;
  }
  return c;
}

export function perspective(angle, aspect, near, far) {
  const f = 1 / Math.tan(angle / 2);
  return new Float32Array([f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) / (near - far), -1, 0, 0, (2 * far * near) / (near - far), 0]);
}

const minus = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => { const n = Math.hypot(...a) || 1; return a.map((x) => x / n); };
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

export function lookAt(eye, target, up) {
  const z = unit(minus(eye, target)), x = unit(cross(up, z)), y = cross(z, x);
  return new Float32Array([x[0], y[0], z[0], 0, x[1], y[1], z[1], 0, x[2], y[2], z[2], 0, -dot(x, eye), -dot(y, eye), -dot(z, eye), 1]);
}

// A 3 x 3 matrix by rows and a place, as a 4 x 4 by columns.
export function fromAxes(m, at) {
  return new Float32Array([m[0], m[3], m[6], 0, m[1], m[4], m[7], 0, m[2], m[5], m[8], 0, at[0], at[1], at[2], 1]);
}

// Of a rotation and a translation.
export function inverseRigid(m) {
  const at = [0, 1, 2].map((i) => -(m[4 * i] * m[12] + m[4 * i + 1] * m[13] + m[4 * i + 2] * m[14]));
  return new Float32Array([m[0], m[4], m[8], 0, m[1], m[5], m[9], 0, m[2], m[6], m[10], 0, ...at, 1]);
}

// What turns normals as "a" and then "b" turn points, 3 x 3 by columns: the transpose of the inverse, but for its length.
export function normalMatrix(b, a) {
  const m = multiply(b, a);
  const x = [m[0], m[1], m[2]], y = [m[4], m[5], m[6]], z = [m[8], m[9], m[10]];
  return new Float32Array([...cross(y, z), ...cross(z, x), ...cross(x, y)]);
}

export function sphere(around = 28, up = 18) {
  const points = [], indices = [];
  for (let i = 0; i <= up; i++) for (let j = 0; j <= around; j++) {
    const t = (Math.PI * i) / up, p = (2 * Math.PI * j) / around;
    points.push(Math.sin(t) * Math.cos(p), Math.cos(t), Math.sin(t) * Math.sin(p));
  }
  for (let i = 0; i < up; i++) for (let j = 0; j < around; j++) {
    const a = i * (around + 1) + j, b = a + around + 1;
    indices.push(a, a + 1, b, b, a + 1, b + 1);
  }
  return { points: new Float32Array(points), normals: new Float32Array(points), indices: [new Uint32Array(indices)] };
}
