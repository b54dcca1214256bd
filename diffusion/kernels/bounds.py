"""Compiled loops of the local solver: bounds on the error, and the certificate of the ranking."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .support import Rows, State, Touched, sweep
from .threads import contracting

# Row sums of D^-1/2 W D^1/2 are 1, up to the rounding of W and of the square roots to float32.
ROW_SUM_SLACK = 2.0**-22

# For a certificate, the residual inside the support is reduced to this fraction of the residual
# outside it, and χ is computed to the relative residual _SHIELD.
INSIDE = 5e-3
_SHIELD = 2e-2


class Bounds(NamedTuple):
    """The parts of `below` and `above` in -below ≤ (x*_i - x_i) / √d_i ≤ above; see `bounds`."""

    eta: float
    above_beside: float
    above_inside: float
    below_beside: float
    below_inside: float


@contracting
def shield(
    T: Touched, R: Rows, state: State, alpha: float, omega: float, floor: float, max_work: int
) -> State:
    """Solve L χ = (1 - α) √d in the support, χ = 0 outside, to the accuracy `bounds` needs."""
    edges = R.start[state.rows]
    work = state.work
    if work + 2 * edges > max_work:
        # The budget does not even allow the product in `bounds`, which is skipped where χ is 0.
        for t in range(state.touched):
            T.chi[t] = 0.0
        return state
    right = np.empty(state.touched, np.float64)
    for t in range(state.touched):
        right[t] = floor * T.root[t]
    met = np.inf
    while met > _SHIELD * floor and work + 2 * edges <= max_work:
        met = sweep(T, R, state.rows, alpha, omega, T.chi, right)
        work += edges
    work += edges
    return State(state.touched, state.rows, state.inside, state.beside, work, state.sweeps, 0)


@contracting
def bounds(T: Touched, R: Rows, state: State, alpha: float) -> Bounds:
    """Bound the scaled error ε = D^-1/2 (x* - x) from the residual in T and the function φ.

    With P = D^-1 A, (I - αP) ε = ρ = D^-1/2 r. Any v with (I - αP) v >= ρ everywhere bounds ε
    from above, by the maximum principle, since I - αP is an M-matrix. v = M (φ + η) + m is used:

    - φ = 1 - D^-1/2 χ is 1 outside the support and decreases towards its middle. η >= 0 corrects
      for nodes where (I - αP) φ < 0, which occur because χ is computed approximately.
    - M = max ρ⁺ / (I - αP)(φ + η) over the neighbours of the support.
    - m = max ρ⁺ / (1 - α) over the support.

    ρ⁻ in place of ρ⁺ bounds -ε. χ = 0 gives the bound max |ρ| / (1 - α).
    """
    floor = 1.0 - alpha * (1.0 + ROW_SUM_SLACK)
    if not floor > 0:
        return Bounds(0.0, np.inf, np.inf, np.inf, np.inf)
    # flow[t] = (c √d - L χ)_t in the support and α (W χ)_t outside, with c = `floor`.
    flow = np.empty(state.touched, np.float64)
    for t in range(state.touched):
        flow[t] = 0.0
    for s in range(state.rows):
        t = R.own[s]
        flow[t] += floor * T.root[t] - T.chi[t]
        push = alpha * T.chi[t]
        if push != 0:
            for e in range(R.start[s], R.start[s + 1]):
                flow[np.uintp(R.columns[e])] += R.weights[e] * push
    eta = 0.0
    largest = largest_chi = 0.0
    for t in range(state.touched):
        largest = max(largest, abs(T.x[t]) / T.root[t])
        largest_chi = max(largest_chi, abs(T.chi[t]) / T.root[t])
        if T.row[t] >= 0:
            eta = max(eta, -flow[t] / (T.root[t] * floor))
    # Bound on the rounding errors of sums that have at most as many terms as there are rows.
    rounding = alpha * (state.rows + 8) * 2.0**-52
    eta += rounding * (1.0 + largest_chi) / floor
    above_beside = above_inside = below_beside = below_inside = 0.0
    for t in range(state.touched):
        rho = T.residual[t] / T.root[t]
        if T.row[t] >= 0:
            above_inside = max(above_inside, rho / floor)
            below_inside = max(below_inside, -rho / floor)
        else:
            slope = floor + flow[t] / T.root[t]
            if slope <= 0:
                slope = 1e-300
            above_beside = max(above_beside, rho / slope)
            below_beside = max(below_beside, -rho / slope)
    mend = rounding * largest / floor
    return Bounds(eta, above_beside, above_inside + mend, below_beside, below_inside + mend)


@contracting
def certificate(
    T: Touched, state: State, order: Any, k: int, n: int, largest_root: float, B: Bounds
) -> tuple[bool, float]:
    """Return whether the k best touched nodes are proven to be the k best of all nodes.

    Nodes are ordered by x rounded to float32, then by the user's id. Also returns the ratio of
    the bounds to the gap between the scores that they have to separate; it is above 1 if they do
    not separate them.
    """
    best_value = np.empty(k, np.float32)
    best = np.empty(k, np.int64)
    count = 0
    for s in range(state.touched):
        value = np.float32(T.x[s])
        if value <= 0 or (count == k and value < best_value[k - 1]):
            continue
        a = min(count, k - 1)
        if count == k and value == best_value[a] and order[T.node[s]] > order[T.node[best[a]]]:
            continue
        while a > 0 and (
            value > best_value[a - 1]
            or (value == best_value[a - 1] and order[T.node[s]] < order[T.node[best[a - 1]]])
        ):
            best_value[a], best[a] = best_value[a - 1], best[a - 1]
            a -= 1
        best_value[a], best[a] = value, s
        count = min(k, count + 1)
    lowest = lowest_x = np.inf if count == k else 0.0
    chosen = np.empty(state.touched, np.bool_)
    for t in range(state.touched):
        chosen[t] = False
    for a in range(count):
        t = best[a]
        chosen[t] = True
        phi = 1.0 - T.chi[t] / T.root[t] + B.eta
        lowest_x = min(lowest_x, T.x[t])
        lowest = min(lowest, T.x[t] - T.root[t] * (B.below_beside * phi + B.below_inside))
    highest = highest_x = -np.inf
    for t in range(state.touched):
        if not chosen[t]:
            phi = 1.0 - T.chi[t] / T.root[t] + B.eta
            highest_x = max(highest_x, T.x[t])
            highest = max(highest, T.x[t] + T.root[t] * (B.above_beside * phi + B.above_inside))
    if state.touched < n:
        highest_x = max(highest_x, 0.0)
        # A support without neighbours is a union of components, and x* is 0 elsewhere.
        closed = state.touched == state.rows
        reach = (1.0 + B.eta) * B.above_beside + B.above_inside
        highest = max(highest, 0.0 if closed else largest_root * reach)
    if lowest >= highest:
        return True, 0.0
    gap = lowest_x - highest_x
    used = gap - (lowest - highest)
    return False, used / gap if gap > 0 else np.inf
