# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The precision controllers as the time loop calls them: C functions without Python, one call a step.

`docs/numerics.md`, section 7, is the specification; `accel/controllers.py` encodes the public classes into the arguments:

- `kind`: one of the constants below;
- `counts`: int64 [8], the controller's integers (see each function);
- `reals`: float32 [4], its binary32 parameters;
- `words`: int32 [4, hidden], its state;
- `plan`: uint8 [time, hidden], the masks of a schedule in the order of processing; for a calibrated controller the bytes
  of its scores (int32 [hidden]) and readout weights (int8 [counts[3]]), or those that `entry_mask` describes;
- `step`: the step whose mask is written to `low` (uint8 [hidden], 1 = low precision).
"""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

cdef enum Kind:
    STATIC = 0
    RANDOM = 1
    SCHEDULE = 2
    PEAK = 3
    DELTA = 4
    CALIBRATED = 5
    FORESEEN = 6

cdef enum:
    COLUMNS = 4096  # that element readouts read at most

cdef enum Phase:
    PROFILING = 0
    STABLE = 1
    IN_PEAK = 2

KINDS = {"Static": STATIC, "Random": RANDOM, "Schedule": SCHEDULE, "Peak": PEAK, "Delta": DELTA,
         "Calibrated": CALIBRATED, "Foreseen": FORESEEN}
MOST_COLUMNS = COLUMNS


cdef inline uint64_t mix(uint64_t v) noexcept nogil:
    v += <uint64_t>0x9E3779B97F4A7C15
    v ^= v >> 30
    v *= <uint64_t>0xBF58476D1CE4E5B9
    v ^= v >> 27
    v *= <uint64_t>0x94D049BB133111EB
    return v ^ (v >> 31)


cdef inline void random_mask(const int64_t* counts, int64_t hidden, int64_t step, uint8_t* low) noexcept nogil:
    """counts: [key of sequence, layer and direction; floor(low_share * 2^53)]."""
    cdef uint64_t base = mix(<uint64_t>counts[0] ^ <uint64_t>step)
    cdef uint64_t bound = <uint64_t>counts[1]
    cdef int64_t k
    for k in range(hidden):
        low[k] = (mix(base ^ <uint64_t>k) >> 11) < bound


cdef inline void calibrated_mask(const int64_t* counts, const uint8_t* plan, int64_t total, int64_t hidden,
                                 uint8_t* low) noexcept nogil:
    """counts: [threshold, bias, shift, outputs read]; total: the readout's sum of products."""
    cdef int64_t bound = counts[0] - counts[1] - (total >> counts[2])
    cdef int32_t score
    cdef int64_t k
    for k in range(hidden):
        memcpy(&score, plan + 4 * k, 4)
        low[k] = score <= bound


cdef inline void calibrated(const int64_t* counts, const uint8_t* plan, const int8_t* h, int64_t hidden,
                            uint8_t* low) noexcept nogil:
    cdef const int8_t* weights = <const int8_t*>(plan + 4 * hidden)
    cdef int64_t total = 0
    cdef int64_t j
    for j in range(counts[3]):
        total += <int32_t>weights[j] * <int32_t>h[j]
    calibrated_mask(counts, plan, total, hidden, low)


cdef void entry_mask(const int64_t* counts, const uint8_t* plan, const int8_t* x, const int8_t* h, int64_t hidden,
                     uint8_t* low) noexcept nogil:
    """The mask of a step from its own activations: x of the step, h of the step before.

    counts: [threshold, columns of x, columns of h, shift]; plan: scores and biases together (int32 [hidden]), columns
    (int32), weights (int8 [hidden, columns]).
    """
    cdef int8_t chosen[COLUMNS]
    cdef int64_t inputs = counts[1], count = counts[1] + counts[2]
    cdef const uint8_t* columns = plan + 4 * hidden
    cdef const int8_t* weights = <const int8_t*>(columns + 4 * count)
    cdef int32_t column, score, total
    cdef int64_t j, k
    for j in range(count):
        memcpy(&column, columns + 4 * j, 4)
        chosen[j] = x[column] if j < inputs else h[column]
    for k in range(hidden):
        total = 0
        for j in range(count):
            total += <int32_t>weights[j] * <int32_t>chosen[j]
        weights += count
        memcpy(&score, plan + 4 * k, 4)
        low[k] = <int64_t>score + (total >> counts[3]) <= counts[0]


cdef void first_mask(int64_t kind, const int64_t* counts, const uint8_t* plan, int64_t hidden,
                     int64_t step, uint8_t* low) noexcept nogil:
    """The mask of a step that needs no cell state: the first one of a sequence, or any of an open-loop controller."""
    if kind == RANDOM:
        random_mask(counts, hidden, step, low)
    elif kind == SCHEDULE:
        memcpy(low, plan + step * hidden, hidden)
    elif kind == STATIC:
        memset(low, <int>counts[0], hidden)
    elif kind == CALIBRATED:
        calibrated_mask(counts, plan, 0, hidden, low)
    else:
        memset(low, 1, hidden)


cdef inline bint open_loop(int64_t kind) noexcept nogil:
    return kind == STATIC or kind == RANDOM or kind == SCHEDULE


ctypedef fused extreme:
    float
    int32_t


cdef inline void profile(int32_t* phase, int32_t* counter, extreme* minimum, extreme* maximum, extreme c,
                         const int64_t* counts) noexcept nogil:
    """One step of the phase profiling, the counter already moved on; counts as for `compare`."""
    if counter[0] == 1 or c < minimum[0]:
        minimum[0] = c
    if counter[0] == 1 or c > maximum[0]:
        maximum[0] = c
    if counter[0] == counts[0]:
        phase[0] = STABLE
        counter[0] = 0


cdef inline void compare(int32_t* phase, int32_t* counter, extreme* minimum, extreme* maximum, bint outside,
                         const int64_t* counts) noexcept nogil:
    """One step of the phases stable and peak; counts: [profile_steps, max_stable, max_peak, beta * 2^12]."""
    if outside != (phase[0] == IN_PEAK):
        phase[0] = IN_PEAK if outside else STABLE
        counter[0] = 0
    elif counter[0] > (counts[2] if outside else counts[1]):
        phase[0] = PROFILING
        counter[0] = 0
        minimum[0] = maximum[0] = 0


cdef void peak_float(const int64_t* counts, float beta, int32_t* words, const float* c, int64_t hidden,
                     uint8_t* low) noexcept nogil:
    cdef int32_t* phase = words
    cdef int32_t* counter = words + hidden
    cdef float* minimum = <float*>(words + 2 * hidden)
    cdef float* maximum = <float*>(words + 3 * hidden)
    cdef float margin
    cdef bint outside
    cdef int64_t k
    for k in range(hidden):
        counter[k] += 1
        if phase[k] == PROFILING:
            profile(&phase[k], &counter[k], &minimum[k], &maximum[k], c[k], counts)
        else:
            margin = beta * (maximum[k] - minimum[k])
            outside = c[k] > maximum[k] + margin or c[k] < minimum[k] - margin
            compare(&phase[k], &counter[k], &minimum[k], &maximum[k], outside, counts)
        low[k] = phase[k] != IN_PEAK


cdef void peak_fixed(const int64_t* counts, int32_t* words, const int16_t* c, int64_t hidden, uint8_t* low) noexcept nogil:
    cdef int32_t* phase = words
    cdef int32_t* counter = words + hidden
    cdef int32_t* minimum = words + 2 * hidden
    cdef int32_t* maximum = words + 3 * hidden
    cdef int64_t margin
    cdef bint outside
    cdef int64_t k
    for k in range(hidden):
        counter[k] += 1
        if phase[k] == PROFILING:
            profile(&phase[k], &counter[k], &minimum[k], &maximum[k], <int32_t>c[k], counts)
        else:
            margin = (counts[3] * (<int64_t>maximum[k] - minimum[k]) + 2048) >> 12
            outside = c[k] > maximum[k] + margin or c[k] < minimum[k] - margin
            compare(&phase[k], &counter[k], &minimum[k], &maximum[k], outside, counts)
        low[k] = phase[k] != IN_PEAK


cdef void delta_float(const int64_t* counts, float threshold, int32_t* words, const float* c, int64_t hidden,
                      uint8_t* low) noexcept nogil:
    """counts: [relative]."""
    cdef float* previous = <float*>words
    cdef float change, bound
    cdef int64_t k
    cdef bint relative = counts[0] != 0
    for k in range(hidden):
        change = c[k] - previous[k]
        change = -change if change < 0 else change
        bound = c[k]
        bound = -bound if bound < 0 else bound
        bound = threshold * bound if relative else threshold
        low[k] = not (change > bound)
        previous[k] = c[k]


cdef void delta_fixed(const int64_t* counts, int32_t* words, const int16_t* c, int64_t hidden, uint8_t* low) noexcept nogil:
    """counts: [relative, threshold * 2^12 or threshold * 2^11]."""
    cdef int64_t change, value
    cdef int64_t k
    for k in range(hidden):
        value = c[k]
        change = value - words[k]
        change = -change if change < 0 else change
        if counts[0]:
            low[k] = not (change * 4096 > counts[1] * (-value if value < 0 else value))
        else:
            low[k] = not (change > counts[1])
        words[k] = c[k]


cdef void next_mask_float(int64_t kind, const int64_t* counts, const float* reals, int32_t* words,
                          const uint8_t* plan, const float* c, const int8_t* h, int64_t hidden,
                          int64_t step, uint8_t* low) noexcept nogil:
    if open_loop(kind):
        first_mask(kind, counts, plan, hidden, step, low)
    elif kind == PEAK:
        peak_float(counts, reals[0], words, c, hidden, low)
    elif kind == CALIBRATED:
        calibrated(counts, plan, h, hidden, low)
    elif kind == FORESEEN:
        pass  # the next step decides as it begins
    else:
        delta_float(counts, reals[0], words, c, hidden, low)


cdef void next_mask_fixed(int64_t kind, const int64_t* counts, const float* reals, int32_t* words,
                          const uint8_t* plan, const int16_t* c, const int8_t* h, int64_t hidden,
                          int64_t step, uint8_t* low) noexcept nogil:
    if open_loop(kind):
        first_mask(kind, counts, plan, hidden, step, low)
    elif kind == PEAK:
        peak_fixed(counts, words, c, hidden, low)
    elif kind == CALIBRATED:
        calibrated(counts, plan, h, hidden, low)
    elif kind == FORESEEN:
        pass  # the next step decides as it begins
    else:
        delta_fixed(counts, words, c, hidden, low)


def key(int64_t seed, int64_t sequence, int64_t layer, int64_t direction):
    """The key of `Random` for one sequence, layer and direction (int, as a signed 64-bit value)."""
    cdef uint64_t value = mix(<uint64_t>seed)
    value = mix(value ^ <uint64_t>sequence)
    value = mix(value ^ <uint64_t>(2 * layer + direction))
    return <int64_t>value
