// One convolution with 2:4 weights on Hopper: y = act(conv(x, w) + bias [+ residual]), NHWC, fp16 or bf16, fp32 sums.
//
// The weight is the sparse operand A of wgmma.mma_async.sp (rows: output channels), the pixels are operand B (columns).
// Pixels are numbered q = (b * QH + y) * QW + x in a grid that is a little larger than the output, so that a filter tap
// is a constant shift of q: a block loads each input pixel once per 64 channels into a "patch" of 128-byte rows, and
// every tap reads the same patch through a descriptor that starts some rows further down. With a stride s the taps fall
// into s * s groups (by the remainder of their position), each with a patch of its own. One tap per group and QW = OW
// is the plain implicit GEMM ("gather"), which wastes no column but loads a patch per tap.
//
// Warps: WGM consumer warpgroups of MT * 64 rows each; then a warp that copies the packed weights (cp.async.bulk, shared
// by CLUSTER_N blocks of a cluster) and LOADER_WARPS that load patches (cp.async).
// SPLIT_K blocks of a cluster share the reduction and add up through each other's shared memory.
//
// The prelude (runtime/cuda/semi_structured.py) defines wgmma_sp<SELECTOR>(acc, a, b, meta) for TILE_N columns.
#include "prelude.h"

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int MAX_TAPS = 64;
constexpr int TILE_M = 64 * MT * WGM;
constexpr int BLOCKS_M = MT * WGM;
constexpr int CONSUMERS = 128 * WGM;
constexpr int LOADERS = 32 * LOADER_WARPS;
constexpr int THREADS = CONSUMERS + 32 + LOADERS;
constexpr int CLUSTER = CLUSTER_N * SPLIT_K;
constexpr int BLOCK_VALUES = 64 * 64;                // bytes of the values of 64 channels x 64 (32 kept) inputs
constexpr int BLOCK_BYTES = BLOCK_VALUES + 128 * 4;  // and their metadata, a word per thread
constexpr int STAGE_BYTES = BLOCKS_M * BLOCK_BYTES;
constexpr int PITCH = TILE_M + 4;                    // floats; + 4: no bank conflicts when fragments are put down

struct Params {
  const u8* x;
  const u8* weight;
  const float* bias;
  const u8* residual;
  u8* y;
  int batch, channels, height, width;
  int outputs, out_height, out_width, grid_height, grid_width;
  int stride_h, stride_w;
  int rows, chunks, groups, taps, relu;
  short group_first[MAX_TAPS + 1];  // where a group's taps begin
  short group_y[MAX_TAPS], group_x[MAX_TAPS];
  short tap[MAX_TAPS], tap_row[MAX_TAPS];  // place in the packed weight; rows by which its pixels are shifted
};

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void barrier_init(u32 bar, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count));
}
__device__ __forceinline__ void barrier_wait(u32 bar, u32 parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(bar), "r"(parity) : "memory");
}
__device__ __forceinline__ void barrier_expect(u32 bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
__device__ __forceinline__ u32 in_block(u32 address, u32 rank) {
  u32 there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
__device__ __forceinline__ void barrier_arrive_in(u32 bar, u32 rank) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(in_block(bar, rank)) : "memory");
}
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ u32 cluster_rank() {
  u32 rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void consumers_sync() { asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS) : "memory"); }

__device__ __forceinline__ u64 descriptor(u32 address, u32 leading, u32 stride, u32 swizzle, u32 offset) {
  u64 d = (address >> 4) & 0x3FFF;
  d |= (u64)(leading >> 4) << 16;
  d |= (u64)(stride >> 4) << 32;
  d |= (u64)offset << 49;
  return d | (u64)swizzle << 62;
}
#if BASE_OFFSET
#define PHASE(address) (((address) >> 7) & 7)
#else
#define PHASE(address) 0
#endif
// A: cores of 8 x 16 bytes, 1024 bytes apart along the inputs, 128 along the channels. B: rows of 128 bytes, swizzled.
#if SWAP_STRIDES
#define A_DESCRIPTOR(address) descriptor(address, 128, 1024, 0, 0)
#else
#define A_DESCRIPTOR(address) descriptor(address, 1024, 128, 0, 0)
#endif
#define B_DESCRIPTOR(address) descriptor(address, 16, 1024, 1, PHASE(address))

__device__ __forceinline__ float2 widen(u32 pair) {
  float2 r;
#if BF16
  r.x = __uint_as_float(pair << 16);
  r.y = __uint_as_float(pair & 0xFFFF0000u);
#else
  asm("{\n.reg .b16 lo, hi;\nmov.b32 {lo, hi}, %2;\ncvt.f32.f16 %0, lo;\ncvt.f32.f16 %1, hi;\n}"
      : "=f"(r.x), "=f"(r.y) : "r"(pair));
#endif
  return r;
}
__device__ __forceinline__ u32 narrow(float lo, float hi) {
  u32 pair;
#if BF16
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(hi), "f"(lo));
#else
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(hi), "f"(lo));
#endif
  return pair;
}

struct Span {  // chunks (64 channels of one group) that a block adds up
  int first, last;
};
__device__ __forceinline__ Span my_chunks(const Params& p) {
  int part = SPLIT_K == 1 ? 0 : blockIdx.z;
  return {p.chunks * part / SPLIT_K, p.chunks * (part + 1) / SPLIT_K};
}

__device__ __forceinline__ void load_weights(const Params& p, u32 stages, u32 full, u32 empty) {
  Span span = my_chunks(p);
  u32 rank = CLUSTER_N == 1 ? 0 : blockIdx.x % CLUSTER_N;
  int last_block = (p.outputs + 63) / 64 - 1;
  size_t row = (size_t)(p.chunks / p.groups) * p.taps * BLOCK_BYTES;
  int slot = 0;
  u32 phase = 0;
  for (int chunk = span.first; chunk < span.last; chunk++) {
    int group = chunk % p.groups, channel_block = chunk / p.groups;
    for (int t = p.group_first[group]; t < p.group_first[group + 1]; t++) {
      barrier_wait(empty + slot * 8, phase ^ 1);
#if ABLATE & 1
      barrier_arrive(full + slot * 8);
      if (++slot == A_STAGES) slot = 0, phase ^= 1;
      continue;
#endif
      barrier_expect(full + slot * 8, STAGE_BYTES);
      const u8* step = p.weight + ((size_t)channel_block * p.taps + p.tap[t]) * BLOCK_BYTES;
#pragma unroll
      for (int i = 0; i < BLOCKS_M; i++) {
        if (i % CLUSTER_N != rank) continue;
        const u8* from = step + row * min((int)blockIdx.y * BLOCKS_M + i, last_block);
        u32 to = stages + slot * STAGE_BYTES + i * BLOCK_BYTES;
#if CLUSTER_N > 1
        unsigned short mask = ((1 << CLUSTER_N) - 1) << (cluster_rank() / CLUSTER_N * CLUSTER_N);
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;"
            ::"r"(to), "l"(from), "n"(BLOCK_BYTES), "r"(full + slot * 8), "h"(mask) : "memory");
#else
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                     ::"r"(to), "l"(from), "n"(BLOCK_BYTES), "r"(full + slot * 8) : "memory");
#endif
      }
      if (++slot == A_STAGES) slot = 0, phase ^= 1;
    }
  }
}

__device__ __forceinline__ void load_patches(const Params& p, int thread, const int2* table, u32 patches, int patch_bytes,
                                             u32 full, u32 empty) {
  Span span = my_chunks(p);
  int piece = thread & 7;
  int slot = 0;
  u32 phase = 0;
  for (int chunk = span.first; chunk < span.last; chunk++) {
    int group = chunk % p.groups, channel = chunk / p.groups * 64 + piece * 8;
    int gy = p.group_y[group], gx = p.group_x[group];
    const u8* from = p.x + ((long long)(gy * p.width + gx) * p.channels + channel) * 2;
    u32 to = patches + slot * patch_bytes;
    bool inside = channel < p.channels;
    barrier_wait(empty + slot * 8, phase ^ 1);
#pragma unroll 4
    for (int row = thread >> 3; row < (ABLATE & 2 ? 0 : p.rows); row += LOADERS / 8) {
      int2 at = table[row];
      bool ok = inside && (u32)((at.y >> 16) + gy) < (u32)p.height && (u32)((at.y & 0xFFFF) + gx) < (u32)p.width;
      const u8* source = ok ? from + (long long)at.x * p.channels * 2 : p.x;
      asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(to + row * 128 + ((piece ^ (row & 7)) << 4)),
                   "l"(source), "r"(ok ? 16 : 0) : "memory");
    }
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(full + slot * 8) : "memory");
    if (++slot == B_STAGES) slot = 0, phase ^= 1;
  }
}

// The last: all of it done, put down as floats [pixel][channel]; then 8 channels of a pixel at a time.
__device__ __forceinline__ void put_down(float (&acc)[MT][TILE_N / 2], float* staged) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < MT; m++) {
    float* to = staged + (lane % 4) * 2 * PITCH + (warp / 4 * MT + m) * 64 + warp % 4 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < TILE_N / 8; i++) {
      float* at = to + i * 8 * PITCH;
      at[0] = acc[m][i * 4];
      at[PITCH] = acc[m][i * 4 + 1];
      at[8] = acc[m][i * 4 + 2];
      at[PITCH + 8] = acc[m][i * 4 + 3];
    }
  }
}

__device__ __forceinline__ void load8(float (&v)[8], const float* staged, int at) {
  const float4* q = (const float4*)(staged + at);
  float4 a = q[0], b = q[1];
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
__device__ __forceinline__ void add8(float (&v)[8], u32 address) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float4 a;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(a.x), "=f"(a.y), "=f"(a.z), "=f"(a.w) : "r"(address + h * 16) : "memory");
    v[h * 4] += a.x, v[h * 4 + 1] += a.y, v[h * 4 + 2] += a.z, v[h * 4 + 3] += a.w;
  }
}

__device__ __forceinline__ float activate(float v, int relu) { return relu && v < 0.f ? 0.f : v; }

__device__ __forceinline__ void store_tile(const Params& p, const float* staged, const int* pixel_of) {
  constexpr int PIECES = TILE_M / 8, PIXELS = TILE_N / SPLIT_K, STEP = CONSUMERS / PIECES;
  int part = SPLIT_K == 1 ? 0 : blockIdx.z;
  int piece = threadIdx.x % PIECES, channel = blockIdx.y * TILE_M + piece * 8;
  if (channel >= p.outputs) return;
  bool whole = p.outputs % 8 == 0;
  float bias[8];
#pragma unroll
  for (int i = 0; i < 8; i++) bias[i] = channel + i < p.outputs ? p.bias[channel + i] : 0.f;
#pragma unroll 2
  for (int n = part * PIXELS + threadIdx.x / PIECES; n < (part + 1) * PIXELS; n += STEP) {
    int pixel = pixel_of[n];
    if (pixel < 0) continue;
    float v[8];
    load8(v, staged, n * PITCH + piece * 8);
#if SPLIT_K > 1
    u32 mine = cluster_rank(), address = shared_address(staged + n * PITCH + piece * 8);
#pragma unroll
    for (int other = 1; other < SPLIT_K; other++)
      add8(v, in_block(address, (mine + other * CLUSTER_N) % CLUSTER));
#endif
    size_t at = ((size_t)pixel * p.outputs + channel) * 2;
    if (whole) {
      uint4 r = p.residual ? *(const uint4*)(p.residual + at) : make_uint4(0, 0, 0, 0);
      u32 words[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float2 add = widen(words[i]);
        words[i] = narrow(activate(v[2 * i] + bias[2 * i] + add.x, p.relu),
                          activate(v[2 * i + 1] + bias[2 * i + 1] + add.y, p.relu));
      }
      *(uint4*)(p.y + at) = make_uint4(words[0], words[1], words[2], words[3]);
    } else {
      for (int i = 0; i < 8 && channel + i < p.outputs; i++) {
        u32 r = p.residual ? ((const unsigned short*)(p.residual + at))[i] : 0;
        ((unsigned short*)(p.y + at))[i] = (unsigned short)narrow(activate(v[i] + bias[i] + widen(r).x, p.relu), 0.f);
      }
    }
  }
}

__device__ __forceinline__ void multiply(const Params& p, float (&acc)[MT][TILE_N / 2], u32 patches, int patch_bytes,
                                         u32 stages, u32 full_a, u32 empty_a, u32 full_b, u32 empty_b) {
  Span span = my_chunks(p);
  int group_of = threadIdx.x / 128;
  bool signals = threadIdx.x % 32 == 0;
  int slot_a = 0, slot_b = 0, held_a = -1, held_b = -1;
  u32 phase_a = 0, phase_b = 0;
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int i = 0; i < TILE_N / 2; i++) acc[m][i] = 0.f;
  for (int chunk = span.first; chunk < span.last; chunk++) {
    int group = chunk % p.groups;
    barrier_wait(full_b + slot_b * 8, phase_b);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // cp.async writes, wgmma reads
    for (int t = p.group_first[group]; t < p.group_first[group + 1]; t++) {
      u32 a = stages + slot_a * STAGE_BYTES + group_of * MT * BLOCK_BYTES;
      u32 b = patches + slot_b * patch_bytes + p.tap_row[t] * 128;
      barrier_wait(full_a + slot_a * 8, phase_a);
      u32 meta[MT];
#pragma unroll
      for (int m = 0; m < MT; m++)
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(meta[m])
                     : "r"(a + m * BLOCK_BYTES + BLOCK_VALUES + (threadIdx.x % 128) * 4) : "memory");
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#if !(ABLATE & 4)
#pragma unroll
      for (int m = 0; m < MT; m++) wgmma_sp<0>(acc[m], A_DESCRIPTOR(a + m * BLOCK_BYTES), B_DESCRIPTOR(b), meta[m]);
#pragma unroll
      for (int m = 0; m < MT; m++)
        wgmma_sp<1>(acc[m], A_DESCRIPTOR(a + m * BLOCK_BYTES + BLOCK_VALUES / 2), B_DESCRIPTOR(b + 64), meta[m]);
#endif
      asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 1;" ::: "memory");
      if (held_a >= 0 && signals) {
        if (CLUSTER_N == 1) {
          barrier_arrive(empty_a + held_a * 8);
        } else {
          u32 first = cluster_rank() / CLUSTER_N * CLUSTER_N;
          for (u32 i = 0; i < CLUSTER_N; i++) barrier_arrive_in(empty_a + held_a * 8, first + i);
        }
      }
      if (held_b >= 0) {
        if (signals) barrier_arrive(empty_b + held_b * 8);
        held_b = -1;
      }
      held_a = slot_a;
      if (++slot_a == A_STAGES) slot_a = 0, phase_a ^= 1;
    }
    held_b = slot_b;
    if (++slot_b == B_STAGES) slot_b = 0, phase_b ^= 1;
  }
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) conv(const __grid_constant__ Params p) {
  extern __shared__ u8 shared[];
  // barriers, tables, then (aligned: the swizzle is of addresses) the patches and the weights' stages
  u64* barriers = (u64*)shared;
  int* pixel_of = (int*)(shared + 256);
  int2* table = (int2*)(shared + 256 + TILE_N * 4);
  u32 start = (shared_address(shared) + 256 + TILE_N * 4 + p.rows * 8 + 1023) & ~1023u;
  float* staged = (float*)(shared + (start - shared_address(shared)));
  int patch_bytes = (p.rows * 128 + 1023) & ~1023;
  u32 stages = start + B_STAGES * patch_bytes;
  u32 full_a = shared_address(barriers), empty_a = full_a + A_STAGES * 8;
  u32 full_b = empty_a + A_STAGES * 8, empty_b = full_b + B_STAGES * 8;

  if (threadIdx.x == 0) {
    for (int i = 0; i < A_STAGES; i++) {
      barrier_init(full_a + i * 8, 1);
      barrier_init(empty_a + i * 8, 4 * WGM * CLUSTER_N);
    }
    for (int i = 0; i < B_STAGES; i++) {
      barrier_init(full_b + i * 8, LOADERS);
      barrier_init(empty_b + i * 8, 4 * WGM);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  for (int row = threadIdx.x; row < p.rows; row += THREADS) {
    int q = blockIdx.x * TILE_N + row;
    int x = q % p.grid_width, y = q / p.grid_width, b = y / p.grid_height;
    y -= b * p.grid_height;
    int iy = y * p.stride_h, ix = x * p.stride_w;
    table[row] = make_int2((b * p.height + iy) * p.width + ix, b < p.batch ? iy << 16 | ix : 0x7FFF << 16);
    if (row < TILE_N) {
      bool ok = b < p.batch && y < p.out_height && x < p.out_width;
      pixel_of[row] = ok ? (b * p.out_height + y) * p.out_width + x : -1;
    }
  }
  __syncthreads();
  if (CLUSTER > 1) cluster_sync();

  if (threadIdx.x >= CONSUMERS) {
#if PRODUCER_REGISTERS
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
#endif
    int thread = threadIdx.x - CONSUMERS;
    if (thread == 0) {
      load_weights(p, stages, full_a, empty_a);
    } else if (thread >= 32) {
      asm volatile("griddepcontrol.wait;" ::: "memory");
      load_patches(p, thread - 32, table, start, patch_bytes, full_b, empty_b);
    }
    __syncwarp();
    if (CLUSTER > 1) cluster_sync(), cluster_sync();
  } else {
#if PRODUCER_REGISTERS
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
#endif
    float acc[MT][TILE_N / 2];
    multiply(p, acc, start, patch_bytes, stages, full_a, empty_a, full_b, empty_b);
    consumers_sync();
    put_down(acc, staged);
    if (CLUSTER > 1) {
      cluster_sync();
    } else {
      consumers_sync();
    }
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
    store_tile(p, staged, pixel_of);
    if (CLUSTER > 1) cluster_sync();
  }
}
