// How much is drawn: all of it where the machine keeps pace, less where it does not. A picture that lags is the worse one.
// Which triangles (0: all), how many samples smooth an edge (0: none), and which part of the screen's pixels.
export const LEVELS = [
  { detail: 0, samples: 4, scale: 1, sieve: false }, { detail: 0, samples: 0, scale: 1, sieve: true }, { detail: 1, samples: 0, scale: 1, sieve: true },
  { detail: 2, samples: 0, scale: 1, sieve: true }, { detail: 2, samples: 0, scale: 0.5, sieve: true },
];
const judgedMs = 500, fewest = 4; // a rate is judged from so long and so many frames
const leastWaitMs = 5000, mostWaitMs = 80000; // before what was too slow is tried again: longer each time

export class Detail {
  constructor() {
    this.number = 0; // of the level
    this.held = false; // by a person: full detail, however slow
    this.wait = LEVELS.map(() => leastWaitMs);
    this.failedAt = LEVELS.map(() => -Infinity);
    this.begin = this.last = null;
    this.count = 0;
    this.tried = null; // the level before, and its rate, where less was drawn just now
    this.restUntil = -Infinity;
  }

  get level() { return LEVELS[this.held ? 0 : this.number]; }

  hold(held) { this.held = held; this.begin = null; }

  // A frame begins at a time in ms; the level to draw it with, so that at least so many frames a second are kept.
  see(now, least) {
    const gap = this.last === null ? 0 : now - this.last;
    this.last = now;
    // After a pause (a hidden page) or a change, what was counted says nothing; the first frame makes buffers.
    if (this.begin === null || gap > 2000) { this.begin = now; this.count = -1; return this.level; }
    this.count += 1;
    if (this.count === 0) { this.begin = now; return this.level; }
    const elapsed = now - this.begin;
    if (elapsed < judgedMs || this.count < fewest) return this.level;
    this.judge(now, (1000 * this.count) / elapsed, least);
    this.begin = now;
    this.count = 0;
    return this.level;
  }

  judge(now, rate, least) {
    if (this.held) return;
    const before = this.number, tried = this.tried, near = rate >= 0.8 * least;
    this.tried = null;
    if (tried && near && rate < least && rate < 1.1 * tried.rate) {
      // Nothing was gained: it is the screen that shows no more.
      this.number = tried.number;
      this.restUntil = now + mostWaitMs;
    } else if (rate < least && this.number < LEVELS.length - 1 && !(near && now < this.restUntil)) {
      this.tried = { number: this.number, rate };
      this.failedAt[this.number] = now;
      this.number += 1;
      // Far too slow: not a level at a time.
      if (rate < 0.4 * least && this.number < LEVELS.length - 1) { this.failedAt[this.number] = now; this.number += 1; }
    } else if (rate > 1.4 * least && this.number > 0 && now - this.failedAt[this.number - 1] > this.wait[this.number - 1]) {
      this.number -= 1;
      this.wait[this.number] = Math.min(2 * this.wait[this.number], mostWaitMs);
    }
    if (this.number !== before) this.begin = null;
  }
}
