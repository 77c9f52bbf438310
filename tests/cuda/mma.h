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
