// Generated; what the names mean is said in the headers.
#define ST3_LANES 4
#include "dense_channels.h"
namespace st3 {
namespace {
struct Shape_dense_channels_3b93439bb60b {
  static constexpr int ROWS = 8;
  static constexpr int COLUMNS = 8;
  static constexpr int TASK_ROWS = 9;
  static constexpr int TILE_ROWS = 3;
  static constexpr int TILE_COLUMNS = 4;
  static constexpr int BLOCK = 1;
  static constexpr int VECTORS = 1;
  static constexpr long X_ROW = 40;
  static constexpr long X_COLUMN = 4;
  static constexpr long Y_ROW = 128;
  static constexpr long Y_CHANNEL = 128;
  static constexpr Activation ACTIVATION = RELU;
  static constexpr bool RESIDUAL = false;
  static constexpr long R_ROW = 0;
  static constexpr long R_CHANNEL = 0;
  static constexpr bool FACTOR = false;
  static constexpr long F_ROW = 0;
  static constexpr long F_CHANNEL = 0;
};
}  // namespace
void dense_channels_3b93439bb60b(const Work& work, int block) {
  using S = Shape_dense_channels_3b93439bb60b;
  DenseChannels<S>{
      work.packed<Run>(0),
      work.packed<Chunk>(1),
      work.packed<float>(2),
      work}.run(block);
}
}  // namespace st3
