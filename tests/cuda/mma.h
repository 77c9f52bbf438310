// Products of small matrices by the threads of a warp together, as nvcuda::wmma has them. What a
// fragment holds is spread over the warp as nobody may know; here its first thread has all of it.
#pragma once
#include "cuda_bf16.h"

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int m, int n, int k>
struct Shape;
template <int m, int n, int k>
struct Shape<matrix_a, m, n, k> {
    static constexpr int rows = m, columns = k;
};
template <int m, int n, int k>
struct Shape<matrix_b, m, n, k> {
    static constexpr int rows = k, columns = n;
};
template <int m, int n, int k>
struct Shape<accumulator, m, n, k> {
    static constexpr int rows = m, columns = n;
};

template <class Layout>
constexpr bool by_columns = false;
template <>
inline constexpr bool by_columns<col_major> = true;

template <class Use, int m, int n, int k, class T, class Layout = void>
struct fragment : Shape<Use, m, n, k> {
    using Element = T;
    static constexpr int num_elements = fragment::rows * fragment::columns;
    T x[num_elements];
};

template <class Fragment, class Act>
void on_first_thread(Fragment& fragment, bool turned, int pitch, Act act) {
    __syncwarp();
    if (emulation::lane() == 0) {
        for (int row = 0; row < Fragment::rows; row++) {
            for (int column = 0; column < Fragment::columns; column++) {
                act(fragment.x[row * Fragment::columns + column],
                    turned ? column * pitch + row : row * pitch + column);
            }
        }
    }
    __syncwarp();
}

template <class Use, int m, int n, int k, class T, class Layout>
void fill_fragment(fragment<Use, m, n, k, T, Layout>& filled, T value) {
    on_first_thread(filled, false, 0, [&](T& element, int) { element = value; });
}

template <class Use, int m, int n, int k, class T, class Layout>
void load_matrix_sync(fragment<Use, m, n, k, T, Layout>& loaded, const T* from, unsigned int pitch) {
    on_first_thread(loaded, by_columns<Layout>, pitch, [&](T& element, int at) { element = from[at]; });
}

template <int m, int n, int k, class T>
void load_matrix_sync(fragment<accumulator, m, n, k, T>& loaded, const T* from, unsigned int pitch,
                      layout_t layout) {
    on_first_thread(loaded, layout == mem_col_major, pitch,
                    [&](T& element, int at) { element = from[at]; });
}

template <int m, int n, int k, class T>
void store_matrix_sync(T* to, fragment<accumulator, m, n, k, T>& stored, unsigned int pitch,
                       layout_t layout) {
    on_first_thread(stored, layout == mem_col_major, pitch,
                    [&](T& element, int at) { to[at] = element; });
}

template <int m, int n, int k, class A, class B, class T, class LayoutA, class LayoutB>
void mma_sync(fragment<accumulator, m, n, k, T>& product, fragment<matrix_a, m, n, k, A, LayoutA>& a,
              fragment<matrix_b, m, n, k, B, LayoutB>& b, fragment<accumulator, m, n, k, T>& added) {
    __syncwarp();
    if (emulation::lane() == 0) {
        for (int row = 0; row < m; row++) {
            for (int column = 0; column < n; column++) {
                T sum = added.x[row * n + column];
                for (int inner = 0; inner < k; inner++) {
                    sum += static_cast<float>(a.x[row * k + inner]) *
                           static_cast<float>(b.x[inner * n + column]);
                }
                product.x[row * n + column] = sum;
            }
        }
    }
    __syncwarp();
}

}  // namespace nvcuda::wmma

// Those of NVIDIA's PTX ISA whose registers are each thread's own business, by the names that CubeCL
// gives to functions of them.
namespace emulation {

// Of two neighbours in a register, the first.
inline float of_register(unsigned int pair, int side) {
    __nv_bfloat16 number;
    number.bits = pair >> 16 * side;
    return number;
}

// ldmatrix: each thread names a row of one of several matrices of 8 x 8, and gets two neighbours of
// each of them.
template <bool transposed, unsigned int matrices>
void load_matrices(unsigned int (&registers)[matrices], const void* row) {
    give(&row, sizeof row);
    const unsigned int own = lane() / 4, pair = 2 * (lane() % 4);
    for (unsigned int matrix = 0; matrix < matrices; matrix++) {
        registers[matrix] = 0;
        for (unsigned int side = 0; side < 2; side++) {
            const unsigned int from = transposed ? pair + side : own;
            const unsigned int column = transposed ? own : pair + side;
            const void* named = *static_cast<const void* const*>(given_by(8 * matrix + from));
            registers[matrix] |= static_cast<const unsigned short*>(named)[column] << 16 * side;
        }
    }
    __syncwarp();
}

// mma.m16n8k16: the sum of four numbers of each thread with a product of 16 x 16 and 16 x 8.
inline void multiply(const unsigned int (&left)[4], const unsigned int (&right)[2], float (&sums)[4]) {
    const unsigned int registers[6] = {left[0], left[1], left[2], left[3], right[0], right[1]};
    give(registers, sizeof registers);
    const auto of_lane = [](unsigned int lane) {
        return static_cast<const unsigned int*>(given_by(lane));
    };
    for (unsigned int place = 0; place < 4; place++) {
        const unsigned int row = lane() / 4 + 8 * (place / 2);
        const unsigned int column = 2 * (lane() % 4) + place % 2;
        for (unsigned int inner = 0; inner < 16; inner++) {
            const unsigned int quarter = inner % 8 / 2, half = inner / 8;
            const unsigned int a = of_lane(row % 8 * 4 + quarter)[2 * half + row / 8];
            const unsigned int b = of_lane(column * 4 + quarter)[4 + half];
            sums[place] += of_register(a, inner % 2) * of_register(b, inner % 2);
        }
    }
    __syncwarp();
}

}  // namespace emulation

inline void __ldmatrix_m8n8___nv_bfloat16_4x(unsigned int& a, unsigned int& b, unsigned int& c,
                                             unsigned int& d, const void* row) {
    unsigned int registers[4];
    emulation::load_matrices<false>(registers, row);
    a = registers[0], b = registers[1], c = registers[2], d = registers[3];
}

inline void __ldmatrix_m8n8___nv_bfloat16_2x(unsigned int& a, unsigned int& b, const void* row) {
    unsigned int registers[2];
    emulation::load_matrices<false>(registers, row);
    a = registers[0], b = registers[1];
}

inline void __ldmatrix_m8n8___nv_bfloat16_2x_trans(unsigned int& a, unsigned int& b,
                                                   const void* row) {
    unsigned int registers[2];
    emulation::load_matrices<true>(registers, row);
    a = registers[0], b = registers[1];
}

inline void __mma_m16n8k16___nv_bfloat16___nv_bfloat16_float(
    unsigned int a0, unsigned int a1, unsigned int a2, unsigned int a3, unsigned int b0,
    unsigned int b1, float c0, float c1, float c2, float c3, float& d0, float& d1, float& d2,
    float& d3) {
    float sums[4] = {c0, c1, c2, c3};
    emulation::multiply({a0, a1, a2, a3}, {b0, b1}, sums);
    d0 = sums[0], d1 = sums[1], d2 = sums[2], d3 = sums[3];
}
