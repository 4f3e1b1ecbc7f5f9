// One convolution with 2:4 weights on Hopper: y = act(conv(x, w) + bias [+ residual]), NHWC, fp16 or bf16, fp32 sums.
//
// The weight is the sparse operand A of wgmma.mma_async.sp (rows: output channels), the pixels are operand B (columns).
// Pixels are numbered q = (b * QH + y) * QW + x in a grid that is a little larger than the output, so that a filter tap
// is a constant shift of q: a block loads each input pixel once per 64 channels into a "patch" of 128-byte rows, and
// every tap reads the same patch through a descriptor that starts some rows further down. With a stride s the taps fall
// into s * s groups (by the remainder of their position), each with a patch of its own. One tap per group and QW = OW
// is the plain implicit GEMM ("gather"), which wastes no column but loads a patch per tap.
// A patch is one im2col copy of the TMA unit: its bounding box is the grid, what lies outside of x becomes zero.
//
// What bounds it: shared memory gives 128 bytes a clock, and m64nNk32 reads 64 N bytes of B and 2048 of A in its N / 2
// clocks: the ceiling over dense wgmma is N / (N / 2 + 16): 1.6 for N = 128, 1.78 for N = 256, less what loads write.
// With A in registers (DIRECT) the reads of A fall away.
//
// Warps: WGM consumer warpgroups of MT * 64 rows each; then, if weights are staged, a warp that copies them packed
// (cp.async.bulk), and one that copies patches. With DIRECT (A_STAGES = 0) the consumers read the weights from global
// memory into the registers that wgmma takes A from, SETS - 1 steps ahead, and shared memory holds patches alone.
// SHARE blocks of a cluster (other channels, same pixels) load every SHARE-th patch for all of them; SPLIT_K blocks of
// a cluster share the reduction and add up through each other's shared memory.
//
// The prelude (runtime/cuda/semi_structured_sm90.py) defines for TILE_N columns wgmma_sp<SELECTOR>(acc, a, b, meta,
// more), A from shared memory, and wgmma_sp_direct<SELECTOR>(acc, a0, a1, a2, a3, b, meta, more), A from registers.
// `more` 0: the sums begin at zero.
#include "prelude.h"
#include "semi_structured_sm90_load.h"
#include "semi_structured_sm90_store.h"

struct Walk {  // where a consumer is
  int left, t, entry, ahead;  // steps; the next tap, the tap_row of this and of the next
  int slot_a, slot_b, held_a, held_b, add;  // add: 0 at first, the sums begin there
  u32 phase_a, phase_b;
  bool fresh;  // the first step of a patch
};

__device__ __forceinline__ Walk begin(const Params& p) {
  Span span = my_chunks(p);
  int first = p.group_first[span.first % p.groups];
  int end = span.last / p.groups * p.taps + p.group_first[span.last % p.groups];
  int left = end - span.first / p.groups * p.taps - first;
  int next = first + 1 == p.taps ? 0 : first + 1;
  return {left, next, p.tap_row[first], p.tap_row[next], 0, 0, -1, -1, 0, 0, 0, true};
}

__device__ __forceinline__ void release(Walk& at, u32 empty_a, u32 empty_b) {
  if (threadIdx.x % 32 == 0) {
    if (!DIRECT && at.held_a >= 0) barrier_arrive(empty_a + at.held_a * 8);
    if (at.held_b >= 0) {
#if SHARE == 1
      barrier_arrive(empty_b + at.held_b * 8);
#else
      u32 first = cluster_rank() / SHARE * SHARE;
#pragma unroll
      for (u32 i = 0; i < SHARE; i++) barrier_arrive_in(empty_b + at.held_b * 8, first + i);
#endif
    }
  }
  at.held_b = -1;
}

__device__ __forceinline__ void advance(const Params& p, Walk& at) {
  at.add = 1;
#if A_STAGES
  at.held_a = at.slot_a;
  if (++at.slot_a == A_STAGES) at.slot_a = 0, at.phase_a ^= 1;
#endif
  at.fresh = at.entry & 1;
  if (at.fresh) {
    at.held_b = at.slot_b;
    if (++at.slot_b == B_STAGES) at.slot_b = 0, at.phase_b ^= 1;
  }
  if (++at.t == p.taps) at.t = 0;
  at.entry = at.ahead;
  at.ahead = p.tap_row[at.t];  // used a step later: not waited for
  at.left--;
}

// The tensor cores read metadata (and A) from the registers named in the instruction while it runs, not when it is
// issued, and ptxas does not know: a word loaded into the register of an instruction still in flight breaks its result.
#if A_STAGES
// One tap of 64 channels. Either nothing is in flight when metadata is loaded (DEEP = 0), or two sets of registers take
// turns, and the older one is kept alive (`never` is false) until its instructions have retired.
__device__ __forceinline__ void step(const Params& p, Walk& at, float (&acc)[MT][TILE_N / 2], u32 (&meta)[MT],
                                     u32 (&older)[MT], bool never, u32 patches, int patch_bytes, u32 stages, u32 full_a,
                                     u32 empty_a, u32 full_b, u32 empty_b) {
  u32 a = stages + at.slot_a * STAGE_BYTES + threadIdx.x / 128 * MT * BLOCK_BYTES;
  u32 b = patches + at.slot_b * patch_bytes + (at.entry >> 1) * 128;
  barrier_wait(full_a + at.slot_a * 8, at.phase_a);
  if (at.fresh) barrier_wait(full_b + at.slot_b * 8, at.phase_b);
#if !DEEP
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  release(at, empty_a, empty_b);
#endif
#pragma unroll
  for (int m = 0; m < MT; m++)
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(meta[m])
                 : "r"(a + m * BLOCK_BYTES + BLOCK_VALUES + (threadIdx.x % 128) * 4) : "memory");
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int m = 0; m < MT; m++) wgmma_sp<0>(acc[m], A_DESCRIPTOR(a + m * BLOCK_BYTES), B_DESCRIPTOR(b), meta[m], at.add);
#pragma unroll
  for (int m = 0; m < MT; m++)
    wgmma_sp<1>(acc[m], A_DESCRIPTOR(a + m * BLOCK_BYTES + BLOCK_VALUES / 2), B_DESCRIPTOR(b + 64), meta[m], 1);
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#if DEEP
  asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
  if (never)
#pragma unroll
    for (int m = 0; m < MT; m++)
      asm volatile("st.shared.u32 [%0], %1;" ::"r"(patches + m * 4), "r"(older[m]) : "memory");
  release(at, empty_a, empty_b);
#endif
  advance(p, at);
}

__device__ __forceinline__ void multiply(const Params& p, float (&acc)[MT][TILE_N / 2], u32 patches, int patch_bytes,
                                         u32 stages, u32 full_a, u32 empty_a, u32 full_b, u32 empty_b) {
  Walk at = begin(p);
  u32 meta[MT], other[MT];
  bool never = p.relu < 0;
#pragma unroll
  for (int m = 0; m < MT; m++) meta[m] = other[m] = 0;
  do {
    step(p, at, acc, meta, other, never, patches, patch_bytes, stages, full_a, empty_a, full_b, empty_b);
#if DEEP
    if (!at.left) break;
    step(p, at, acc, other, meta, never, patches, patch_bytes, stages, full_a, empty_a, full_b, empty_b);
#endif
  } while (at.left);
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#if SHARE > 1
  at.held_a = -1;
  release(at, empty_a, empty_b);
#endif
}
#else
struct Fetch {  // where the weights' loads are, SETS - 1 steps ahead
  const u8* block;  // this thread's place in the first tap of 64 channels
  int left, t;
};

// A block's words of this thread: of its values [inputs / 8][channel][8] those of two rows and columns, then metadata.
// Predicated with the old words as inputs: they stay alive, in these registers, until they are replaced.
__device__ __forceinline__ void fetch(const Params& p, Fetch& from, u32 (&w)[MT][9]) {
  size_t row = (size_t)(p.chunks / p.groups) * p.taps * BLOCK_BYTES;
#pragma unroll
  for (int m = 0; m < MT; m++) {
    const u8* values = from.block + p.tap[from.t] * BLOCK_BYTES + m * row;
    const u8* meta = values + BLOCK_VALUES - threadIdx.x % 128 / 32 * 128;
    asm volatile(
        "{\n.reg .pred some;\nsetp.gt.s32 some, %11, 0;\n"
        "@some ld.global.nc.L1::no_allocate.u32 %0, [%9];\n"
        "@some ld.global.nc.L1::no_allocate.u32 %1, [%9 + 128];\n"
        "@some ld.global.nc.L1::no_allocate.u32 %2, [%9 + 1024];\n"
        "@some ld.global.nc.L1::no_allocate.u32 %3, [%9 + 1152];\n"
        "@some ld.global.nc.L1::no_allocate.u32 %4, [%9 + 2048];\n"
        "@some ld.global.nc.L1::no_allocate.u32 %5, [%9 + 2176];\n"
        "@some ld.global.nc.L1::no_allocate.u32 %6, [%9 + 3072];\n"
        "@some ld.global.nc.L1::no_allocate.u32 %7, [%9 + 3200];\n"
        "@some ld.global.nc.L1::no_allocate.u32 %8, [%10];\n}"
        : "+r"(w[m][0]), "+r"(w[m][1]), "+r"(w[m][2]), "+r"(w[m][3]), "+r"(w[m][4]), "+r"(w[m][5]), "+r"(w[m][6]),
          "+r"(w[m][7]), "+r"(w[m][8])
        : "l"(values), "l"(meta), "r"(from.left) : "memory");
  }
  from.left--;
  if (++from.t == p.taps) from.t = 0, from.block += (size_t)p.taps * BLOCK_BYTES;
}

// One tap of 64 channels from `words`; the previous step's, `next`, are then replaced by those of SETS - 1 steps later.
__device__ __forceinline__ void step(const Params& p, Walk& at, Fetch& from, float (&acc)[MT][TILE_N / 2],
                                     u32 (&words)[MT][9], u32 (&next)[MT][9], u32 patches, int patch_bytes, u32 full_b,
                                     u32 empty_b) {
  u32 b = patches + at.slot_b * patch_bytes + (at.entry >> 1) * 128;
  if (at.fresh) barrier_wait(full_b + at.slot_b * 8, at.phase_b);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int m = 0; m < MT; m++)
    wgmma_sp_direct<0>(acc[m], words[m][0], words[m][1], words[m][2], words[m][3], B_DESCRIPTOR(b),
                       words[m][8], at.add);
#pragma unroll
  for (int m = 0; m < MT; m++)
    wgmma_sp_direct<1>(acc[m], words[m][4], words[m][5], words[m][6], words[m][7], B_DESCRIPTOR(b + 64),
                       words[m][8], 1);
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
  fetch(p, from, next);
  release(at, 0, empty_b);
  advance(p, at);
}

__device__ __forceinline__ void multiply(const Params& p, float (&acc)[MT][TILE_N / 2], u32 patches, int patch_bytes,
                                         u32 stages, u32 full_a, u32 empty_a, u32 full_b, u32 empty_b) {
  Walk at = begin(p);
  int first = (threadIdx.x / 128 + blockIdx.y * WGM) * MT, last = (p.outputs + 63) / 64 - MT;
  Span span = my_chunks(p);
  size_t block = (size_t)max(min(first, last), 0) * (p.chunks / p.groups) + span.first / p.groups;
  Fetch from = {p.weight + block * p.taps * BLOCK_BYTES + threadIdx.x % 128 / 32 * 256 + threadIdx.x % 32 * 4, at.left,
                p.group_first[span.first % p.groups]};
  u32 words[SETS][MT][9];
#pragma unroll
  for (int i = 0; i < SETS; i++)
#pragma unroll
    for (int j = 0; j < MT * 9; j++) words[i][j / 9][j % 9] = 0;
#pragma unroll
  for (int i = 0; i < SETS - 1; i++) fetch(p, from, words[i]);
  do {
#pragma unroll
    for (int i = 0; i < SETS; i++) {
      step(p, at, from, acc, words[i], words[(i + SETS - 1) % SETS], patches, patch_bytes, full_b, empty_b);
      if (!at.left) break;
    }
  } while (at.left);
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#if SHARE > 1
  release(at, 0, empty_b);
#endif
}
static_assert(MT == 1, "a second tile's weights do not fit the registers");
#endif

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
conv_sparse24_sm90(const __grid_constant__ Params p) {
  extern __shared__ u8 shared[];
  // barriers, output pixels, then (aligned: the swizzle is of addresses) the patches and the weights' stages
  u64* barriers = (u64*)shared;
  int* pixel_of = (int*)(shared + 256);
  u32 start = (shared_address(shared) + 256 + TILE_N * 4 + 1023) & ~1023u;
  u8* staged = shared + (start - shared_address(shared));
  int patch_bytes = p.rows * 128;  // rows: a multiple of 8
  u32 stages = start + B_STAGES * patch_bytes;
  u32 full_a = shared_address(barriers), empty_a = full_a + A_STAGES * 8;
  u32 full_b = empty_a + A_STAGES * 8, empty_b = full_b + B_STAGES * 8;

  if (threadIdx.x == CONSUMERS) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&p.x) : "memory");
    for (int i = 0; i < A_STAGES; i++) {
      barrier_init(full_a + i * 8, 1);
      barrier_init(empty_a + i * 8, 4 * WGM);
    }
    for (int i = 0; i < B_STAGES; i++) {
      barrier_init(full_b + i * 8, 1);
      barrier_init(empty_b + i * 8, 4 * WGM * SHARE);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  if (CLUSTER > 1) {
    cluster_meet();
  } else {
    __syncthreads();
  }

  asm volatile("griddepcontrol.launch_dependents;");  // they wait for this kernel's end before they read
  if (threadIdx.x >= CONSUMERS) {
    int thread = threadIdx.x - CONSUMERS;
    if (GIVE) asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (!DIRECT && thread == 0) {
      load_weights(p, stages, full_a, empty_a);
    } else if (threadIdx.x == PATCH_WARP) {
      asm volatile("griddepcontrol.wait;" ::: "memory");
      load_patches(p, start, patch_bytes, full_b, empty_b);
    }
    __syncwarp();
    if (CLUSTER > 1) cluster_meet(), cluster_meet();
  } else {
    if (GIVE) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(WGM == 2 ? 240 : 112));
    for (int n = threadIdx.x; n < TILE_N; n += CONSUMERS) {
      int q = blockIdx.x * TILE_N + n, x = q % p.grid_width, y = q / p.grid_width, b = y / p.grid_height;
      y -= b * p.grid_height;
      bool ok = b < p.batch && y < p.out_height && x < p.out_width;
      pixel_of[n] = ok ? (b * p.out_height + y) * p.out_width + x : -1;
    }
    float acc[MT][TILE_N / 2];
#if SPLIT_K == 1
    float2 bias[MT];
#pragma unroll
    for (int m = 0; m < MT; m++) {
      int channel = blockIdx.y * TILE_M + (threadIdx.x / 128 * MT + m) * 64 + threadIdx.x % 128 / 32 * 16 +
                    threadIdx.x % 32 / 4;
      bias[m].x = channel < p.outputs ? p.bias[channel] : 0.f;
      bias[m].y = channel + 8 < p.outputs ? p.bias[channel + 8] : 0.f;
    }
#endif
    multiply(p, acc, start, patch_bytes, stages, full_a, empty_a, full_b, empty_b);
    consumers_sync();
#if SPLIT_K > 1
    put_down(acc, (float*)staged);
#else
    put_down_half(acc, bias, p.relu && !p.residual, start);
#endif
    if (SPLIT_K > 1) {
      cluster_sync();
    } else {
      consumers_sync();
      if (CLUSTER > 1) cluster_meet();
    }
    asm volatile("griddepcontrol.wait;" ::: "memory");
    store_tile(p, staged, pixel_of);
    if (CLUSTER > 1) cluster_meet();
  }
}
