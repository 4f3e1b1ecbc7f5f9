// Generated; what the names mean is said in the headers.
#define ST3_ABI_VERSION 1
#define ST3_LANES 4
#include "model.h"
#include "move.h"
#include "offset_stream.h"
#include "dense.h"
#include "pool.h"
namespace {
using namespace st3;
// input_1.gathered0: relayout of input_1
struct Step0 {
  static constexpr int WIDTH = 6;
  static constexpr int CHANNELS = 1;
  static constexpr long SOURCE_CHANNEL = 256;
  static constexpr long TARGET_CHANNEL = 96;
  static constexpr long TARGET_ROW = 96;
  static constexpr float FILL = 0.0f;
  static constexpr long INDEX = 64;
};
// 0: conv2d (4, 1, 3, 3), offset_stream: density 0.694 is below break-even 0.8
struct Step1 {
  static constexpr int ROWS = 8;
  static constexpr int COLUMNS = 4;
  static constexpr int TILE_ROWS = 2;
  static constexpr int TILE_COLUMNS = 4;
  static constexpr int CHANNELS = 4;
  static constexpr long X_ROW = 96;
  static constexpr long X_COLUMN = 16;
  static constexpr long Y_ROW = 256;
  static constexpr long Y_CHANNEL = 64;
  static constexpr bool RESIDUAL = false;
  static constexpr long R_ROW = 0;
  static constexpr long R_CHANNEL = 0;
  static constexpr Activation ACTIVATION = RELU;
  static constexpr int GROUPS = 1;
  static constexpr long BIAS = 1024;
  static constexpr int CHUNKS = 1;
  static constexpr long SEGMENTS = 1408;
  static constexpr int BOUNDS[2] = {0, 4};
};
// adaptive_avg_pool2d: mean
struct Step2 {
  static constexpr int ROWS = 8;
  static constexpr int COLUMNS = 4;
  static constexpr int IMAGES = 2;
  static constexpr int LANES_PER_IMAGE = 2;
  static constexpr float FACTOR = 0.015625f;
  static constexpr long X_ROW = 256;
  static constexpr long X_CHANNEL = 64;
  static constexpr long Y_CHANNEL = 16;
  static constexpr long INSIDE = 1472;
};
// 4: linear (3, 4, 1, 1), offset_stream: density 0.583 is below break-even 0.8
struct Step3 {
  static constexpr int ROWS = 1;
  static constexpr int COLUMNS = 1;
  static constexpr int TILE_ROWS = 1;
  static constexpr int TILE_COLUMNS = 1;
  static constexpr int CHANNELS = 3;
  static constexpr long X_ROW = 64;
  static constexpr long X_COLUMN = 16;
  static constexpr long Y_ROW = 48;
  static constexpr long Y_CHANNEL = 16;
  static constexpr bool RESIDUAL = false;
  static constexpr long R_ROW = 0;
  static constexpr long R_CHANNEL = 0;
  static constexpr Activation ACTIVATION = IDENTITY;
  static constexpr int GROUPS = 1;
  static constexpr long BIAS = 1984;
  static constexpr int CHUNKS = 1;
  static constexpr long SEGMENTS = 2176;
  static constexpr int BOUNDS[2] = {0, 3};
};
// result from linear
struct Step4 {
  static constexpr int CHANNELS = 3;
  static constexpr int IMAGES = 2;
  static constexpr int PIXELS = 1;
  static constexpr long SOURCE_CHANNEL = 16;
  static constexpr long INDEX = 2240;
};
struct Network {
  static constexpr int STEPS = 5;
  static constexpr int GROUPS = 1;
  static constexpr long ARENA = 8192;
  static constexpr uint64_t WEIGHT_BYTES = 2304;
  static constexpr uint64_t CONTENT = 0x9799731a8919abb2ull;
  static constexpr long INPUT_FLOATS = 128;
  static constexpr long OUTPUT_FLOATS = 6;
  static void run(const char* weights, Crew& crew, char* arena, const float* input, float* output) {
    crew.each(0, 10, [&](int task) {
      using S = Step0;
      gather_row<S>(reinterpret_cast<const char*>(input), arena + 4096,
          reinterpret_cast<const int32_t*>(weights + S::INDEX), task);
    });
    crew.each(1, 4, [&](int task) {
      using S = Step1;
      const int block = task / S::GROUPS, group = task % S::GROUPS;
      each_tile<S>(block, OffsetStream<S>{weights,
          arena + 4096,
          arena + 0, nullptr, group});
    });
    crew.each(2, 1, [&](int task) {
      using S = Step2;
      for (int channel = task * 16; channel < 4 && channel < task * 16 + 16; channel++)
        mean_channel<S>(arena + 0, arena + 4096,
            reinterpret_cast<const int32_t*>(weights + S::INSIDE), channel);
    });
    crew.each(3, 1, [&](int task) {
      using S = Step3;
      const int block = task / S::GROUPS, group = task % S::GROUPS;
      each_tile<S>(block, OffsetStream<S>{weights,
          arena + 4096,
          arena + 0, nullptr, group});
    });
    crew.each(4, 1, [&](int task) {
      using S = Step4;
      for (int channel = task * 64; channel < S::CHANNELS && channel < task * 64 + 64; channel++)
        scatter_channel<S>(arena + 0, output,
            reinterpret_cast<const int32_t*>(weights + S::INDEX), channel);
    });
  }
};
}  // namespace
ST3_ABI(Network)
