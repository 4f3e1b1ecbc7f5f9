// Sparse direct convolution on CUDA cores: y = activation(conv(x) + bias + residual), channels last.
//
// A block holds Q * LANE_PIECES pieces of output (TILE_ROWS x LANE_COLUMNS pixels each, of any pictures) and WARPS * G
// output channels. It brings CHUNK packs (16 bytes) of input channels at a time to shared memory, pixel after pixel,
// with a halo of zeros, so that no tap has to ask where the picture ends. Each warp then walks the non-zeros of its G
// channels, one channel after another: a non-zero is a weight and a place in shared memory, the same for all lanes, and
// is used for all pixels that a lane holds in registers. Lanes are pixels, and a pixel takes an odd number of words
// (SLOT_PITCH): no two lanes meet in a bank. Types of 16 bits may be held in pairs (PAIR 2), one pixel of each of two
// pieces to a word: shared memory gives 32 words a cycle, and that is what limits the kernel where weights are many.
//
// All sizes are macros: runtime/cuda/csr.py defines them from the geometry and compiles this file for each.

#if ELEMENT_BITS == 32
typedef float element;
typedef unsigned int word;
#else
typedef unsigned short element;
#if PAIR == 2
typedef unsigned int word;
#else
typedef unsigned short word;  // what a lane reads at a time; shared memory is written by 4 bytes
#endif
#endif

#define THREADS (32 * WARPS)
#define WORDS (Q / PAIR * STEPS)  // that a lane reads per non-zero
#define PIECE (STORED_ROWS * PITCH)
#define PACK (16 / (int)sizeof(element))  // channels
#define LOADERS (32 / (4 * PAIR))         // lanes that load neighbouring packs of a pixel
#define LOADS (CHUNK / LOADERS < 1 ? 1 : CHUNK / LOADERS)
#define BATCH_OF_LOADS (LOADS < 4 ? LOADS : 4)

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

struct alignas(16) Words {
  unsigned int of[4];
};

// Where the first channel of a slot's pixel lies, null outside of the picture.
__device__ __forceinline__ const element* pixel(const element* __restrict__ x, int piece, int row, int column) {
  const int picture = piece / (TILES_DOWN * TILES_ACROSS), tile = piece % (TILES_DOWN * TILES_ACROSS);
  const int h = (tile / TILES_ACROSS * TILE_ROWS) * STRIDE_H - PAD_H + row * ROW_STEP;
  const int w = (tile % TILES_ACROSS * LANE_COLUMNS) * STRIDE_W - PAD_W + column;
  if (piece >= PIECES || h < 0 || h >= HEIGHT || w < 0 || w >= WIDTH) return nullptr;
  return x + ((long long)(picture * HEIGHT + h) * WIDTH + w) * CHANNELS;
}

// A pack of channels of that pixel; zeros for none and past the last channel.
__device__ __forceinline__ Words read(const element* from, int pack) {
  Words value = {{0, 0, 0, 0}};
  if (from) {
#if CHANNELS * ELEMENT_BITS % 128 == 0
    value = *reinterpret_cast<const Words*>(from + pack * PACK);
#else
#pragma unroll
    for (int i = 0; i < PACK; ++i)
      if (pack * PACK + i < CHANNELS) {
#if ELEMENT_BITS == 32
        value.of[i] = __float_as_uint(from[pack * PACK + i]);
#else
        value.of[i / 2] |= (unsigned int)from[pack * PACK + i] << i % 2 * 16;
#endif
      }
#endif
  }
  return value;
}

__device__ __forceinline__ void write(unsigned int* to, const Words& low, const Words& high) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
#if PAIR == 2
    to[2 * k] = (low.of[k] & 0xffff) | high.of[k] << 16;
    to[2 * k + 1] = low.of[k] >> 16 | (high.of[k] & 0xffff0000);
#else
    to[k] = low.of[k];
#endif
  }
}

// Brings the packs from `first` on to shared memory: whole sectors, and no two lanes of a store in one bank.
__device__ __forceinline__ void load(const element* __restrict__ x, const int* __restrict__ packs, int first,
                                     unsigned int* shared, int thread) {
  const int count = PACKS - first < CHUNK ? PACKS - first : CHUNK;
#pragma unroll 1
  for (int slot = thread / LOADERS; slot < SLOTS; slot += THREADS / LOADERS) {
    const int in_row = slot % PITCH, row = slot / PITCH % STORED_ROWS, pair = slot / PIECE;
    const int column = in_row % PHASE_PITCH * STRIDE_W + in_row / PHASE_PITCH;
    const int piece = blockIdx.x * (Q * LANE_PIECES) + PAIR * pair;
    const element* low = pixel(x, piece, row, column);
    const element* high = PAIR == 2 ? pixel(x, piece + 1, row, column) : nullptr;
    unsigned int* to = shared + slot * SLOT_PITCH;
#pragma unroll 1
    for (int begin = thread % LOADERS; begin < count; begin += LOADERS * BATCH_OF_LOADS) {
      Words lows[BATCH_OF_LOADS], highs[BATCH_OF_LOADS];  // all on their way before the first is waited for
#pragma unroll
      for (int i = 0; i < BATCH_OF_LOADS; ++i) {
        const int at = begin + i * LOADERS;
        const int pack = at < count ? packs[first + at] : 0;
        lows[i] = read(at < count ? low : nullptr, pack);
        highs[i] = read(at < count ? high : nullptr, pack);
      }
#pragma unroll
      for (int i = 0; i < BATCH_OF_LOADS; ++i)
        if (begin + i * LOADERS < count) write(to + (begin + i * LOADERS) * (4 * PAIR), lows[i], highs[i]);
    }
  }
}

// Adds one non-zero to all pixels of a lane.
__device__ __forceinline__ void add(float (&sums)[WORDS * PAIR], const char* lane, unsigned int offset, float weight) {
#pragma unroll
  for (int i = 0; i < WORDS; ++i) {
    const int slot = i / STEPS * LANE_PIECES * PIECE + i % STEPS * (LANE_ROWS * LANE_ROW_STEP * PITCH);
    const unsigned int value = *reinterpret_cast<const word*>(lane + offset + 4 * slot * SLOT_PITCH);
#if PAIR == 2
    sums[2 * i] += weight * widen(value & 0xffff);
    sums[2 * i + 1] += weight * widen(value >> 16);
#else
    sums[i] += weight * widen(value);
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
            const int* __restrict__ packs, const float* __restrict__ bias, const element* __restrict__ residual,
            element* __restrict__ y) {
  extern __shared__ unsigned int shared[];
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int lane_row = lane / LANE_COLUMNS % LANE_ROWS, lane_column = lane % LANE_COLUMNS;
  const int lane_piece = lane / (LANE_COLUMNS * LANE_ROWS) % LANE_PIECES;
  const int lane_slot = lane_piece * PIECE + lane_row * LANE_ROW_STEP * PITCH + lane_column;
  const char* own = reinterpret_cast<const char*>(shared + lane_slot * SLOT_PITCH);
  float sums[G][WORDS * PAIR];
#pragma unroll
  for (int j = 0; j < G; ++j)
#pragma unroll
    for (int i = 0; i < WORDS * PAIR; ++i) sums[j][i] = 0.0f;

#pragma unroll 1
  for (int chunk = 0; chunk < CHUNKS; ++chunk) {
    const int* rows = starts + ((blockIdx.y * CHUNKS + chunk) * WARPS + warp) * G;
    int ends[G + 1];  // read early: they arrive while activations do
#pragma unroll
    for (int j = 0; j <= G; ++j) ends[j] = rows[j];
    int at = ends[0];
    Entry next = entries[at];  // one entry more than there are lies at the end
    if (chunk) __syncthreads();
    load(x, packs, chunk * CHUNK, shared, thread);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < G; ++j) {
#pragma unroll 1
      while (at < ends[j + 1]) {
        const Entry entry = next;
        next = entries[++at];
#pragma unroll
        for (int k = 0; k < 4; ++k) add(sums[j], own, entry.offsets.at[k], entry.weights.of[k]);
      }
    }
  }

  if (lane >= LANE_PIECES * LANE_ROWS * LANE_COLUMNS) return;
#pragma unroll
  for (int i = 0; i < WORDS * PAIR; ++i) {
    const int step = i / PAIR % STEPS, pair = i / PAIR / STEPS * LANE_PIECES + lane_piece;
    const int piece = blockIdx.x * (Q * LANE_PIECES) + pair * PAIR + i % PAIR;
    const int picture = piece / (TILES_DOWN * TILES_ACROSS), tile = piece % (TILES_DOWN * TILES_ACROSS);
    const int h = tile / TILES_ACROSS * TILE_ROWS + step * LANE_ROWS + lane_row;
    const int w = tile % TILES_ACROSS * LANE_COLUMNS + lane_column;
    if (piece < PIECES && h < OUT_HEIGHT && w < OUT_WIDTH)
      store(sums, i, (blockIdx.y * WARPS + warp) * G, (long long)(picture * OUT_HEIGHT + h) * OUT_WIDTH + w, bias,
            residual, y);
  }
}
