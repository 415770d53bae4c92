// What a kernel's source says, put into the emulator's terms: qualifiers, built-in variables, types and functions.
// Included at the end of cuemu.h.
#pragma once

#define __global__ __attribute__((visibility("hidden")))
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static __attribute__((section("cuemu_shared")))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

using dim3 = CuemuDim3;
#define threadIdx (cuemu::current->index)
#define blockIdx (cuemu::block_index)
#define blockDim (cuemu::block_size)
#define gridDim (cuemu::grid_size)
constexpr int warpSize = cuemu::WARP;

#define CUEMU_VECTOR(name, type, bytes) \
    struct alignas(bytes) name##2 { type x, y; }; \
    struct name##3 { type x, y, z; }; \
    struct alignas(2 * bytes) name##4 { type x, y, z, w; }; \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; } \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; } \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
CUEMU_VECTOR(char, signed char, 2)
CUEMU_VECTOR(uchar, unsigned char, 2)
CUEMU_VECTOR(short, short, 4)
CUEMU_VECTOR(ushort, unsigned short, 4)
CUEMU_VECTOR(int, int, 8)
CUEMU_VECTOR(uint, unsigned, 8)
CUEMU_VECTOR(float, float, 8)
#undef CUEMU_VECTOR

static inline void __syncthreads(int line = __builtin_LINE()) { cuemu::wait(cuemu::State::at_barrier, line); }
static inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) { cuemu::exchange(mask, 0, line); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

static inline unsigned __ballot_sync(unsigned mask, int vote, int line = __builtin_LINE()) {
    cuemu::exchange(mask, vote != 0, line);
    return cuemu::votes();
}
static inline int __any_sync(unsigned mask, int vote, int line = __builtin_LINE()) {
    cuemu::exchange(mask, vote != 0, line);
    return cuemu::votes() != 0;
}
static inline int __all_sync(unsigned mask, int vote, int line = __builtin_LINE()) {
    cuemu::exchange(mask, vote != 0, line);
    return cuemu::votes() == cuemu::current->present;
}
template <class T>
static inline T __shfl_sync(unsigned mask, T value, int from, int width = 32, int line = __builtin_LINE()) {
    cuemu::exchange(mask, cuemu::pack(value), line);
    return cuemu::take<T>((cuemu::lane() & ~unsigned(width - 1)) | (unsigned(from) & unsigned(width - 1)), line);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, int line = __builtin_LINE()) {
    cuemu::exchange(mask, cuemu::pack(value), line);
    unsigned const from = cuemu::lane() ^ unsigned(bits), end = (cuemu::lane() | unsigned(width - 1)) + 1;
    return from < end ? cuemu::take<T>(from, line) : value;
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, int line = __builtin_LINE()) {
    cuemu::exchange(mask, cuemu::pack(value), line);
    unsigned const from = cuemu::lane() + by, end = (cuemu::lane() | unsigned(width - 1)) + 1;
    return from < end ? cuemu::take<T>(from, line) : value;
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, int line = __builtin_LINE()) {
    cuemu::exchange(mask, cuemu::pack(value), line);
    bool const within = (cuemu::lane() & unsigned(width - 1)) >= by;
    return within ? cuemu::take<T>(cuemu::lane() - by, line) : value;
}

#define CUEMU_ATOMIC(name, result) \
    template <class T> \
    static inline T name(T* place, typename cuemu::Plain<T>::type value) { \
        cuemu::pause(); \
        T const old = *place; \
        *place = result; \
        return old; \
    }
CUEMU_ATOMIC(atomicAdd, T(old + value))
CUEMU_ATOMIC(atomicSub, T(old - value))
CUEMU_ATOMIC(atomicMax, std::max(old, value))
CUEMU_ATOMIC(atomicMin, std::min(old, value))
CUEMU_ATOMIC(atomicAnd, T(old & value))
CUEMU_ATOMIC(atomicOr, T(old | value))
CUEMU_ATOMIC(atomicXor, T(old ^ value))
CUEMU_ATOMIC(atomicExch, value)
#undef CUEMU_ATOMIC
template <class T>
static inline T atomicCAS(T* place, typename cuemu::Plain<T>::type expected, typename cuemu::Plain<T>::type value) {
    cuemu::pause();
    T const old = *place;
    if (old == expected) *place = value;
    return old;
}

static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll(static_cast<unsigned long long>(v)) : 64; }
template <class T>
static inline T __ldg(const T* p) {
    return *p;
}

static inline unsigned __float_as_uint(float v) { return unsigned(cuemu::pack(v)); }
static inline int __float_as_int(float v) { return int(cuemu::pack(v)); }
static inline float __uint_as_float(unsigned v) {
    float f;
    memcpy(&f, &v, sizeof f);
    return f;
}
static inline float __int_as_float(int v) { return __uint_as_float(unsigned(v)); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
// A GPU saturates where C++ leaves the conversion undefined, and turns NaN into 0.
static inline int __float2int_rz(float v) {
    return v != v ? 0 : v >= 2147483648.f ? INT32_MAX : v < -2147483648.f ? INT32_MIN : int(v);
}
static inline int __float2int_rn(float v) { return __float2int_rz(std::nearbyint(v)); }
static inline int __float2int_rd(float v) { return __float2int_rz(std::floor(v)); }
static inline unsigned __float2uint_rn(float v) {
    float const r = std::nearbyint(v);
    return !(r > 0) ? 0 : r >= 4294967296.f ? UINT32_MAX : unsigned(r);
}
static inline float __saturatef(float v) { return v > 0 ? std::min(v, 1.f) : 0.f; }
#define __expf(x) expf(x)

#define CUEMU_MIN_MAX(type) \
    static inline type min(type a, type b) { return b < a ? b : a; } \
    static inline type max(type a, type b) { return a < b ? b : a; }
CUEMU_MIN_MAX(int)
CUEMU_MIN_MAX(unsigned)
CUEMU_MIN_MAX(long long)
CUEMU_MIN_MAX(unsigned long long)
#undef CUEMU_MIN_MAX
// With NaN a GPU's min and max give the other operand, as fminf and fmaxf do.
static inline float min(float a, float b) { return std::fmin(a, b); }
static inline float max(float a, float b) { return std::fmax(a, b); }
static inline double min(double a, double b) { return std::fmin(a, b); }
static inline double max(double a, double b) { return std::fmax(a, b); }
using std::isfinite;
using std::isinf;
using std::isnan;
