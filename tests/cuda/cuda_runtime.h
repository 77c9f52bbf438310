// As much of CUDA C++ as CubeCL's kernels are written in, for a CPU. Names and meanings are those of
// NVIDIA's CUDA C++ Programming Guide; no header is needed but this, neither NVIDIA's nor C++'s, so
// that a kernel is compiled in a fraction of a second.
//
// The threads of a block take turns on one thread of the CPU (threads.cpp). Blocks run one by one.
#pragma once

struct uint3 {
    unsigned int x, y, z;
};

inline uint3 make_uint3(unsigned int x, unsigned int y, unsigned int z) { return {x, y, z}; }

extern uint3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

#define __global__
#define __shared__
#define __grid_constant__
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))

// All of the shared memory that a block of an H100 can have. It holds NaN when a block begins.
extern unsigned char dynamic_shared_mem[];

void __syncthreads();
void __syncwarp();
inline void __threadfence() {}

namespace emulation {

// This thread's place in its warp.
unsigned int lane();

// Gives bytes to the other threads of the warp. All of them call this together, and again
// __syncwarp once they have what they need.
constexpr unsigned int MOST_GIVEN = 32;
void give(const void* given, unsigned int bytes);

// What a thread of the warp has given.
const void* given_by(unsigned int lane);

template <class T>
T of_lane(T value, unsigned int from) {
    static_assert(sizeof(T) <= MOST_GIVEN);
    give(&value, sizeof(T));
    const T taken = *static_cast<const T*>(given_by(from));
    __syncwarp();
    return taken;
}

// Calls a kernel with pointers to its arguments, as cudaLaunchKernel takes them.
template <class... Parameters>
struct Kernel {
    template <unsigned int... places>
    struct Places {};
    template <unsigned int count, unsigned int... places>
    struct Counted : Counted<count - 1, count - 1, places...> {};
    template <unsigned int... places>
    struct Counted<0, places...> {
        using Result = Places<places...>;
    };

    template <unsigned int... places>
    static void call(void (*kernel)(Parameters...), void** arguments, Places<places...>) {
        kernel(*static_cast<Parameters*>(arguments[places])...);
    }

    static void call(const void* kernel, void** arguments) {
        call(*static_cast<void (*const*)(Parameters...)>(kernel), arguments,
             typename Counted<sizeof...(Parameters)>::Result());
    }
};

// Runs all threads of a grid. What is wrong with the kernel, or nothing.
const char* run(void (*call)(const void*, void**), const void* kernel, void** arguments,
                const uint3* grid, const uint3* block);

template <class... Parameters>
const char* launch(void (*kernel)(Parameters...), void** arguments, const uint3* grid,
                   const uint3* block) {
    return run(Kernel<Parameters...>::call, &kernel, arguments, grid, block);
}

}  // namespace emulation

template <class T>
T __shfl_sync(unsigned int, T value, int source) {
    return emulation::of_lane(value, source % warpSize);
}

template <class T>
T __shfl_xor_sync(unsigned int, T value, int mask) {
    return emulation::of_lane(value, emulation::lane() ^ mask);
}

template <class T>
T __shfl_up_sync(unsigned int, T value, unsigned int delta) {
    const unsigned int lane = emulation::lane();
    return emulation::of_lane(value, lane < delta ? lane : lane - delta);
}

template <class T>
T __shfl_down_sync(unsigned int, T value, unsigned int delta) {
    const unsigned int lane = emulation::lane(), from = lane + delta;
    return emulation::of_lane(value, from < warpSize ? from : lane);
}

inline unsigned int __ballot_sync(unsigned int, int condition) {
    unsigned int votes = (condition != 0) << emulation::lane();
    for (int mask = 1; mask < warpSize; mask *= 2) {
        votes |= __shfl_xor_sync(-1, votes, mask);
    }
    return votes;
}

inline int __any_sync(unsigned int mask, int condition) { return __ballot_sync(mask, condition) != 0; }
inline int __all_sync(unsigned int mask, int condition) { return __ballot_sync(mask, !condition) == 0; }

// Threads take turns, and so nobody is in between.
template <class T>
T atomicAdd(T* address, T value) {
    const T before = *address;
    *address = before + value;
    return before;
}

template <class T>
T atomicExch(T* address, T value) {
    const T before = *address;
    *address = value;
    return before;
}

inline unsigned int __umulhi(unsigned int one, unsigned int other) {
    return static_cast<unsigned long long>(one) * other >> 32;
}

inline unsigned long long __umul64hi(unsigned long long one, unsigned long long other) {
    return static_cast<unsigned __int128>(one) * other >> 64;
}

inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned int x) { return __builtin_popcount(x); }

#define OF_FLOATS(name) \
    inline float name(float x) { return __builtin_##name##f(x); }
OF_FLOATS(exp)
OF_FLOATS(log)
OF_FLOATS(log1p)
OF_FLOATS(sqrt)
OF_FLOATS(sin)
OF_FLOATS(cos)
OF_FLOATS(tanh)
OF_FLOATS(erf)
OF_FLOATS(floor)
OF_FLOATS(ceil)
OF_FLOATS(round)
OF_FLOATS(trunc)
#undef OF_FLOATS

inline float rsqrt(float x) { return 1.0f / sqrt(x); }
inline float powf(float base, float exponent) { return __builtin_powf(base, exponent); }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float abs(float x) { return __builtin_fabsf(x); }
inline int abs(int x) { return x < 0 ? -x : x; }
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }

// Those of less precision are as precise here.
inline float __expf(float x) { return exp(x); }
inline float __logf(float x) { return log(x); }
inline float __sinf(float x) { return sin(x); }
inline float __cosf(float x) { return cos(x); }
inline float __powf(float base, float exponent) { return powf(base, exponent); }
inline float __fsqrt_rn(float x) { return sqrt(x); }
inline float __frsqrt_rn(float x) { return rsqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fdividef(float x, float y) { return x / y; }
inline float __tanhf(float x) { return tanh(x); }

// Of two floats the one that is a number.
inline float max(float one, float other) { return __builtin_fmaxf(one, other); }
inline float min(float one, float other) { return __builtin_fminf(one, other); }

template <class T>
T max(T one, T other) {
    return one < other ? other : one;
}

template <class T>
T min(T one, T other) {
    return other < one ? other : one;
}
