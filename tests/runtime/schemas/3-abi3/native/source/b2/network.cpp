// Generated; what the names mean is said in the headers.
#define ST3_ABI_VERSION 3
#define ST3_LANES 4
#define ST3_CONTENT 0xb5ecee5cfa2d7cabull
#include "model.h"
#include "move.h"
#include "tile.h"
#include "pool.h"
#include "resize.h"
#include "elementwise.h"
#include "layer_norm.h"
namespace st3 {
void dense_channels_3b93439bb60b(const Work& work, int block);
void dense_channels_e8fb9a12c579(const Work& work, int block);
}  // namespace st3
namespace {
using namespace st3;
struct Shape0 {
  static constexpr int FLOATS = 10;
  static constexpr long SOURCE_CHANNEL = 256;
  static constexpr long TARGET_CHANNEL = 40;
  static constexpr long TARGET_ROW = 40;
  static constexpr float FILL = 0.0f;
};
struct Shape1 {
  static constexpr bool CHANNEL_LANES = true;
  static constexpr int ROWS = 8;
  static constexpr int COLUMNS = 8;
  static constexpr int IMAGES = 1;
  static constexpr int LANES_PER_IMAGE = 1;
  static constexpr float FACTOR = 0.015625f;
  static constexpr long X_ROW = 128;
  static constexpr long X_CHANNEL = 128;
  static constexpr long Y_CHANNEL = 16;
};
struct Shape2 {
  static constexpr int CHANNELS = 3;
  static constexpr int LANE_CHANNELS = 4;
  static constexpr int IMAGES = 1;
  static constexpr int PIXELS = 1;
  static constexpr long SOURCE_CHANNEL = 16;
};
struct Network {
  static constexpr int STEPS = 5;
  static constexpr int GROUPS = 2;
  static constexpr long ARENA = 8192;
  static constexpr long INPUT_FLOATS = 64;
  static constexpr long OUTPUT_FLOATS = 3;
  static void run(const char* weights, Crew& crew, char* arena, const float* input, float* output) {
    {  // relayout of input_1
      using S = Shape0;
                  crew.each(0, 10, [&](int task) {
      const int low = task % 1 * 32;
      const int high = low + 32 < 1 ? low + 32 : 1;
      gather_row<S>(reinterpret_cast<const char*>(input), arena + 4096,
          array<int32_t>(weights, 0), task / 1, low, high);
      });
    }
    {  // 0: conv2d (4, 1, 3, 3), dense_channels: density 0.694
      const Cut cut(array<int32_t>(weights, 4));
      const int parts = crew.parts(1, cut.groups);
      crew.each(1, 1 * parts, [&](int task) {
        const int block = task / parts, part = task % parts;
        const int low = cut.groups * part / parts, high = cut.groups * (part + 1) / parts;
        dense_channels_3b93439bb60b({weights, 1, cut, arena + 4096, arena + 0,
            {nullptr, nullptr}, array<float>(weights, 5), low, high}, block);
      });
    }
    {  // mean of relu
      using S = Shape1;
                  crew.each(2, 1, [&](int task) {
      for (int channel = task * 16; channel < 1 && channel < task * 16 + 16; channel++)
        mean_channel<S>(arena + 0, arena + 4096,
            nullptr, channel);
      });
    }
    {  // 4: linear (3, 4, 1, 1), dense_channels: density 0.583
      const Cut cut(array<int32_t>(weights, 9));
      const int parts = crew.parts(1, cut.groups);
      crew.each(3, 1 * parts, [&](int task) {
        const int part = task / 1, block = task % 1;
        const int low = cut.groups * part / parts, high = cut.groups * (part + 1) / parts;
        dense_channels_e8fb9a12c579({weights, 6, cut, arena + 4096, arena + 0,
            {nullptr, nullptr}, array<float>(weights, 10), low, high}, block);
      });
    }
    {  // result from linear
      using S = Shape2;
                  crew.each(4, 1, [&](int task) {
      for (int channel = task * 64; channel < S::CHANNELS && channel < task * 64 + 64; channel++)
        scatter_channel<S>(arena + 0, output,
            array<int32_t>(weights, 11), channel);
      });
    }
  }
};
}  // namespace
ST3_ABI(Network)
