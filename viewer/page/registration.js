// Laying the vessel over the patient: the wearer touches the case's fiducials one by one, or points at each from two sides.
// The fit itself is the server's; here is only what was touched, in metres of the headset's space.
import { multiply, inverseRigid } from "./geometry.js";

export class Registration {
  // anchors: [{name, at}] of the case; send: takes a message for the server.
  constructor(anchors, send) {
    this.anchors = anchors;
    this.send = send;
    this.reset("");
  }

  // Nothing is laid over the patient any more; words say why.
  reset(words) {
    this.active = false;
    this.waiting = false;
    this.matrix = null;
    this.error = null;
    this.words = words;
    this.taken = [];
    this.rays = [];
    this.anchor = null;
    this.anchored = null;
  }

  begin() {
    this.reset("");
    if (this.anchors.length < 3) { this.words = "this case has fewer than three fiducials"; return; }
    this.active = true;
    this.ask();
  }

  get next() { return this.active ? this.anchors[this.taken.length] : undefined; }

  ask() {
    const next = this.next;
    if (!next) return;
    const again = this.rays.length ? ": point at it from another side" : "";
    this.words = `touch or point at ${next.name} (${this.taken.length + 1} of ${this.anchors.length})${again}; squeeze: back`;
  }

  // One select of a hand, a controller (touching) or a gaze or screen (pointing): a pose's matrix by columns.
  take(matrix, touching) {
    if (!this.active || this.waiting) return;
    const m = matrix, origin = [m[12], m[13], m[14]];
    if (touching) this.done({ name: this.next.name, point: origin });
    else {
      this.rays.push([...origin, -m[8], -m[9], -m[10]]);
      if (this.rays.length >= 2) this.done({ name: this.next.name, rays: this.rays });
    }
    this.ask();
  }

  done(observation) {
    this.taken.push(observation);
    this.rays = [];
    if (this.taken.length < this.anchors.length) return;
    this.waiting = true;
    this.words = "registering";
    this.send({ do: "register", fiducials: this.taken });
  }

  // Takes the last one back; the first time after a registration begins anew.
  back() {
    if (!this.active) { this.begin(); return; }
    if (this.rays.length) this.rays.pop(); else this.taken.pop();
    this.ask();
  }

  answer(reply) {
    if (!this.waiting) return;
    this.waiting = false;
    this.active = false;
    this.words = reply.words;
    this.taken = [];
    if (!reply.ok) { this.words = `not laid over: ${reply.words}; squeeze: again`; return; }
    this.matrix = new Float32Array(reply.matrix);
    this.error = reply.error;
  }

  // Where the model lies in a frame: with the place's anchor, where the headset knows it now.
  place(frame, space) {
    if (!this.matrix) return null;
    if (!this.anchor && frame.createAnchor && typeof XRRigidTransform !== "undefined") {
      const m = this.matrix;
      this.anchor = "asked for";
      frame.createAnchor(new XRRigidTransform({ x: m[12], y: m[13], z: m[14], w: 1 }), space)
        .then((anchor) => { this.anchor = anchor; }, () => { this.anchor = "refused"; });
    }
    const pose = this.anchor && this.anchor.anchorSpace ? frame.getPose(this.anchor.anchorSpace, space) : null;
    if (!pose) return this.matrix;
    this.anchored = this.anchored || inverseRigid(pose.transform.matrix);
    return multiply(multiply(pose.transform.matrix, this.anchored), this.matrix);
  }
}
