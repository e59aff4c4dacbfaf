/* The unit, simulated: it multiplies a tile of 8x8 bytes by another and adds to 8x8 sums. What uses a real one
 * would write to its registers instead. */
#include <stdint.h>

enum { TILE = 8 };

typedef struct {
  int16_t a[TILE][TILE], b[TILE][TILE]; /* bytes, signed or not, as the unit widens them */
  int32_t sums[TILE][TILE];
} npu_unit;

static void npu_matmul_8x8_i8(npu_unit *unit) {
  for (int i = 0; i < TILE; i++)
    for (int j = 0; j < TILE; j++) {
      uint32_t sum = (uint32_t)unit->sums[i][j]; /* wraps */
      for (int k = 0; k < TILE; k++) sum += (uint32_t)((int32_t)unit->a[i][k] * unit->b[k][j]);
      unit->sums[i][j] = (int32_t)sum;
    }
}

/* The driver: rows begin..end-1 of a [M, K] times b [K, N], tile by tile, what juts out filled with zeros.
 * sizes = {2, M, K, 2, K, N}. */
#define NPU_DRIVER(NAME, A, B)                                                                               \
  static void NAME(const A *a, const B *b, int32_t *y, const int64_t *sizes, int64_t begin, int64_t end) {   \
    const int64_t depth = sizes[2], columns = sizes[5];                                                      \
    for (int64_t row = begin; row < end; row += TILE)                                                        \
      for (int64_t column = 0; column < columns; column += TILE) {                                           \
        npu_unit unit = {0};                                                                                 \
        for (int64_t k = 0; k < depth; k += TILE) {                                                          \
          for (int i = 0; i < TILE; i++)                                                                     \
            for (int j = 0; j < TILE; j++) {                                                                 \
              unit.a[i][j] = row + i < end && k + j < depth ? a[(row + i) * depth + k + j] : 0;              \
              unit.b[i][j] = k + i < depth && column + j < columns ? b[(k + i) * columns + column + j] : 0;  \
            }                                                                                                \
          npu_matmul_8x8_i8(&unit);                                                                          \
        }                                                                                                    \
        for (int64_t i = 0; i < TILE && row + i < end; i++)                                                  \
          for (int64_t j = 0; j < TILE && column + j < columns; j++)                                         \
            y[(row + i) * columns + column + j] = unit.sums[i][j];                                           \
      }                                                                                                      \
  }

NPU_DRIVER(npu_product_u8_i8, uint8_t, int8_t)
NPU_DRIVER(npu_product_i8_i8, int8_t, int8_t)
