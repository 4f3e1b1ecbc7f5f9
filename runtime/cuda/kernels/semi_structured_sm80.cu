// One convolution with 2:4 weights on Ampere, Ada and later: y = act(conv(x, w) + bias [+ residual]), NHWC, fp16 or bf16,
// fp32 sums. An implicit matrix product: rows are output channels, columns are output pixels of the whole batch.
//
// The weight is the sparse operand A of mma.sp.m16n8k32, as compile/cuda/formats/semi_structured.py packs it: blocks of
// 64 channels x 64 inputs of one tap, their kept values in cores of 8 rows x 16 bytes (what ldmatrix reads without bank
// conflicts), then the metadata, one word per lane and 16 channels. The pixels of a tap are rows of 128 bytes (64
// inputs), their 16-byte pieces swizzled. A step is one tap of 64 inputs; STAGES - 1 steps are on their way (cp.async).
//
// WARPS_M x WARPS_N warps of 16 MI channels x 8 NI pixels each; all sizes are macros (runtime/cuda/semi_structured_sm80.py).

typedef unsigned char u8;
typedef unsigned int u32;

constexpr int TILE_M = 16 * MI * WARPS_M;
constexpr int TILE_N = 8 * NI * WARPS_N;
constexpr int THREADS = 32 * WARPS_M * WARPS_N;
constexpr int BLOCK_VALUES = 64 * 64;
constexpr int BLOCK_BYTES = BLOCK_VALUES + 128 * 4;
constexpr int WEIGHT_BYTES = TILE_M / 64 * BLOCK_BYTES;
constexpr int STAGE_BYTES = WEIGHT_BYTES + TILE_N * 128;
constexpr int PITCH = TILE_M + 4;  // floats; + 4: no bank conflicts when fragments are put down

struct Params {
  const u8* x;
  const u8* weight;
  const float* bias;
  const u8* residual;
  u8* y;
  int batch, channels, height, width;
  int outputs, out_height, out_width;
  int kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, relu;
};
struct Place {  // an output pixel's first input pixel: its index in x, and where it is
  int index;
  short y, x;
};
struct alignas(16) Quad {
  u32 word[4];
};

#ifndef EMULATED  // tests/cuda runs this file on a CPU and brings its own
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void copy16(u32 to, const u8* from, bool inside) {  // zeros where it is not inside
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int OPEN>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
}
__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ u32 load_word(u32 at) {
  u32 word;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(at) : "memory");
  return word;
}
#if BF16
#define TYPES "bf16.bf16"
#else
#define TYPES "f16.f16"
#endif
template <int SELECTOR>
__device__ __forceinline__ void multiply_add(float (&d)[4], const u32 (&a)[4], const u32 (&b)[4], u32 meta) {
  asm volatile(
      "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32." TYPES ".f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(meta),
        "n"(SELECTOR));
}
__device__ __forceinline__ float widen(u32 bits) {
#if BF16
  return __uint_as_float(bits << 16);
#else
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"((unsigned short)bits));
  return value;
#endif
}
__device__ __forceinline__ u32 narrow(float low, float high) {
  u32 pair;
#if BF16
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#else
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
  return pair;
}
#endif

struct Step {  // a tap of 64 inputs
  int block, r, s;
};
__device__ __forceinline__ void advance(const Params& p, Step& step) {
  if (++step.s < p.kernel_w) return;
  step.s = 0;
  if (++step.r < p.kernel_h) return;
  step.r = 0;
  step.block++;
}

__device__ __forceinline__ void load_step(const Params& p, const Step& step, const Place* places, u32 stage) {
  constexpr int PIECES = BLOCK_BYTES / 16;
  int thread = threadIdx.x, last = (p.outputs + 63) / 64 - 1;
  size_t taps = p.kernel_h * p.kernel_w, inputs = (p.channels + 63) / 64;
  const u8* weight = p.weight + (step.block * taps + step.r * p.kernel_w + step.s) * BLOCK_BYTES;
#pragma unroll
  for (int i = thread; i < WEIGHT_BYTES / 16; i += THREADS) {
    int row = blockIdx.y * (TILE_M / 64) + i / PIECES;
    copy16(stage + i * 16, weight + (row < last ? row : last) * inputs * taps * BLOCK_BYTES + i % PIECES * 16, true);
  }
  int piece = thread % 8, channel = step.block * 64 + piece * 8;
  int dy = step.r * p.dilation_h, dx = step.s * p.dilation_w, shift = dy * p.width + dx;
  u32 to = stage + WEIGHT_BYTES + ((piece ^ (thread / 8 % 8)) << 4);
#pragma unroll
  for (int row = thread / 8; row < TILE_N; row += THREADS / 8) {
    Place place = places[row];
    bool inside = channel < p.channels & (u32)(place.y + dy) < (u32)p.height & (u32)(place.x + dx) < (u32)p.width;
    const u8* from = p.x + ((long long)(place.index + shift) * p.channels + channel) * 2;
    copy16(to + row * 128, inside ? from : p.x, inside);
  }
}

template <int HALF>
__device__ __forceinline__ void multiply_half(float (&acc)[MI][NI][4], const u32 (&meta)[MI], u32 values, u32 pixels) {
  u32 a[MI][4];
#pragma unroll
  for (int m = 0; m < MI; m++)
    load_matrices(a[m], values + m / 4 * BLOCK_BYTES + m % 4 * 256 + HALF * (BLOCK_VALUES / 2));
#pragma unroll
  for (int n = 0; n < NI; n++) {
    u32 b[4];
    load_matrices(b, (pixels + n * 1024) ^ (HALF << 6));
#pragma unroll
    for (int m = 0; m < MI; m++) multiply_add<HALF>(acc[m][n], a[m], b, meta[m]);
  }
}

__device__ __forceinline__ void multiply(float (&acc)[MI][NI][4], u32 stage) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int first = warp / WARPS_N * MI, column = warp % WARPS_N * NI;  // in groups of 16 channels, of 8 pixels
  u32 block = stage + first / 4 * BLOCK_BYTES;
  u32 meta[MI];
#pragma unroll
  for (int m = 0; m < MI; m++)
    meta[m] = load_word(block + m / 4 * BLOCK_BYTES + BLOCK_VALUES + ((first % 4 + m % 4) * 32 + lane) * 4);
  // lane l gives ldmatrix the address of row l % 8 of matrix l / 8: rows 0-7 and 8-15 of kept values 0-7, then of 8-15
  u32 values = block + lane / 16 * 1024 + (first % 4 * 16 + lane % 16) * 16;
  u32 pixels = stage + WEIGHT_BYTES + (column * 8 + lane % 8) * 128 + ((lane / 8 ^ lane % 8) << 4);
  multiply_half<0>(acc, meta, values, pixels);
  multiply_half<1>(acc, meta, values, pixels);
}

__device__ __forceinline__ void put_down(const float (&acc)[MI][NI][4], float* staged) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float* corner = staged + (warp % WARPS_N * NI * 8 + lane % 4 * 2) * PITCH + warp / WARPS_N * MI * 16 + lane / 4;
#pragma unroll
  for (int m = 0; m < MI; m++)
#pragma unroll
    for (int n = 0; n < NI; n++) {
      float* at = corner + n * 8 * PITCH + m * 16;
      at[0] = acc[m][n][0];
      at[PITCH] = acc[m][n][1];
      at[8] = acc[m][n][2];
      at[PITCH + 8] = acc[m][n][3];
    }
}

__device__ __forceinline__ float activate(float v, int relu) { return relu && v < 0.f ? 0.f : v; }

// Eight channels of a pixel at a time.
__device__ __forceinline__ void store_tile(const Params& p, const float* staged, int pixels) {
  constexpr int PIECES = TILE_M / 8;
  int piece = threadIdx.x % PIECES, channel = blockIdx.y * TILE_M + piece * 8;
  if (channel >= p.outputs) return;
  bool whole = p.outputs % 8 == 0;
  float bias[8];
#pragma unroll
  for (int i = 0; i < 8; i++) bias[i] = channel + i < p.outputs ? p.bias[channel + i] : 0.f;
#pragma unroll 2
  for (int n = threadIdx.x / PIECES; n < TILE_N; n += THREADS / PIECES) {
    int pixel = blockIdx.x * TILE_N + n;
    if (pixel >= pixels) break;
    size_t at = ((size_t)pixel * p.outputs + channel) * 2;
    float sums[8];
#pragma unroll
    for (int i = 0; i < 8; i++) sums[i] = staged[n * PITCH + piece * 8 + i] + bias[i];
    if (whole) {
      Quad more = {{0, 0, 0, 0}};
      if (p.residual) more = *(const Quad*)(p.residual + at);
#pragma unroll
      for (int i = 0; i < 4; i++)
        more.word[i] = narrow(activate(sums[2 * i] + widen(more.word[i] & 0xFFFF), p.relu),
                              activate(sums[2 * i + 1] + widen(more.word[i] >> 16), p.relu));
      *(Quad*)(p.y + at) = more;
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++)
        if (channel + i < p.outputs) {
          float more = p.residual ? widen(((const unsigned short*)(p.residual + at))[i]) : 0.f;
          ((unsigned short*)(p.y + at))[i] = (unsigned short)narrow(activate(sums[i] + more, p.relu), 0.f);
        }
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) conv_sparse24(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) u8 shared[];
  Place* places = (Place*)shared;
  u32 stages = shared_address(shared) + TILE_N * 8;
  int pixels = p.batch * p.out_height * p.out_width;
  for (int n = threadIdx.x; n < TILE_N; n += THREADS) {
    int q = blockIdx.x * TILE_N + n;
    int x = q % p.out_width, y = q / p.out_width, b = y / p.out_height;
    y = (y - b * p.out_height) * p.stride_h - p.padding_h;
    x = x * p.stride_w - p.padding_w;
    places[n] = {(b * p.height + y) * p.width + x, (short)(q < pixels ? y : 0x7FFF), (short)x};
  }
  __syncthreads();

  int steps = (p.channels + 63) / 64 * p.kernel_h * p.kernel_w;
  Step step = {0, 0, 0};
  float acc[MI][NI][4];
#pragma unroll
  for (int i = 0; i < MI * NI * 4; i++) acc[i / (NI * 4)][i / 4 % NI][i % 4] = 0.f;
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) {
    if (i < steps) load_step(p, step, places, stages + i * STAGE_BYTES);
    advance(p, step);
    copies_end();
  }
  int slot = 0, next = STAGES - 1;
  for (int i = 0; i < steps; i++) {
    copies_wait<STAGES - 2>();
    __syncthreads();  // this step is here for all, and all are done with the last one, whose place the next one takes
    if (i + STAGES - 1 < steps) load_step(p, step, places, stages + next * STAGE_BYTES);
    advance(p, step);
    copies_end();
    multiply(acc, stages + slot * STAGE_BYTES);
    slot = slot + 1 == STAGES ? 0 : slot + 1;
    next = next + 1 == STAGES ? 0 : next + 1;
  }
  copies_wait<0>();
  __syncthreads();
  float* staged = (float*)(shared + TILE_N * 8);
  put_down(acc, staged);
  __syncthreads();
  store_tile(p, staged, pixels);
}
