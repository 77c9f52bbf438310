// Numbers of 16 bits with f32's exponents, as in NVIDIA's header of this name.
#pragma once
#include "cuda_runtime.h"

struct __nv_bfloat16 {
    unsigned short bits;

    __nv_bfloat16() = default;
    __nv_bfloat16(double x) : __nv_bfloat16(static_cast<float>(x)) {}
    explicit __nv_bfloat16(int x) : __nv_bfloat16(static_cast<float>(x)) {}
    explicit __nv_bfloat16(unsigned int x) : __nv_bfloat16(static_cast<float>(x)) {}

    // To the nearest, and to the even one of two.
    __nv_bfloat16(float x) {
        unsigned int all;
        __builtin_memcpy(&all, &x, sizeof all);
        bits = __builtin_isnan(x) ? 0x7fff : (all + 0x7fff + (all >> 16 & 1)) >> 16;
    }

    operator float() const {
        const unsigned int all = static_cast<unsigned int>(bits) << 16;
        float x;
        __builtin_memcpy(&x, &all, sizeof x);
        return x;
    }
};

struct __align__(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

// Each number is rounded, as one alone is where it is stored.
inline __nv_bfloat162 operator+(const __nv_bfloat162 &a, const __nv_bfloat162 &b) {
    return {float(a.x) + float(b.x), float(a.y) + float(b.y)};
}

inline __nv_bfloat162 operator*(const __nv_bfloat162 &a, const __nv_bfloat162 &b) {
    return {float(a.x) * float(b.x), float(a.y) * float(b.y)};
}
