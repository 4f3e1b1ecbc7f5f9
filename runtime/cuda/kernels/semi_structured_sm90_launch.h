// What a launch's macros come to, and what the kernel is given.
#pragma once

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int MAX_TAPS = 64;
constexpr int TILE_M = 64 * MT * WGM;
constexpr int BLOCKS_M = MT * WGM;
constexpr int CONSUMERS = 128 * WGM;
constexpr bool DIRECT = A_STAGES == 0;
constexpr int SETS = DEEP ? 4 : 3;  // of registers, if DIRECT
constexpr int PATCH_WARP = CONSUMERS + (DIRECT ? 0 : 32);
// A multiprocessor's quarter has 512 registers for each of its threads' lanes: with three warps there, 168 each. Where
// that is too few the copying warps become a whole warpgroup, which gives its registers away.
constexpr bool GIVE = DIRECT && (WGM == 4 || WGM == 2 && TILE_N > 160) && MIN_BLOCKS == 1;
constexpr int THREADS = GIVE ? CONSUMERS + 128 : PATCH_WARP + 32;
constexpr int CLUSTER = SHARE * SPLIT_K;
constexpr int BLOCK_VALUES = 64 * 64;                // bytes of the values of 64 channels x 64 (32 kept) inputs
constexpr int BLOCK_BYTES = BLOCK_VALUES + 128 * 4;  // and their metadata, a word per thread
constexpr int STAGE_BYTES = BLOCKS_M * BLOCK_BYTES;
constexpr int PITCH = TILE_M + 4;                    // floats; + 4: no bank conflicts when fragments are put down
constexpr int PITCH_HALF = TILE_M + 8;               // two-byte values; the same reason

struct alignas(64) Map {
  u8 bytes[128];
};
struct Params {
  Map x;  // im2col map: boxes of `rows` pixels by 64 channels
  const u8* weight;
  const float* bias;
  const u8* residual;
  u8* y;
  int batch, channels, height, width;
  int outputs, out_height, out_width, grid_height, grid_width;
  int stride_h, stride_w, lower_h, lower_w;
  int rows, chunks, groups, taps, relu;
  short group_first[MAX_TAPS + 1];  // where a group's taps begin
  short group_y[MAX_TAPS], group_x[MAX_TAPS];  // from the bounding box's corner
  short tap[MAX_TAPS];  // place in the packed weight
  short tap_row[MAX_TAPS];  // twice the rows by which its pixels are shifted, and 1 more for a group's last
};
