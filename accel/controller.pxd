# Declared here so that the functions have an address that compiled kernels can look up by name.
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t

cdef void entry_mask(const int64_t* counts, const uint8_t* plan, const int8_t* x, const int8_t* h, int64_t hidden,
                     uint8_t* low) noexcept nogil

cdef void first_mask(int64_t kind, const int64_t* counts, const uint8_t* plan, int64_t hidden,
                     int64_t step, uint8_t* low) noexcept nogil

cdef void next_mask_float(int64_t kind, const int64_t* counts, const float* reals, int32_t* words,
                          const uint8_t* plan, const float* c, const int8_t* h, int64_t hidden,
                          int64_t step, uint8_t* low) noexcept nogil

cdef void next_mask_fixed(int64_t kind, const int64_t* counts, const float* reals, int32_t* words,
                          const uint8_t* plan, const int16_t* c, const int8_t* h, int64_t hidden,
                          int64_t step, uint8_t* low) noexcept nogil
