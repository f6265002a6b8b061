/* The cells' part of a step on linear simplices; `linear_cells.py` says what it computes, and the names' meaning.

   Compiled with DIM = 2 or 3. Cells come in blocks of LANES, on which the processor works at once (vector types as GCC
   and Clang have them). What is of a cell is stored by blocks, the lane last; what is of a node is (n, DIM). Loops over
   cells write to nodes and matrix entries that cells share: they are not for several threads. */

#include <math.h>
#include <stdint.h>

#define LANES 4
#define CORNERS (DIM + 1)
/* integral of phi_a phi_b over a cell is its volume times (1 + delta_ab) / SHARES */
#define SHARES (CORNERS * (CORNERS + 1))
#define FOR(index, count) for (int index = 0; index < (count); ++index)

typedef double Lanes __attribute__((vector_size(8 * LANES)));
typedef double Stored __attribute__((vector_size(8 * LANES), aligned(8)));
typedef int32_t Nodes[CORNERS][LANES];

typedef struct {
    const Nodes *nodes;
    const Stored (*gradients)[CORNERS][DIM]; /* 1/m */
    const Stored *volumes;                   /* m^3 */
    const Stored *size;                      /* m */
} Cells;

typedef struct {
    const double *now, *before;     /* (n, DIM) velocity, m/s */
    double ahead;                   /* r: what is to come is (1 + r) now - r before */
    double known_now, known_before; /* a1, a2 of BDF, 1/s */
} Past;

static inline Lanes root(Lanes x) {
    FOR(w, LANES) x[w] = sqrt(x[w]);
    return x;
}

static inline void gather(const Nodes nodes, const double *field, Lanes u[CORNERS][DIM]) {
    FOR(a, CORNERS) FOR(k, DIM) FOR(w, LANES) u[a][k][w] = field[(int64_t)DIM * nodes[a][w] + k];
}

static inline void gather_scalar(const Nodes nodes, const double *field, Lanes p[CORNERS]) {
    FOR(a, CORNERS) FOR(w, LANES) p[a][w] = field[nodes[a][w]];
}

static inline void scatter(const Nodes nodes, const Lanes u[CORNERS][DIM], double *field) {
    FOR(w, LANES) FOR(a, CORNERS) FOR(k, DIM) field[(int64_t)DIM * nodes[a][w] + k] += u[a][k][w];
}

static inline void mean(const Lanes u[CORNERS][DIM], Lanes middle[DIM]) {
    FOR(k, DIM) {
        middle[k] = u[0][k];
        for (int a = 1; a < CORNERS; ++a) middle[k] += u[a][k];
        middle[k] *= 1.0 / CORNERS;
    }
}

/* The velocity now and before, that to come, and the latter's mean. */
static inline void foreseen(const Nodes nodes, const Past *past, Lanes now[CORNERS][DIM], Lanes before[CORNERS][DIM],
                            Lanes c[CORNERS][DIM], Lanes along[DIM]) {
    gather(nodes, past->now, now);
    gather(nodes, past->before, before);
    FOR(a, CORNERS) FOR(k, DIM) c[a][k] = now[a][k] + past->ahead * (now[a][k] - before[a][k]);
    mean(c, along);
}

static inline void slope(const Stored g[CORNERS][DIM], const Lanes u[CORNERS][DIM], Lanes jacobian[DIM][DIM]) {
    FOR(k, DIM) FOR(l, DIM) {
        jacobian[k][l] = g[0][k] * u[0][l];
        for (int a = 1; a < CORNERS; ++a) jacobian[k][l] += g[a][k] * u[a][l];
    }
}

static inline void slope_of_scalar(const Stored g[CORNERS][DIM], const Lanes p[CORNERS], Lanes slope[DIM]) {
    FOR(k, DIM) {
        slope[k] = g[0][k] * p[0];
        for (int a = 1; a < CORNERS; ++a) slope[k] += g[a][k] * p[a];
    }
}

static inline Lanes speed(const Lanes v[DIM]) {
    Lanes sum = v[0] * v[0];
    for (int k = 1; k < DIM; ++k) sum += v[k] * v[k];
    return root(sum);
}

/* rates (m): at which blood of a velocity (n, DIM) crosses each cell, 1/s. */
void crossing(const Cells *cells, int64_t blocks, const double *velocity, Stored *rates) {
    for (int64_t e = 0; e < blocks; ++e) {
        Lanes u[CORNERS][DIM], along[DIM];
        gather(cells->nodes[e], velocity, u);
        mean(u, along);
        rates[e] = speed(along) / cells->size[e];
    }
}

/* rates (m): sqrt(2 D:D) of the velocity to come, 1/s. */
void shear_rates(const Cells *cells, int64_t blocks, const Past *past, Stored *rates) {
    for (int64_t e = 0; e < blocks; ++e) {
        Lanes now[CORNERS][DIM], before[CORNERS][DIM], c[CORNERS][DIM], along[DIM], jacobian[DIM][DIM], sum = {0};
        foreseen(cells->nodes[e], past, now, before, c, along);
        slope(cells->gradients[e], c, jacobian);
        FOR(k, DIM) FOR(l, DIM) {
            const Lanes both = jacobian[k][l] + jacobian[l][k];
            sum += 0.5 * both * both;
        }
        rates[e] = root(sum);
    }
}

/* tau (m), and added to convected (n, DIM): what each node gets of (c.grad u) integrated, at a time between now and
   what is to come. Returns the largest |c| / h. */
double subscales(const Cells *cells, int64_t begin, int64_t end, const Past *past, double step, double lag_cfl,
                 const Stored *kinematic, Stored *tau, double *convected) {
    double largest = 0.0;
    for (int64_t e = begin; e < end; ++e) {
        Lanes now[CORNERS][DIM], before[CORNERS][DIM], c[CORNERS][DIM], along[DIM];
        Lanes jacobian[DIM][DIM], present[DIM][DIM], gain[CORNERS][DIM], shear = {0}, lagged;
        foreseen(cells->nodes[e], past, now, before, c, along);
        slope(cells->gradients[e], c, jacobian);
        slope(cells->gradients[e], now, present);
        FOR(k, DIM) FOR(l, DIM) shear += jacobian[k][l] * jacobian[k][l];
        const Lanes h = cells->size[e], rate = speed(along) / h, diffusion = 12.0 * kinematic[e] / (h * h);
        tau[e] = 1.0 / root(4.0 * rate * rate + diffusion * diffusion + shear);
        FOR(w, LANES) {
            const double crossed = rate[w] * step / lag_cfl;
            lagged[w] = crossed > 1.0 ? 1.0 / (crossed * crossed) : 1.0;
            if (rate[w] > largest) largest = rate[w];
        }
        FOR(l, DIM) {
            Lanes sum = {0};
            FOR(k, DIM) sum += along[k] * (present[k][l] + lagged * (jacobian[k][l] - present[k][l]));
            FOR(a, CORNERS) gain[a][l] = sum * cells->volumes[e] * (1.0 / CORNERS);
        }
        scatter(cells->nodes[e], gain, convected);
    }
    return largest;
}

/* Added to values (entries + 1) and load (n, DIM): the momentum equation of the blocks chosen. positions (chosen,
   LANES, CORNERS, CORNERS) says where a cell's entries go; projected (n, DIM) is pi(c.grad u). */
void momentum(const Cells *cells, const int64_t *chosen, int64_t count,
              const int32_t (*positions)[LANES][CORNERS][CORNERS], const Past *past, double density, double rate,
              double plain_viscosity, const Stored *viscosity, const Stored *tau, const double *projected,
              const double *pressure, double *values, double *load) {
    for (int64_t place = 0; place < count; ++place) {
        const int64_t e = chosen[place];
        const Stored (*g)[DIM] = cells->gradients[e];
        const Lanes volume = cells->volumes[e], mu = viscosity[e], thickening = mu - plain_viscosity;
        const Lanes mass = density * volume * (1.0 / SHARES), strength = density * volume * tau[e];
        Lanes now[CORNERS][DIM], before[CORNERS][DIM], c[CORNERS][DIM], along[DIM], p[CORNERS], slope_of_p[DIM];
        Lanes pi[CORNERS][DIM], smooth[DIM], whole[DIM], flux[DIM][DIM];
        foreseen(cells->nodes[e], past, now, before, c, along);
        gather(cells->nodes[e], projected, pi);
        mean(pi, smooth);
        gather_scalar(cells->nodes[e], pressure, p);
        slope_of_scalar(g, p, slope_of_p);
        FOR(a, CORNERS) FOR(k, DIM) now[a][k] = past->known_now * now[a][k] + past->known_before * before[a][k];
        FOR(k, DIM) {
            whole[k] = now[0][k];
            for (int a = 1; a < CORNERS; ++a) whole[k] += now[a][k];
        }
        FOR(k, DIM) FOR(l, DIM) flux[k][l] = strength * along[k] * smooth[l];
        double differs = 0.0;
        FOR(w, LANES) differs += fabs(thickening[w]);
        if (differs > 0.0) {
            Lanes jacobian[DIM][DIM];
            slope(g, c, jacobian);
            FOR(k, DIM) FOR(l, DIM) flux[k][l] -= volume * thickening * jacobian[l][k];
        }
        Lanes carried[CORNERS][DIM], streamed[CORNERS], gain[CORNERS][DIM], matrix[CORNERS][CORNERS];
        FOR(a, CORNERS) {
            streamed[a] = along[0] * g[a][0];
            for (int k = 1; k < DIM; ++k) streamed[a] += along[k] * g[a][k];
            FOR(l, DIM) {
                /* half the integral of rho phi_a c, in which every corner has one part and a itself another */
                carried[a][l] = 0.5 * mass * (c[a][l] + (double)CORNERS * along[l]);
                const Lanes carries = LUMPED ? (CORNERS + 1.0) * now[a][l] : now[a][l] + whole[l];
                gain[a][l] = -mass * carries - (1.0 / CORNERS) * volume * slope_of_p[l];
                FOR(k, DIM) gain[a][l] += g[a][k] * flux[k][l];
            }
        }
        FOR(a, CORNERS) for (int b = a; b < CORNERS; ++b) {
            Lanes skew = carried[a][0] * g[b][0] - carried[b][0] * g[a][0], diffusion = g[a][0] * g[b][0];
            for (int k = 1; k < DIM; ++k) {
                skew += carried[a][k] * g[b][k] - carried[b][k] * g[a][k];
                diffusion += g[a][k] * g[b][k];
            }
            const double share = LUMPED ? (a == b ? CORNERS + 1.0 : 0.0) : (a == b ? 2.0 : 1.0);
            const Lanes symmetric =
                share * rate * mass + volume * mu * diffusion + strength * streamed[a] * streamed[b];
            matrix[b][a] = symmetric - skew;
            matrix[a][b] = symmetric + skew;
        }
        scatter(cells->nodes[e], gain, load);
        FOR(w, LANES) FOR(a, CORNERS) FOR(b, CORNERS) values[positions[place][w][a][b]] += matrix[a][b][w];
    }
}

/* Added to projected (n, DIM): what each node gets of the pressure's gradient, integrated. */
void pressure_slopes(const Cells *cells, int64_t begin, int64_t end, const double *pressure, double *projected) {
    for (int64_t e = begin; e < end; ++e) {
        Lanes p[CORNERS], slope_of_p[DIM], gain[CORNERS][DIM];
        gather_scalar(cells->nodes[e], pressure, p);
        slope_of_scalar(cells->gradients[e], p, slope_of_p);
        FOR(a, CORNERS) FOR(k, DIM) gain[a][k] = (1.0 / CORNERS) * cells->volumes[e] * slope_of_p[k];
        scatter(cells->nodes[e], gain, projected);
    }
}

/* later (m, DIM): the pressure's subscales at the step's end, w; added to tested (n): (w, grad q). With rate = 1 / dt:
   (rate + 1 / tau) w = rate w_now + (grad p - pi(grad p)) / rho,
   w being more by direct ((grad p - pi(grad p)) / rho - w / tau) / (rate + 1 / tau) where it is tested. */
void pressure_subscales(const Cells *cells, int64_t begin, int64_t end, const double *pressure, const double *projected,
                        const Stored *tau, double density, double rate, double direct, const Stored (*now)[DIM],
                        Stored (*later)[DIM], double *tested) {
    for (int64_t e = begin; e < end; ++e) {
        const Stored (*g)[DIM] = cells->gradients[e];
        const Lanes keeps = 1.0 / (rate + 1.0 / tau[e]);
        Lanes p[CORNERS], rough[DIM], pi[CORNERS][DIM], smooth[DIM], whole[DIM];
        gather_scalar(cells->nodes[e], pressure, p);
        slope_of_scalar(g, p, rough);
        gather(cells->nodes[e], projected, pi);
        mean(pi, smooth);
        FOR(k, DIM) {
            const Lanes pull = (1.0 / density) * (rough[k] - smooth[k]);
            later[e][k] = keeps * (rate * now[e][k] + pull);
            whole[k] = later[e][k] + direct * keeps * (pull - later[e][k] / tau[e]);
        }
        FOR(a, CORNERS) {
            Lanes gain = {0};
            FOR(k, DIM) gain += g[a][k] * whole[k];
            gain *= cells->volumes[e];
            FOR(w, LANES) tested[cells->nodes[e][a][w]] += gain[w];
        }
    }
}
