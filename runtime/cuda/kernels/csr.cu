// Sparse direct convolution on CUDA cores: y = activation(conv(x) + bias + residual), channels last.
//
// A block holds Q pieces of output (TILE_ROWS x LANE_COLUMNS pixels each, of any pictures) and WARPS * G output
// channels. It brings CHUNK quads of input channels at a time to shared memory, one plane of pixels per channel with a
// halo of zeros, so that no tap has to ask where the picture ends. Each warp then walks the non-zeros of its G channels,
// one channel after another: a non-zero is a weight and a place in shared memory, the same for all lanes, and is used
// for all pixels that a lane holds in registers. Types of 16 bits are held in pairs, one pixel of each of two pieces to
// a word: shared memory gives 32 words a cycle, and that is what limits the kernel.
//
// All sizes are macros: runtime/cuda/csr.py defines them from the geometry and compiles this file for each.

#if ELEMENT_BITS == 32
typedef float element;
#define PAIR 1
#else
typedef unsigned short element;
#define PAIR 2
#endif

#define THREADS (32 * WARPS)
#define WORDS (Q / PAIR * STEPS)  // words of shared memory that a lane reads per non-zero
#define PIECE (STORED_ROWS * PITCH)

#ifndef EMULATED  // tests/cuda runs this file on a CPU and brings its own
// Without cuda_fp16.h, which a machine that only runs a network may lack.
__device__ __forceinline__ float half_to_float(unsigned int bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"((unsigned short)bits));
  return value;
}

__device__ __forceinline__ unsigned short float_to_half(float value) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

__device__ __forceinline__ unsigned short float_to_bfloat(float value) {
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
#endif

__device__ __forceinline__ float widen(unsigned int bits) {
#if ELEMENT_BITS == 32
  return __uint_as_float(bits);
#elif BFLOAT
  return __uint_as_float(bits << 16);
#else
  return half_to_float(bits);
#endif
}

__device__ __forceinline__ element narrow(float value) {
#if ELEMENT_BITS == 32
  return value;
#elif BFLOAT
  return float_to_bfloat(value);
#else
  return float_to_half(value);
#endif
}

__device__ __forceinline__ float as_float(element value) {
#if ELEMENT_BITS == 32
  return value;
#else
  return widen(value);
#endif
}

struct alignas(4 * sizeof(element)) Quad {
  element channel[4];
};

// Channels 4 * quad to 4 * quad + 3 of one input pixel; zeros outside of the picture and past the last channel.
__device__ __forceinline__ Quad read(const element* __restrict__ x, int piece, int row, int column, int quad) {
  Quad value;
#pragma unroll
  for (int i = 0; i < 4; ++i) value.channel[i] = element(0);
  const int picture = piece / (TILES_DOWN * TILES_ACROSS), tile = piece % (TILES_DOWN * TILES_ACROSS);
  const int h = (tile / TILES_ACROSS * TILE_ROWS) * STRIDE_H - PAD_H + row * ROW_STEP;
  const int w = (tile % TILES_ACROSS * LANE_COLUMNS) * STRIDE_W - PAD_W + column;
  if (piece < PIECES && h >= 0 && h < HEIGHT && w >= 0 && w < WIDTH) {
    const element* from = x + ((long long)(picture * HEIGHT + h) * WIDTH + w) * CHANNELS + 4 * quad;
#if CHANNELS % 4 == 0
    value = *reinterpret_cast<const Quad*>(from);
#else
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (4 * quad + i < CHANNELS) value.channel[i] = from[i];
#endif
  }
  return value;
}

// Brings the quads from `first` on to shared memory. Eight lanes read neighbouring quads of a pixel and four lanes
// neighbouring pixels: whole lines from memory, and no two lanes in one bank, as PLANE is odd.
__device__ __forceinline__ void load(const element* __restrict__ x, const int* __restrict__ quads, int first,
                                     unsigned int* shared, int thread) {
  const int count = QUADS - first < CHUNK ? QUADS - first : CHUNK;
#pragma unroll 4
  for (int i = thread; i < CHUNK * ((PLANE + 3) / 4 * 4); i += THREADS) {
    const int rest = i / 32, quad = rest % (CHUNK / 8) * 8 + i % 8, slot = rest / (CHUNK / 8) * 4 + i / 8 % 4;
    const int in_row = slot % PITCH, row = slot / PITCH % STORED_ROWS, pair = slot / PIECE;
    const int column = in_row % PHASE_PITCH * STRIDE_W + in_row / PHASE_PITCH;
    if (quad < count && slot < PLANE) {
      const int channels = quads[first + quad];
      unsigned int* to = shared + 4 * quad * PLANE + slot;
      const Quad low = read(x, blockIdx.x * Q + PAIR * pair, row, column, channels);
#if PAIR == 2
      const Quad high = read(x, blockIdx.x * Q + PAIR * pair + 1, row, column, channels);
#endif
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#if PAIR == 2
        to[k * PLANE] = low.channel[k] | (unsigned int)high.channel[k] << 16;
#else
        to[k * PLANE] = __float_as_uint(low.channel[k]);
#endif
      }
    }
  }
}

// Adds one non-zero to all pixels of a lane.
__device__ __forceinline__ void add(float (&sums)[WORDS * PAIR], const char* lane, unsigned int offset, float weight) {
  const unsigned int* from = reinterpret_cast<const unsigned int*>(lane + offset);
#pragma unroll
  for (int i = 0; i < WORDS; ++i) {
    const unsigned int word = from[i / STEPS * PIECE + i % STEPS * (LANE_ROWS * LANE_ROW_STEP * PITCH)];
#if PAIR == 2
    sums[2 * i] += weight * widen(word & 0xffff);
    sums[2 * i + 1] += weight * widen(word >> 16);
#else
    sums[i] += weight * widen(word);
#endif
  }
}

struct alignas(16) Offsets {
  unsigned int at[4];
};
struct alignas(16) Weights {
  float of[4];
};
struct Entry {  // four non-zeros of one output channel; offsets in bytes
  Offsets offsets;
  Weights weights;
};

struct alignas(VECTOR * sizeof(element)) Vector {
  element channel[VECTOR];
};

// Bias, residual and activation of G channels of a pixel, VECTOR channels at a time.
__device__ __forceinline__ void store(const float (&sums)[G][WORDS * PAIR], int i, int channel, long long pixel,
                                      const float* __restrict__ bias, const element* __restrict__ residual,
                                      element* __restrict__ y) {
#pragma unroll
  for (int j = 0; j < G; j += VECTOR) {
    if (channel + j < OUTPUTS) {
      Vector out;
#if RESIDUAL
      const Vector added = *reinterpret_cast<const Vector*>(residual + pixel * OUTPUTS + channel + j);
#endif
#pragma unroll
      for (int k = 0; k < VECTOR; ++k) {
        float value = sums[j + k][i] + bias[channel + j + k];
#if RESIDUAL
        value += as_float(added.channel[k]);
#endif
#if RELU
        value = value < 0.0f ? 0.0f : value;  // a NaN stays one
#endif
        out.channel[k] = narrow(value);
      }
      *reinterpret_cast<Vector*>(y + pixel * OUTPUTS + channel + j) = out;
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    st3_csr(const element* __restrict__ x, const Entry* __restrict__ entries, const int* __restrict__ starts,
            const int* __restrict__ quads, const float* __restrict__ bias, const element* __restrict__ residual,
            element* __restrict__ y) {
  extern __shared__ unsigned int shared[];
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int lane_row = lane / LANE_COLUMNS % LANE_ROWS, lane_column = lane % LANE_COLUMNS;
  const char* own = reinterpret_cast<const char*>(shared + lane_row * LANE_ROW_STEP * PITCH + lane_column);
  float sums[G][WORDS * PAIR];
#pragma unroll
  for (int j = 0; j < G; ++j)
#pragma unroll
    for (int i = 0; i < WORDS * PAIR; ++i) sums[j][i] = 0.0f;

#pragma unroll 1
  for (int chunk = 0; chunk < CHUNKS; ++chunk) {
    if (chunk) __syncthreads();
    load(x, quads, chunk * CHUNK, shared, thread);
    __syncthreads();
    const int* rows = starts + ((blockIdx.y * CHUNKS + chunk) * WARPS + warp) * G;
    int at = rows[0];
    Entry next = entries[at];  // one entry more than there are lies at the end
#pragma unroll
    for (int j = 0; j < G; ++j) {
      const int end = rows[j + 1];
#pragma unroll 1
      while (at < end) {
        const Entry entry = next;
        next = entries[++at];
#pragma unroll
        for (int k = 0; k < 4; ++k) add(sums[j], own, entry.offsets.at[k], entry.weights.of[k]);
      }
    }
  }

  if (lane >= LANE_ROWS * LANE_COLUMNS) return;
#pragma unroll
  for (int i = 0; i < WORDS * PAIR; ++i) {
    const int word = i / PAIR, piece = blockIdx.x * Q + word / STEPS * PAIR + i % PAIR;
    const int picture = piece / (TILES_DOWN * TILES_ACROSS), tile = piece % (TILES_DOWN * TILES_ACROSS);
    const int h = tile / TILES_ACROSS * TILE_ROWS + word % STEPS * LANE_ROWS + lane_row;
    const int w = tile % TILES_ACROSS * LANE_COLUMNS + lane_column;
    if (piece < PIECES && h < OUT_HEIGHT && w < OUT_WIDTH)
      store(sums, i, (blockIdx.y * WARPS + warp) * G, (long long)(picture * OUT_HEIGHT + h) * OUT_WIDTH + w, bias,
            residual, y);
  }
}
