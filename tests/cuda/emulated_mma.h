// What semi_structured_sm80.cu takes from the GPU, for a CPU: after emulated.h, before the kernel. A copy is made when it
// is waited for, not before; a warp's matrix instructions are as the PTX ISA describes their fragments and metadata.
#include <algorithm>
#include <array>
#include <deque>

#define __grid_constant__
#define __align__(bytes)

typedef unsigned char u8;
typedef unsigned int u32;

static u32 shared_address(const void* p) { return static_cast<u32>(static_cast<const u8*>(p) - (const u8*)shared); }
static u8* shared_pointer(u32 at) { return (u8*)shared + at; }

struct Copy {
  u32 to;
  const u8* from;
  bool inside;
};
static thread_local std::deque<std::vector<Copy>> groups;
static thread_local std::vector<Copy> open_group;
static void copy16(u32 to, const u8* from, bool inside) { open_group.push_back({to, from, inside}); }
static void copies_end() {
  groups.push_back(open_group);
  open_group.clear();
}
template <int OPEN>
void copies_wait() {
  for (; groups.size() > OPEN; groups.pop_front())
    for (const Copy& copy : groups.front()) {
      if (copy.inside) std::memcpy(shared_pointer(copy.to), copy.from, 16);
      else std::memset(shared_pointer(copy.to), 0, 16);
    }
}

struct Warp {
  std::barrier<> barrier{32};
  std::array<std::array<u32, 9>, 32> lane;  // what each puts in: addresses, or A, B and metadata
};
static Warp warps[THREADS / 32];
static Warp& my_warp() { return warps[threadIdx.x / 32]; }

static void load_matrices(u32 (&r)[4], u32 at) {
  Warp& warp = my_warp();
  const int lane = threadIdx.x % 32;
  warp.lane[lane][0] = at;
  warp.barrier.arrive_and_wait();
  for (int i = 0; i < 4; i++) std::memcpy(&r[i], shared_pointer(warp.lane[i * 8 + lane / 4][0]) + lane % 4 * 4, 4);
  warp.barrier.arrive_and_wait();
}
static u32 load_word(u32 at) {
  u32 word;
  std::memcpy(&word, shared_pointer(at), 4);
  return word;
}
static float widen(u32 bits) {
#if BF16
  return __uint_as_float(bits << 16);
#else
  return half_to_float(bits);
#endif
}
static u32 narrow(float low, float high) {
#if BF16
  return float_to_bfloat(low) | static_cast<u32>(float_to_bfloat(high)) << 16;
#else
  return float_to_half(low) | static_cast<u32>(float_to_half(high)) << 16;
#endif
}

template <int SELECTOR>
void multiply_add(float (&d)[4], const u32 (&a)[4], const u32 (&b)[4], u32 meta) {
  Warp& warp = my_warp();
  const int lane = threadIdx.x % 32;
  for (int i = 0; i < 4; i++) warp.lane[lane][i] = a[i], warp.lane[lane][4 + i] = b[i];
  warp.lane[lane][8] = meta;
  warp.barrier.arrive_and_wait();
  for (int i = 0; i < 4; i++) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int kept = 0; kept < 16; kept++) {
      const u32 pair = warp.lane[row % 8 * 4 + kept % 8 / 2][row / 8 + kept / 8 * 2];
      const u32 places = warp.lane[row % 8 * 4 + SELECTOR * 2 + kept / 8][8] >> (row / 8 * 16);
      const int k = kept / 2 * 4 + (places >> (kept % 8 * 2) & 3);
      const u32 other = warp.lane[column * 4 + k % 8 / 2][4 + k / 8];
      d[i] += widen(pair >> (kept % 2 * 16) & 0xFFFF) * widen(other >> (k % 2 * 16) & 0xFFFF);
    }
  }
  warp.barrier.arrive_and_wait();
}
