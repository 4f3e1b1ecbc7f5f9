// The end of a tile: from registers through shared memory into the result.
#pragma once
#include "semi_structured_sm90_ptx.h"

// A tile is put down in shared memory as [pixel][channel], then stored 8 channels of a pixel at a time. Here: parts of
// sums (SPLIT_K > 1), as floats.
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

__device__ __forceinline__ float activate(float v, int relu) { return relu && v < 0.f ? 0.f : v; }

// Whole sums in two bytes, with the bias, and activated unless a residual is still to be added.
__device__ __forceinline__ void put_down_half(float (&acc)[MT][TILE_N / 2], float2 (&bias)[MT], int relu, u32 staged) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < MT; m++) {
    int channel = (warp / 4 * MT + m) * 64 + warp % 4 * 16 + lane / 8 % 2 * 8;
    u32 to = staged + ((lane / 16 * 8 + lane % 8) * PITCH_HALF + channel) * 2;
#pragma unroll
    for (int i = 0; i < TILE_N / 8; i += 2) {
      u32 words[4];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        float add = j % 2 ? bias[m].y : bias[m].x;
        words[j] = narrow(activate(acc[m][i * 4 + j * 2] + add, relu), activate(acc[m][i * 4 + j * 2 + 1] + add, relu));
      }
      asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};"
                   ::"r"(to + i * 8 * PITCH_HALF * 2), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                   : "memory");
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

__device__ __forceinline__ void store_tile(const Params& p, const void* staged, const int* pixel_of) {
  constexpr int PIECES = TILE_M / 8, PIXELS = TILE_N / SPLIT_K, STEP = CONSUMERS / PIECES;
  int part = SPLIT_K == 1 ? 0 : blockIdx.z;
  int piece = threadIdx.x % PIECES, channel = blockIdx.y * TILE_M + piece * 8;
  if (channel >= p.outputs) return;
  bool whole = p.outputs % 8 == 0;
#if SPLIT_K > 1
  float bias[8];
#pragma unroll
  for (int i = 0; i < 8; i++) bias[i] = channel + i < p.outputs ? p.bias[channel + i] : 0.f;
#endif
#pragma unroll 4
  for (int n = part * PIXELS + threadIdx.x / PIECES; n < (part + 1) * PIXELS; n += STEP) {
    int pixel = pixel_of[n];
    if (pixel < 0) continue;
    size_t at = ((size_t)pixel * p.outputs + channel) * 2;
    u32 words[4];
#if SPLIT_K > 1
    float v[8];
    load8(v, (const float*)staged, n * PITCH + piece * 8);
    u32 mine = cluster_rank(), address = shared_address((const float*)staged + n * PITCH + piece * 8);
#pragma unroll
    for (int other = 1; other < SPLIT_K; other++) add8(v, in_block(address, (mine + other * SHARE) % CLUSTER));
    uint4 r = make_uint4(0, 0, 0, 0);
    if (p.residual && whole) r = *(const uint4*)(p.residual + at);
    u32 more[4] = {r.x, r.y, r.z, r.w};
    if (p.residual && !whole)
#pragma unroll
      for (int i = 0; i < 8; i++)
        if (channel + i < p.outputs) more[i / 2] |= (u32)((const unsigned short*)(p.residual + at))[i] << i % 2 * 16;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float2 add = widen(more[i]);
      words[i] = narrow(activate(v[2 * i] + bias[2 * i] + add.x, p.relu),
                        activate(v[2 * i + 1] + bias[2 * i + 1] + add.y, p.relu));
    }
#else
    uint4 v = *(const uint4*)((const unsigned short*)staged + n * PITCH_HALF + piece * 8);
    words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
    if (p.residual) {
      u32 more[4] = {0, 0, 0, 0};
      if (whole) {
        uint4 r = *(const uint4*)(p.residual + at);
        more[0] = r.x, more[1] = r.y, more[2] = r.z, more[3] = r.w;
      } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
          if (channel + i < p.outputs) more[i / 2] |= (u32)((const unsigned short*)(p.residual + at))[i] << i % 2 * 16;
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float2 a = widen(words[i]), b = widen(more[i]);
        words[i] = narrow(activate(a.x + b.x, p.relu), activate(a.y + b.y, p.relu));
      }
    }
#endif
    if (whole) {
      *(uint4*)(p.y + at) = make_uint4(words[0], words[1], words[2], words[3]);
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++)
        if (channel + i < p.outputs) ((unsigned short*)(p.y + at))[i] = (unsigned short)(words[i / 2] >> i % 2 * 16);
    }
  }
}
