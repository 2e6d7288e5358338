"""The kernel of the cycle model: the pipeline of one layer and direction, exact to the cycle.

Every event of the pipeline starts as soon as the last of its conditions holds (rules: `docs/accelerator.md`),
so that times are maxima of sums of latencies. After an element, the future depends on the past only through a
few differences of times, of which few combinations occur: they are numbered as they appear, and the
transition from one to the next is computed once for each precision and then looked up.
"""

from __future__ import annotations

import numpy as np
from numba import njit

MAX_STATES = 2048

# Indices of the parameters (int64 vector).
PARAMETERS = 11
DEPTH, TREE, INTERVAL, TO_CELL, TO_HIDDEN, TO_PROJECTED, DECIDE, DYNAMIC = range(8)
PROJECTIONS, READOUT, TO_READOUT = range(8, PARAMETERS)
# Rows of the table of groups: an element at high and at low precision, a projected output, a readout neuron.
HIGH, LOW, PROJECTED, READ = range(4)

# A state: end of the last element, end of the last fetch, hand-over to the multifunction unit, starts of the
# last groups (the latest first).
_END, _FETCHED, _ACCEPTED, _STARTS = range(4)


@njit(cache=True, nogil=True)
def _work(state, par, fetch, groups, recurrent, cycles, kind, may_fetch, may_recur, blocked):
    """Run one dot product through the unit; times in `state` are advanced in place.

    Parameters
    ----------
    fetch : int64 [4, most groups]
        Cycles to fetch each group.
    groups, recurrent, cycles : int64 [4]
        Groups of a dot product, first of them that needs h, cycles of a group.
    may_fetch, may_recur, blocked
        Earliest fetch of the first group, and start of the first recurrent or of the very first group.
    """
    depth = par[DEPTH]
    for g in range(groups[kind]):
        begin = max(state[_FETCHED], state[_STARTS + depth - 1])
        if g == 0:
            begin = max(begin, may_fetch)
        state[_FETCHED] = begin + fetch[kind, g]
        start = max(state[_END], state[_FETCHED])
        if g == 0:
            start = max(start, blocked)
        if g == recurrent[kind]:
            start = max(start, may_recur)
        for slot in range(depth - 1, 0, -1):
            state[_STARTS + slot] = state[_STARTS + slot - 1]
        state[_STARTS] = start
        state[_END] = start + cycles[kind]
    # The result register is free once the multifunction unit has taken the result before.
    state[_END] = max(state[_END], state[_ACCEPTED] - par[TREE])
    state[_ACCEPTED] = max(state[_END] + par[TREE], state[_ACCEPTED] + par[INTERVAL])


@njit(cache=True, nogil=True)
def _finish(state, par, fetch, groups, recurrent, cycles):
    """Projection and readout at the end of a step. Returns when h and the next decisions are ready."""
    low_limit = -(1 << 60)
    hidden = state[_ACCEPTED] + par[TO_HIDDEN]
    decided = state[_ACCEPTED] + par[TO_CELL] + par[DECIDE] if par[DYNAMIC] else low_limit
    if par[PROJECTIONS]:
        for output in range(par[PROJECTIONS]):
            wait = hidden if output == 0 else low_limit
            _work(state, par, fetch, groups, recurrent, cycles, PROJECTED, low_limit, low_limit, wait)
        hidden = state[_ACCEPTED] + par[TO_PROJECTED]
    gate = low_limit
    if par[READOUT]:
        exposed = par[READOUT] == 2
        wait = hidden if exposed else low_limit
        _work(state, par, fetch, groups, recurrent, cycles, READ, low_limit, low_limit, wait)
        if exposed:
            gate = state[_ACCEPTED] + par[TO_READOUT] + par[DECIDE]
    return hidden, max(hidden, decided), gate


@njit(cache=True, nogil=True)
def _rebase(state, size):
    """Make times relative to the end of the last element. Returns what was subtracted."""
    origin = state[_END]
    for i in range(size):
        state[i] -= origin
    for i in range(_STARTS, size):
        # A start before the last fetch ended can delay nothing any more.
        state[i] = max(state[i], state[_FETCHED])
    return origin


@njit(cache=True, nogil=True)
def _number(state, size, states, count, following, turning, turn_limit):
    """The number of a state, a new one if it is new. A full table is emptied first."""
    for known in range(count[0]):
        same = True
        for i in range(size):
            if states[known, i] != state[i]:
                same = False
                break
        if same:
            return known
    if count[0] == states.shape[0]:
        count[0] = 0
    new = count[0]
    count[0] += 1
    for i in range(size):
        states[new, i] = state[i]
    if new == 0:
        # Numbers of an emptied table mean nothing any more.
        following[:] = -1
        turning[:] = -1
        turn_limit[:] = -(1 << 60)
    else:
        following[new] = -1
        turning[new] = -1
    return new


@njit(cache=True, nogil=True)
def advance(rows, hidden, backward, lengths, carry, par, fetch, groups, recurrent, cycles, states, count,
            following, turning, turn_limit, spent, low_count):  # fmt: skip
    """Run rows of a plan through the pipeline, going on from where the call before stopped.

    Parameters
    ----------
    rows : uint8 [n, ceil(hidden / 8)]
        Packed rows in the order of time positions; gone through from the last to the first if `backward`.
    lengths : int64 [S]
    carry : int64 [5]
        Sequence, its steps done, time of the last end, when element 0's decision is ready after that, state.
    par, fetch, groups, recurrent, cycles
        Parameters and groups of the pipeline (see `_work`).
    states : int64 [most states, 3 + depth]
    count, following, turning, turn_limit
        The number of states known, and transitions between them: (next state, cycles) for each precision.
    spent, low_count : int64 [S]
        Results: cycles until a sequence's last h is ready, and its low element-steps.
    """
    size = _STARTS + par[DEPTH]
    state = np.empty(size, np.int64)
    before = np.empty(size, np.int64)
    low_limit = -(1 << 60)
    sequence, done, time, decided = carry[0], carry[1], carry[2], carry[3]
    for n in range(rows.shape[0]):
        row = rows[rows.shape[0] - 1 - n] if backward else rows[n]
        low = 0
        bit = row[0] & 1
        low += bit
        if done == 0:
            state[:] = 0
            state[_ACCEPTED] = -par[INTERVAL]
            _work(state, par, fetch, groups, recurrent, cycles, bit, low_limit, low_limit, low_limit)
            time = _rebase(state, size)
            now = _number(state, size, states, count, following, turning, turn_limit)
        else:
            now = carry[4]
            # A decision that is ready before the fetch could begin anyway changes nothing.
            if turning[now, bit, 0] >= 0 and decided <= turn_limit[now]:
                time += turning[now, bit, 1]
                now = turning[now, bit, 0]
            else:
                old = now
                state[:] = states[old]
                _, recur, gate = _finish(state, par, fetch, groups, recurrent, cycles)
                limit = max(gate, state[_FETCHED], state[_STARTS + par[DEPTH] - 1])
                _work(state, par, fetch, groups, recurrent, cycles, bit, max(gate, decided), recur, low_limit)
                moved = _rebase(state, size)
                time += moved
                known = count[0]
                now = _number(state, size, states, count, following, turning, turn_limit)
                if decided <= limit and count[0] >= known:
                    turning[old, bit, 0] = now
                    turning[old, bit, 1] = moved
                    turn_limit[old] = limit
        first_end = time
        first_accepted = states[now, _ACCEPTED]
        for k in range(1, hidden):
            bit = (row[k >> 3] >> (k & 7)) & 1
            low += bit
            after = following[now, bit, 0]
            if after >= 0:
                time += following[now, bit, 1]
                now = after
            else:
                old = now
                state[:] = states[old]
                _work(state, par, fetch, groups, recurrent, cycles, bit, low_limit, low_limit, low_limit)
                moved = _rebase(state, size)
                time += moved
                known = count[0]
                now = _number(state, size, states, count, following, turning, turn_limit)
                if count[0] >= known:
                    following[old, bit, 0] = now
                    following[old, bit, 1] = moved
        decided = low_limit
        if par[DYNAMIC]:
            decided = first_end + first_accepted + par[TO_CELL] + par[DECIDE] - time
        low_count[sequence] += low
        carry[4] = now
        done += 1
        if done == lengths[sequence]:
            before[:] = states[now]
            ready, _, _ = _finish(before, par, fetch, groups, recurrent, cycles)
            spent[sequence] = time + ready
            done = 0
            sequence += -1 if backward else 1
    carry[0], carry[1], carry[2], carry[3] = sequence, done, time, decided
