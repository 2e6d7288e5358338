# cython: language_level=3
cdef api int _placeholder() noexcept nogil:
    return 0
