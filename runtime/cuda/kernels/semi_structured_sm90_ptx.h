// Hopper's instructions by name: barriers, clusters, descriptors of shared memory, values of two bytes.
#pragma once
#include "semi_structured_sm90_launch.h"

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
// Not .release.cluster: that is a memory barrier of the whole GPU at every step. What it would order was read by
// wgmma, and has been read when its group has retired.
__device__ __forceinline__ void barrier_arrive_in(u32 bar, u32 rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(in_block(bar, rank)) : "memory");
}
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_meet() {  // no data passes: barriers' starts have a fence of their own
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
__device__ __forceinline__ u32 cluster_rank() {
  u32 rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void consumers_sync() { asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS) : "memory"); }

__device__ __forceinline__ u64 descriptor(u32 address, u32 leading, u32 stride, u32 swizzle) {
  u64 d = (address >> 4) & 0x3FFF;
  d |= (u64)(leading >> 4) << 16;
  d |= (u64)(stride >> 4) << 32;
  return d | (u64)swizzle << 62;
}
// A: cores of 8 x 16 bytes, 1024 bytes apart along the inputs, 128 along the channels. B: rows of 128 bytes, swizzled
// by the bits of their address, so that a patch may be read from any row on.
#define A_DESCRIPTOR(address) descriptor(address, 1024, 128, 0)
#define B_DESCRIPTOR(address) descriptor(address, 16, 1024, 1)

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
