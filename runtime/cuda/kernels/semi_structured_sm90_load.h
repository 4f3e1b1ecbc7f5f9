// The copying warps: weights and patches into shared memory, for the chunks of a block.
#pragma once
#include "semi_structured_sm90_ptx.h"

struct Span {  // chunks (64 channels of one group) that a block adds up
  int first, last;
};
__device__ __forceinline__ Span my_chunks(const Params& p) {
  int part = SPLIT_K == 1 ? 0 : blockIdx.z;
  return {p.chunks * part / SPLIT_K, p.chunks * (part + 1) / SPLIT_K};
}

__device__ __forceinline__ void load_weights(const Params& p, u32 stages, u32 full, u32 empty) {
#if A_STAGES
  Span span = my_chunks(p);
  int last_block = (p.outputs + 63) / 64 - 1;
  size_t row = (size_t)(p.chunks / p.groups) * p.taps * BLOCK_BYTES;
  int slot = 0;
  u32 phase = 0;
  for (int chunk = span.first; chunk < span.last; chunk++) {
    int group = chunk % p.groups, channel_block = chunk / p.groups;
    for (int t = p.group_first[group]; t < p.group_first[group + 1]; t++) {
      barrier_wait(empty + slot * 8, phase ^ 1);
      barrier_expect(full + slot * 8, STAGE_BYTES);
      const u8* step = p.weight + ((size_t)channel_block * p.taps + p.tap[t]) * BLOCK_BYTES;
#pragma unroll
      for (int i = 0; i < BLOCKS_M; i++) {
        const u8* from = step + row * min((int)blockIdx.y * BLOCKS_M + i, last_block);
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                     ::"r"(stages + slot * STAGE_BYTES + i * BLOCK_BYTES), "l"(from), "n"(BLOCK_BYTES),
                     "r"(full + slot * 8) : "memory");
      }
      if (++slot == A_STAGES) slot = 0, phase ^= 1;
    }
  }
#endif
}

__device__ __forceinline__ void load_patches(const Params& p, u32 patches, int patch_bytes, u32 full, u32 empty) {
  Span span = my_chunks(p);
  int q = blockIdx.x * TILE_N, x = q % p.grid_width, y = q / p.grid_width, b = y / p.grid_height;
  x = p.lower_w + x * p.stride_w;
  y = p.lower_h + (y - b * p.grid_height) * p.stride_h;
#if SHARE > 1
  u32 turn = 0, mine = cluster_rank() % SHARE;
#endif
  int slot = 0;
  u32 phase = 0;
  int group = span.first % p.groups, channel = span.first / p.groups * 64;
  for (int chunk = span.first; chunk < span.last; chunk++) {
    u32 to = patches + slot * patch_bytes, bar = full + slot * 8;
    unsigned short dx = p.group_x[group], dy = p.group_y[group];
    barrier_wait(empty + slot * 8, phase ^ 1);
    barrier_expect(bar, p.rows * 128);
#if SHARE > 1
    unsigned short mask = ((1 << SHARE) - 1) << (cluster_rank() / SHARE * SHARE);
    if (turn == mine)
      asm volatile(
          "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes.multicast::cluster "
          "[%0], [%1, {%2, %3, %4, %5}], [%6], {%7, %8}, %9;"
          ::"r"(to), "l"(&p.x), "r"(channel), "r"(x), "r"(y), "r"(b), "r"(bar), "h"(dx), "h"(dy), "h"(mask) : "memory");
    if (++turn == SHARE) turn = 0;
#else
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4, %5}], [%6], {%7, %8};"
        ::"r"(to), "l"(&p.x), "r"(channel), "r"(x), "r"(y), "r"(b), "r"(bar), "h"(dx), "h"(dy) : "memory");
#endif
    if (++slot == B_STAGES) slot = 0, phase ^= 1;
    if (++group == p.groups) group = 0, channel += 64;
  }
}
