/* The port model's steps for LANES members at a time, each in a lane of the processor's vectors.

What is computed, and why, is in port_stepper.py; port_kernel.py does the same for one member after another where there
is no C compiler. A member's result does not depend on its neighbours: a lane that has converged is not touched again.

The Newton system is eliminated without pivoting, as lanes cannot exchange rows each for itself. Its rows, scaled by the
weights (3/4, 1/4) of Radau IIA's stages, make a matrix J with x' J x > 0 for every x: that is the method's algebraic
stability, for mass, resistances, Windkessels and memory that are passive, and the losses add what is not negative. So no
pivot vanishes, and what is eliminated does not grow (Golub & Van Loan, Matrix Computations, section 4.2). */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef LANES
#define LANES 4
#endif

typedef double lane __attribute__((vector_size(LANES * 8)));
typedef long long mask __attribute__((vector_size(LANES * 8)));

#define FIRST_NODE (1.0 / 3.0)
#define NEWTON_LIMIT 60
#define NEWTON_TOLERANCE 1e-7 /* Newton's method squares it */
#define CHORD_TOLERANCE 1e-9  /* what an old matrix leaves is a small share of its last change */
#define CHORDS 5              /* iterations with the first matrix */
#define LARGEST_LEAD 0.2

static inline lane chosen(mask where, lane yes, lane no) { return (lane)(((mask)yes & where) | ((mask)no & ~where)); }
static inline lane size_of(lane x) { return (lane)((mask)x & 0x7fffffffffffffffLL); }
static inline lane larger(lane a, lane b) { return chosen((mask)(a > b), a, b); }
static inline lane smaller(lane a, lane b) { return chosen((mask)(a < b), a, b); }
static inline lane all(double x) { lane out = {0}; return out + x; }

/* Tree: in the order of port_kernel.Tree. */
typedef struct {
    const double *share, *segment_share, *segment_basis, *junction, *forcing, *start_part, *memory_past, *recall_flow,
        *recall_past, *segments, *loss, *junction_loss, *recovery, *resistance, *memory, *flow_from_drive, *inertance;
} Tree;

/* Members and states: in the order of port_kernel.Members and port_kernel.States. */
typedef struct {
    const double *factor, *proximal, *bed_from_flow, *bed_from_pressure, *bed_constant, *jacobian, *inflow_part;
} Members;

typedef struct {
    double *flow, *pressure, *lagged, *derivative, *inlet, *outlet;
} States;

typedef struct {
    lane factor, *proximal, *bed_from_flow, *bed_from_pressure, *bed_constant, *jacobian, *inflow_part;
    lane *flow, *pressure, *lagged, *derivative, *stages, *y, *right, *fixed, *system, *known, *drive;
} Block;

/* Lane l of to[k] is from[l, k] of the block's member l; the last member stands in for those that are missing. */
static void gather(lane *to, const double *from, long count, long first, long members) {
    for (int l = 0; l < LANES; l++) {
        long member = first + l < members ? first + l : members - 1;
        for (long k = 0; k < count; k++) to[k][l] = from[member * count + k];
    }
}

static void scatter(double *to, const lane *from, long count, long first, long members) {
    for (int l = 0; l < LANES && first + l < members; l++)
        for (long k = 0; k < count; k++) to[(first + l) * count + k] = from[k][l];
}

/* Factors the small dense matrices of all lanes in place: the inverses of the pivots lie on the diagonal. */
static void factor(lane *restrict a, long n) {
    for (long c = 0; c < n; c++) {
        const lane inverse = all(1.0) / a[c * n + c];
        a[c * n + c] = inverse;
        for (long r = c + 1; r < n; r++) {
            const lane ratio = a[r * n + c] * inverse;
            const lane *restrict above = a + c * n;
            lane *restrict row = a + r * n;
            row[c] = ratio;
            for (long j = c + 1; j < n; j++) row[j] -= ratio * above[j];
        }
    }
}

/* Solves with what factor has left: right becomes the solution. */
static void solve(const lane *restrict a, lane *restrict right, long n) {
    for (long r = 1; r < n; r++) {
        lane total = right[r];
        for (long c = 0; c < r; c++) total -= a[r * n + c] * right[c];
        right[r] = total;
    }
    for (long c = n - 1; c >= 0; c--) {
        lane total = right[c];
        for (long j = c + 1; j < n; j++) total -= a[c * n + j] * right[j];
        right[c] = total * a[c * n + c];
    }
}

/* Newton's method on both stages; fills y.

The first iteration's matrix serves the next ones too: from where the flows' derivatives lead, it hardly changes. Where
that does not converge, as in a step that is long against the time constants, every iteration has a matrix of its own.
A lane whose change with the old matrix does not become half of the last one waits for the new matrix where it is:
what an old matrix has sent far off, Newton's method only brings back by halves. */
static void solve_stages(const Tree *t, Block *b, double step, lane start, const lane through[2], long free_,
                         long segments, long memories) {
    const long n = 2 * free_, outlets = free_ + 1;
    const lane largest = larger(size_of(through[0]), size_of(through[1]));
    lane rate = all(0.0), size = size_of(through[1]);
    for (long k = 0; k < outlets; k++) rate += b->derivative[k];
    for (long a = 0; a < free_; a++) {
        const lane old = b->flow[a] - start * t->share[a];
        lane lead = step * (b->derivative[a] - rate * t->share[a]);
        size += size_of(old);
        lead = smaller(larger(lead, -LARGEST_LEAD * largest), LARGEST_LEAD * largest);
        b->y[a] = old + FIRST_NODE * lead;
        b->y[free_ + a] = old + lead;
    }
    memcpy(b->fixed, b->jacobian, sizeof(lane) * n * n);
    for (long s = 0; s < 2; s++) {
        const lane weight = size_of(through[s]) * b->factor;
        const lane *from_pressure = b->bed_from_pressure + s * outlets, *constant = b->bed_constant + s * outlets;
        const lane *inflow_part = b->inflow_part + s * 2 * free_;
        const lane last = from_pressure[free_] * b->pressure[free_] + constant[free_];
        for (long a = 0; a < free_; a++) {
            lane total = last - from_pressure[a] * b->pressure[a] - constant[a];
            for (long c = 0; c < free_; c++)
                total += t->start_part[(s * free_ + a) * free_ + c] * (b->flow[c] - start * t->share[c]);
            total -= inflow_part[a] * through[0] + inflow_part[free_ + a] * through[1];
            total -= through[s] * weight * t->forcing[a];
            b->right[s * free_ + a] = total;
            for (long c = 0; c < free_; c++)
                b->fixed[(s * free_ + a) * n + s * free_ + c] += weight * t->junction[a * free_ + c];
        }
    }
    for (long k = 0; k < memories * outlets; k++) {
        const double *past = t->memory_past + k * n;
        for (long i = 0; i < n; i++) b->right[i] += b->lagged[k] * past[i];
    }
    lane per_size = all(0.0);
    mask done = (mask)(all(0.0) > all(1.0)), waits = done;
    lane last_change = all(INFINITY);
    for (int iteration = 0; iteration < NEWTON_LIMIT; iteration++) {
        const int renew = iteration == 0 || iteration > CHORDS;
        int linear = 1;
        memcpy(b->known, b->right, sizeof(lane) * n);
        if (renew) memcpy(b->system, b->fixed, sizeof(lane) * n * n);
        for (long i = 0; i < n; i++) {
            lane total = b->known[i];
            for (long j = 0; j < n; j++) total -= b->fixed[i * n + j] * b->y[j];
            b->known[i] = total;
        }
        for (long j = 0; j < segments; j++) {
            if (t->loss[j] == 0.0) continue;
            linear = 0;
            const double *basis = t->segment_basis + j * free_;
            for (long s = 0; s < 2; s++) {
                const lane *y = b->y + s * free_;
                lane q = through[s] * t->segment_share[j];
                for (long a = 0; a < free_; a++)
                    if (basis[a] != 0.0) q += basis[a] * y[a];
                const lane lost = t->loss[j] * size_of(q) * b->factor;
                for (long a = 0; a < free_; a++) {
                    if (basis[a] == 0.0) continue;
                    const lane own = lost * basis[a];
                    b->known[s * free_ + a] -= own * q;
                    if (!renew) continue;
                    lane *row = b->system + (s * free_ + a) * n + s * free_;
                    for (long c = 0; c < free_; c++)
                        if (basis[c] != 0.0) row[c] += 2.0 * own * basis[c];
                }
            }
        }
        if (renew) factor(b->system, n);
        solve(b->system, b->known, n);
        if (iteration == 0) {
            for (long i = 0; i < n; i++) size += size_of(b->y[i] + b->known[i]);
            per_size = 1.0 / (size + 1e-300);
        }
        lane change = all(0.0);
        for (long i = 0; i < n; i++) change = larger(change, size_of(b->known[i]) * per_size);
        waits = renew ? (mask)(all(0.0) > all(1.0)) : waits | (mask)(change > 0.5 * last_change);
        last_change = change;
        for (long i = 0; i < n; i++) b->y[i] = chosen(done | waits, b->y[i], b->y[i] + b->known[i]);
        if (linear) break;
        done |= ~waits & (mask)(change <= all(renew ? NEWTON_TOLERANCE : CHORD_TOLERANCE));
        long long left = 0;
        for (int l = 0; l < LANES; l++) left |= ~done[l];
        if (!left) break;
    }
}

/* PortModel.complete: fills the flows' derivatives, returns the inlet's pressure. */
static lane complete(const Tree *t, Block *b, lane slope, long outlets, long segments, long memories) {
    lane inflow = all(0.0);
    for (long n = 0; n < outlets; n++) inflow += b->flow[n];
    for (long n = 0; n < outlets; n++) {
        lane total = inflow * size_of(inflow) * t->recovery[n];
        for (long j = 0; j < outlets; j++) total += t->resistance[n * outlets + j] * b->flow[j];
        b->drive[n] = total;
    }
    for (long s = 0; s < segments; s++) {
        lane through = all(0.0);
        for (long n = 0; n < outlets; n++) through += t->segments[n * segments + s] * b->flow[n];
        const lane lost = through * (t->loss[s] * size_of(through) + size_of(inflow) * t->junction_loss[s]);
        for (long n = 0; n < outlets; n++) b->drive[n] += t->segments[n * segments + s] * lost;
    }
    for (long n = 0; n < outlets; n++)
        b->drive[n] = b->drive[n] * b->factor + b->pressure[n] + b->proximal[n] * b->flow[n];
    for (long k = 0; k < memories; k++)
        for (long j = 0; j < outlets; j++) {
            const lane recalled = b->flow[j] - b->lagged[k * outlets + j];
            const double *row = t->memory + (k * outlets + j) * outlets;
            for (long n = 0; n < outlets; n++) b->drive[n] += recalled * row[n];
        }
    lane inlet = slope * t->inertance[0];
    for (long n = 0; n < outlets; n++) {
        lane total = slope * t->share[n];
        inlet += b->drive[n] * t->share[n];
        for (long j = 0; j < outlets; j++) total += b->drive[j] * t->flow_from_drive[j * outlets + n];
        b->derivative[n] = total;
    }
    return inlet;
}

/* Takes all members through all steps; see port_kernel.advance, whose arrays these are. Returns 0, or 1 without memory.

sizes: members, steps, outlets, segments, memories, rows of out (all steps, or one). */
int port_advance(const long sizes[6], const Tree *tree, const Members *members, double step, const States *start,
                 const double *ends, const double *rates, const States *out) {
    const long count = sizes[0], steps = sizes[1], outlets = sizes[2], segments = sizes[3], memories = sizes[4];
    const long free_ = outlets - 1, n = 2 * free_;
    const long need = outlets * (1 + 4 + 2 + 2 + 3 + 2 + 1 + memories) + 3 * n * n + 2 * n + 3 * n + 8;
    lane *room = aligned_alloc(sizeof(lane), sizeof(lane) * need), *next = room;
    if (!room) return 1;
    Block b;
#define TAKE(name, length) b.name = next, next += (length)
    TAKE(proximal, outlets); TAKE(bed_from_flow, 4 * outlets); TAKE(bed_from_pressure, 2 * outlets);
    TAKE(bed_constant, 2 * outlets); TAKE(flow, outlets); TAKE(pressure, outlets); TAKE(derivative, outlets);
    TAKE(stages, 2 * outlets); TAKE(drive, outlets); TAKE(lagged, memories * outlets); TAKE(jacobian, n * n);
    TAKE(fixed, n * n); TAKE(system, n * n); TAKE(inflow_part, 2 * n); TAKE(y, n); TAKE(right, n); TAKE(known, n);
    const double rest = 1.0 - FIRST_NODE;
    for (long first = 0; first < count; first += LANES) {
        gather(&b.factor, members->factor, 1, first, count);
        gather(b.proximal, members->proximal, outlets, first, count);
        gather(b.bed_from_flow, members->bed_from_flow, 4 * outlets, first, count);
        gather(b.bed_from_pressure, members->bed_from_pressure, 2 * outlets, first, count);
        gather(b.bed_constant, members->bed_constant, 2 * outlets, first, count);
        gather(b.jacobian, members->jacobian, n * n, first, count);
        gather(b.inflow_part, members->inflow_part, 2 * n, first, count);
        gather(b.flow, start->flow, outlets, first, count);
        gather(b.pressure, start->pressure, outlets, first, count);
        gather(b.lagged, start->lagged, memories * outlets, first, count);
        gather(b.derivative, start->derivative, outlets, first, count);
        for (long t = 0; t < steps; t++) {
            lane before = all(0.0), end, slope, through[2];
            gather(&end, ends + t * count, 1, first, count);
            gather(&slope, rates + t * count, 1, first, count);
            for (long k = 0; k < outlets; k++) before += b.flow[k];
            through[0] = end - rest * step * slope + rest * rest * (before - end + step * slope);
            through[1] = end;
            for (long s = 0; s < 2; s++)
                for (long k = 0; k < outlets; k++) b.stages[s * outlets + k] = through[s] * tree->share[k];
            if (free_) {
                solve_stages(tree, &b, step, before, through, free_, segments, memories);
                for (long s = 0; s < 2; s++)
                    for (long a = 0; a < free_; a++) {
                        b.stages[s * outlets + a] += b.y[s * free_ + a];
                        b.stages[s * outlets + free_] -= b.y[s * free_ + a];
                    }
            }
            for (long k = 0; k < outlets; k++) {
                const lane one = b.stages[k], two = b.stages[outlets + k];
                b.pressure[k] = b.bed_from_flow[2 * outlets + k] * one + b.bed_from_flow[3 * outlets + k] * two +
                                b.bed_from_pressure[outlets + k] * b.pressure[k] + b.bed_constant[outlets + k];
                for (long m = 0; m < memories; m++)
                    b.lagged[m * outlets + k] = tree->recall_past[2 * m + 1] * b.lagged[m * outlets + k] +
                                                tree->recall_flow[4 * m + 2] * one + tree->recall_flow[4 * m + 3] * two;
                b.flow[k] = two;
            }
            const lane inlet = complete(tree, &b, slope, outlets, segments, memories);
            if (sizes[5] != steps && t != steps - 1) continue;
            const long row = sizes[5] == steps ? t : 0, ports = row * count * outlets;
            for (long k = 0; k < outlets; k++) b.drive[k] = b.pressure[k] + b.proximal[k] * b.flow[k];
            scatter(out->flow + ports, b.flow, outlets, first, count);
            scatter(out->pressure + ports, b.pressure, outlets, first, count);
            scatter(out->lagged + ports * memories, b.lagged, memories * outlets, first, count);
            scatter(out->derivative + ports, b.derivative, outlets, first, count);
            scatter(out->inlet + row * count, &inlet, 1, first, count);
            scatter(out->outlet + ports, b.drive, outlets, first, count);
        }
    }
    free(room);
    return 0;
}
