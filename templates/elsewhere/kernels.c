/* The three loops of the network that take nearly all of its time, for a browser.
 *
 * `make kernels` builds kernels.wasm from this file. There is no library and no allocation: every
 * pointer is into the one memory, which the script lays out. Pictures lie as rows of positions, the
 * channels of a position beside one another; channels come in eights.
 */

typedef float four __attribute__((vector_size(16)));

static inline four load(const float *at) { return *(const four *)at; }
static inline void store(float *at, four x) { *(four *)at = x; }
static inline four all(float x) { return (four){x, x, x, x}; }

static inline four relu6(four x) {
  return __builtin_wasm_min_f32x4(__builtin_wasm_max_f32x4(x, all(0)), all(6));
}

#define ROWS 4
#define TILE 64 /* positions whose inputs stay in the cache while all outputs are computed */

/* y (n, out) = x (n, in) · w + b, then a ReLU6 or `plus` (n, out) added, if it is not null.
 * w is (out / 8, in, 8). */
static inline void some(int rows, const float *x, const float *w, const float *b, float *y, int in,
                        int out, int six, const float *plus) {
  four sum[ROWS][2];
  for (int r = 0; r < rows; r++) {
    sum[r][0] = load(b);
    sum[r][1] = load(b + 4);
  }
  for (int k = 0; k < in; k++, w += 8) {
    four left = load(w), right = load(w + 4);
    for (int r = 0; r < rows; r++) {
      four one = all(x[r * in + k]);
      sum[r][0] += one * left;
      sum[r][1] += one * right;
    }
  }
  for (int r = 0; r < rows; r++)
    for (int half = 0; half < 2; half++) {
      four value = six ? relu6(sum[r][half]) : sum[r][half];
      if (plus) value += load(plus + r * out + 4 * half);
      store(y + r * out + 4 * half, value);
    }
}

void pointwise(const float *x, const float *w, const float *b, float *y, int n, int in, int out,
               int six, const float *plus) {
  for (int tile = 0; tile < n; tile += TILE) {
    int end = tile + TILE < n ? tile + TILE : n;
    for (int o = 0; o < out; o += 8) {
      const float *block = w + o * in;
      int i = tile;
      for (; i + ROWS <= end; i += ROWS)
        some(ROWS, x + i * in, block, b + o, y + i * out + o, in, out, six,
             plus ? plus + i * out + o : 0);
      for (; i < end; i++)
        some(1, x + i * in, block, b + o, y + i * out + o, in, out, six,
             plus ? plus + i * out + o : 0);
    }
  }
}

/* Each channel by itself, then a ReLU6: x (side, side, c) -> y (after, after, c); w is (k, k, c),
 * `before` how many zeros stand left of and above the picture. */
void depthwise(const float *x, const float *w, const float *b, float *y, int side, int c, int k,
               int stride, int before, int after) {
  for (int row = 0; row < after; row++)
    for (int column = 0; column < after; column++, y += c) {
      int top = row * stride - before, left = column * stride - before;
      for (int at = 0; at < c; at += 4) {
        four sum = load(b + at);
        for (int i = 0; i < k; i++) {
          if (top + i < 0 || top + i >= side) continue;
          for (int j = 0; j < k; j++) {
            if (left + j < 0 || left + j >= side) continue;
            sum += load(x + ((top + i) * side + left + j) * c + at) * load(w + (i * k + j) * c + at);
          }
        }
        store(y + at, relu6(sum));
      }
    }
}

/* What a convolution looks at, laid out as rows: x (side, side, c) -> y (after², k · k · c). */
void unfold(const float *x, float *y, int side, int c, int k, int stride, int before, int after) {
  for (int row = 0; row < after; row++)
    for (int column = 0; column < after; column++)
      for (int i = 0; i < k; i++)
        for (int j = 0; j < k; j++) {
          int down = row * stride - before + i, right = column * stride - before + j;
          int inside = down >= 0 && down < side && right >= 0 && right < side;
          for (int at = 0; at < c; at++) *y++ = inside ? x[(down * side + right) * c + at] : 0;
        }
}
