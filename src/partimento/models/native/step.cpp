// One step of a code decoder on a CPU: from ids to logits in one call, for any batch, length, width and weight type.
//
// Weights are packed into panels of 64 outputs (input-major inside a panel), so that a product of a few rows reads
// every weight once, in order, at the bandwidth of the memory. Each output of each row is one chain of additions in
// the order of its inputs: what a row gives does not depend on the rows beside it. All threads stay in one parallel
// region.
//
// The structures below are mirrored, field by field, in program.py.
// Names: B items, S rows of the grid of each, M = B * S, D width, G key-value heads, E head width, P positions.

#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

// The vectors of this processor, and how many columns of a panel are summed at once: with six rows its registers are
// full.
#if defined(__AVX512F__)
constexpr int64_t LANES = 16, STRIP = 64;
#elif defined(__AVX__)
constexpr int64_t LANES = 8, STRIP = 16;
#else
constexpr int64_t LANES = 4, STRIP = 16;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
constexpr int64_t PANEL = 64, TALL = 6, DEEP = 512, LINE = 64, SIXTEEN = 16;

inline Floats load(const float* at) { Floats v; std::memcpy(&v, at, sizeof v); return v; }
inline Floats floats_of(Ints bits) { Floats v; std::memcpy(&v, &bits, sizeof v); return v; }
inline void store(float* at, Floats v) { std::memcpy(at, &v, sizeof v); }
inline Floats splat(float x) { return x - Floats{}; }

inline Floats exponential(Floats x) {  // Cephes' expf: 2 units in the last place
  x = x > 88.0f ? splat(88.0f) : x;
  x = x < -87.0f ? splat(-87.0f) : x;
  Floats scaled = x * 1.44269504f;
  Ints whole = __builtin_convertvector(scaled + (scaled < 0.0f ? splat(-0.5f) : splat(0.5f)), Ints);
  Floats n = __builtin_convertvector(whole, Floats);
  Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  Ints power = (whole + 127) << 23;
  return p * floats_of(power);
}
inline Floats silu(Floats x) { return x / (1.0f + exponential(-x)); }
inline Floats gelu(Floats x) {  // exact GELU; erf by Abramowitz and Stegun 7.1.26, 1.5e-7
  Floats z = x * 0.70710678f;
  Floats a = z < 0.0f ? -z : z;
  Floats t = 1.0f / (1.0f + 0.3275911f * a);
  Floats p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
  Floats erf = 1.0f - p * exponential(-a * a);
  return 0.5f * x * (1.0f + (z < 0.0f ? -erf : erf));
}

// The weights of columns c .. c + LANES of a row of a panel. Narrow ones lie beside those 16 columns further on, in one
// int32: taken apart by shifts, which every compiler makes well (of widening conversions it makes one lane at a time).
inline Floats column(const float* row, int64_t c) { return load(row + c); }
inline Floats column(const uint16_t* row, int64_t c) {  // bfloat16: the upper half of a float
  Ints two;
  std::memcpy(&two, row + c / 32 * 32 + c % SIXTEEN * 2, sizeof two);
  return floats_of(c % 32 < SIXTEEN ? two << 16 : two & -65536);
}
inline Floats column(const int8_t* row, int64_t c) {
  Ints four;
  std::memcpy(&four, row + c % SIXTEEN * 4, sizeof four);
  return __builtin_convertvector(four << (24 - c / SIXTEEN * 8) >> 24, Floats);
}

// What is fetched into the cache while something else is computed: so many lines for every input.
struct Ahead {
  const char* at = nullptr;
  int64_t lines = 0;
};

// out[r][FIRST .. FIRST + C * LANES) = x[r][0..in) times a panel whose rows are `pitch` apart; `more`: added to out.
template <int R, int C, int FIRST, class W>
void tile(const W* panel, int64_t pitch, int64_t in, const float* x, int64_t x_pitch, float* out, int64_t out_pitch,
          bool more, Ahead ahead) {
  Floats sum[R][C] = {};
  if (more)
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) sum[r][c] = load(out + r * out_pitch + FIRST + c * LANES);
  for (int64_t i = 0; i < in; i++) {
    for (const char* end = ahead.at + ahead.lines * LINE; ahead.at < end; ahead.at += LINE)
      __builtin_prefetch(ahead.at, 0, 2);
    Floats weight[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) weight[c] = column(panel + i * pitch, FIRST + c * LANES);
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) sum[r][c] += weight[c] * x[r * x_pitch + i];
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) store(out + r * out_pitch + FIRST + c * LANES, sum[r][c]);
}

// The first COLUMNS of a panel, a strip at a time, times `rows` <= 6 rows.
template <int COLUMNS, int FIRST = 0, class W>
void tiles(int64_t rows, const W* panel, int64_t pitch, int64_t in, const float* x, int64_t x_pitch, float* out,
           int64_t out_pitch, bool more = false, Ahead ahead = {}) {
  constexpr int C = (COLUMNS < STRIP ? COLUMNS : STRIP) / LANES;
  switch (rows) {
    case 1: tile<1, C, FIRST>(panel, pitch, in, x, x_pitch, out, out_pitch, more, ahead); break;
    case 2: tile<2, C, FIRST>(panel, pitch, in, x, x_pitch, out, out_pitch, more, ahead); break;
    case 3: tile<3, C, FIRST>(panel, pitch, in, x, x_pitch, out, out_pitch, more, ahead); break;
    case 4: tile<4, C, FIRST>(panel, pitch, in, x, x_pitch, out, out_pitch, more, ahead); break;
    case 5: tile<5, C, FIRST>(panel, pitch, in, x, x_pitch, out, out_pitch, more, ahead); break;
    default: tile<6, C, FIRST>(panel, pitch, in, x, x_pitch, out, out_pitch, more, ahead);
  }
  if constexpr (COLUMNS > STRIP)
    tiles<COLUMNS - STRIP, FIRST + STRIP>(rows, panel, pitch, in, x, x_pitch, out, out_pitch, more);
}

}  // namespace

extern "C" {

struct Matrix {
  const void* weight;  // [panels][in][64], see `column`
  const float *scale, *bias;  // of an output, or null
  int64_t in, out, kind;  // kind 0 float32, 1 bfloat16, 2 int8
};

struct Norm {
  const float *gain, *bias;
};

struct Block {
  Norm attention_norm, cross_norm, feedforward_norm, query_norm, key_norm;
  Matrix qkv, attention_out, cross_query, cross_out, gate, up, down;
  float *keys, *values;  // [B][G][P / 64][E][64] and [B][G][P][E]; P a multiple of 64, E of values padded to 16
  const float *memory_keys, *memory_values;  // the same with the places of the memory
};

struct Program {
  int64_t width, codebooks, rows, heads, kv_heads, head, cross_heads, cross_kv_heads, cross_head, feedforward;
  int64_t layers, layer_norm, gated, positions, memory_places, threads;
  float eps, scale, cross_scale, unused;
  const float *embedding, *condition, *added;  // condition [B, D], added [positions, D], or null
  const float *cosine, *sine, *cross_cosine, *cross_sine;  // [positions, E], the first half of the sines negative
  const int64_t* memory_lengths;  // [B] or null
  Norm norm;
  Matrix head_matrix;
  const Block* blocks;
  float *x, *h, *heads_out, *wide, *own;  // [M, D], [M, D], [M, most of all], [M, F], [threads, scores + sums]
  int64_t scores_size, sums_size;
};

}  // extern "C"

namespace {

struct Team {
  int64_t thread, threads;
  float *scores, *sums;  // of this thread: [6, places], [2, M, 64]
  void share(int64_t n, int64_t& first, int64_t& last) const {
    first = n * thread / threads;
    last = n * (thread + 1) / threads;
  }
};

inline void wait() {
#pragma omp barrier
}

inline int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// One panel of a matrix times all rows: sums, not scaled and without bias yet, in out[rows][64].
template <class W>
void panel_of(const Matrix& a, int64_t panel, int64_t rows, const float* x, int64_t x_pitch, float* out) {
  const int64_t parts = (rows + TALL - 1) / TALL;
  // Each of the passes over so many inputs fetches its part of what comes next: memory and arithmetic at one time. (One
  // or two rows in wide weights wait for memory alone, which the processor fetches best by itself.)
  const int64_t lines = PANEL * sizeof(W) / LINE, share = rows > 2 || lines == 1 ? (lines + parts - 1) / parts : 0;
  for (int64_t i = 0; i < a.in; i += DEEP) {
    const int64_t deep = a.in - i < DEEP ? a.in - i : DEEP;
    const W* at = static_cast<const W*>(a.weight) + (panel * a.in + i) * PANEL;
    for (int64_t part = 0; part < parts; part++) {
      const int64_t begin = rows * part / parts, count = rows * (part + 1) / parts - begin;
      Ahead ahead;
      if (part * share < lines)
        ahead = {reinterpret_cast<const char*>(at + deep * PANEL) + part * share * deep * LINE, share};
      tiles<PANEL>(count, at, PANEL, deep, x + begin * x_pitch + i, x_pitch, out + begin * PANEL, PANEL, i > 0, ahead);
    }
  }
}

void finished_panel_of(const Matrix& a, int64_t panel, int64_t rows, const float* x, int64_t x_pitch, float* out) {
  if (a.kind == 0)
    panel_of<float>(a, panel, rows, x, x_pitch, out);
  else if (a.kind == 1)
    panel_of<uint16_t>(a, panel, rows, x, x_pitch, out);
  else
    panel_of<int8_t>(a, panel, rows, x, x_pitch, out);
  if (!a.scale && !a.bias) return;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < PANEL; c += LANES) {
      Floats sum = load(out + r * PANEL + c);
      if (a.scale) sum *= load(a.scale + panel * PANEL + c);
      if (a.bias) sum += load(a.bias + panel * PANEL + c);
      store(out + r * PANEL + c, sum);
    }
}

// visit(row, first output, number of outputs, sums of `one`, sums of `two`) for all rows and outputs of this thread.
template <class Visit>
void product(const Team& team, const Matrix& one, const Matrix* two, int64_t rows, const float* x, int64_t pitch,
             Visit visit) {
  float *sums = team.sums, *others = team.sums + rows * PANEL;
  int64_t first, last;
  team.share((one.out + PANEL - 1) / PANEL, first, last);
  for (int64_t panel = first; panel < last; panel++) {
    finished_panel_of(one, panel, rows, x, pitch, sums);
    if (two) finished_panel_of(*two, panel, rows, x, pitch, others);
    const int64_t o = panel * PANEL, size = one.out - o < PANEL ? one.out - o : PANEL;
    for (int64_t r = 0; r < rows; r++) visit(r, o, size, sums + r * PANEL, others + r * PANEL);
  }
}

void set_product(const Team& team, const Matrix& a, int64_t rows, const float* x, float* to) {
  product(team, a, nullptr, rows, x, a.in, [&](int64_t row, int64_t o, int64_t size, const float* sums, const float*) {
    std::memcpy(to + row * a.out + o, sums, size * sizeof(float));
  });
}

float sum_of_squares(const float* x, int64_t width, float middle) {
  Floats lanes = {};
  int64_t d = 0;
  for (; d + LANES <= width; d += LANES) {
    const Floats off = load(x + d) - middle;
    lanes += off * off;
  }
  float sum = 0;
  for (int64_t l = 0; l < LANES; l++) sum += lanes[l];
  for (; d < width; d++) sum += (x[d] - middle) * (x[d] - middle);
  return sum;
}

float sum_of(const float* x, int64_t width) {
  Floats lanes = {};
  int64_t d = 0;
  for (; d + LANES <= width; d += LANES) lanes += load(x + d);
  float sum = 0;
  for (int64_t l = 0; l < LANES; l++) sum += lanes[l];
  for (; d < width; d++) sum += x[d];
  return sum;
}

void norm_row(const Norm& norm, bool layer, float eps, int64_t width, const float* x, float* out) {
  const float middle = layer ? sum_of(x, width) / width : 0.0f;
  const float factor = 1.0f / std::sqrt(sum_of_squares(x, width, middle) / width + eps);
  int64_t d = 0;
  for (; d + LANES <= width; d += LANES) {
    Floats value = (load(x + d) - middle) * factor * load(norm.gain + d);
    store(out + d, norm.bias ? value + load(norm.bias + d) : value);
  }
  for (; d < width; d++) out[d] = (x[d] - middle) * factor * norm.gain[d] + (norm.bias ? norm.bias[d] : 0.0f);
}

void norm_rows(const Team& team, const Program& p, const Norm& norm, int64_t rows) {
  int64_t first, last;
  team.share(rows, first, last);
  for (int64_t m = first; m < last; m++)
    norm_row(norm, p.layer_norm, p.eps, p.width, p.x + m * p.width, p.h + m * p.width);
}

void rotate(float* x, const float* cosine, const float* sine, int64_t head) {
  for (int64_t e = 0; e < head / 2; e++) {
    const float a = x[e], b = x[e + head / 2];
    x[e] = a * cosine[e] + b * sine[e];
    x[e + head / 2] = b * cosine[e + head / 2] + a * sine[e + head / 2];
  }
}

// `rows` <= 6 queries of one key-value head over its first `places` places; replaces scores, writes [rows][head].
void attend(int64_t rows, const float* query, int64_t head, float scale, const float* keys, const float* values,
            int64_t places, float* scores, float* mixed) {
  const int64_t pitch = padded(places, PANEL), deep = padded(head, SIXTEEN);
  for (int64_t n = 0; n < places; n += PANEL) {
    const float* block = keys + n * head;
    if (places - n <= SIXTEEN)
      tiles<SIXTEEN>(rows, block, PANEL, head, query, head, scores + n, pitch);
    else if (places - n <= 2 * SIXTEEN)
      tiles<2 * SIXTEEN>(rows, block, PANEL, head, query, head, scores + n, pitch);
    else
      tiles<PANEL>(rows, block, PANEL, head, query, head, scores + n, pitch);
  }
  for (int64_t r = 0; r < rows; r++) {
    float* row = scores + r * pitch;
    const int64_t end = padded(places, SIXTEEN);
    for (int64_t n = places; n < end; n++) row[n] = -INFINITY;
    Floats most = load(row);
    for (int64_t n = 0; n < end; n += LANES) {
      const Floats s = load(row + n) * scale;
      store(row + n, s);
      most = n == 0 ? s : (s > most ? s : most);
    }
    float top = most[0];
    for (int64_t l = 1; l < LANES; l++) top = most[l] > top ? most[l] : top;
    Floats sum = {};
    for (int64_t n = 0; n < end; n += LANES) {
      Floats e = exponential(load(row + n) - top);
      if (n + LANES > places)
        for (int64_t l = 0; l < LANES; l++) e[l] = n + l < places ? e[l] : 0.0f;
      sum += e;
      store(row + n, e);
    }
    float total = 0;
    for (int64_t l = 0; l < LANES; l++) total += sum[l];
    for (int64_t n = 0; n < end; n += LANES) store(row + n, load(row + n) / total);
  }
  float part[TALL * PANEL];
  for (int64_t e = 0; e < deep; e += PANEL) {
    const int64_t left = deep - e < PANEL ? deep - e : PANEL;
    if (left == PANEL)
      tiles<PANEL>(rows, values + e, deep, places, scores, pitch, part, PANEL);
    else
      for (int64_t c = 0; c < left; c += SIXTEEN)
        tiles<SIXTEEN>(rows, values + e + c, deep, places, scores, pitch, part + c, PANEL);
    for (int64_t r = 0; r < rows; r++)
      std::memcpy(mixed + r * head + e, part + r * PANEL, (head - e < left ? head - e : left) * sizeof(float));
  }
}

void embed(const Team& team, const Program& p, const int64_t* ids, int64_t items, int64_t steps, int64_t start) {
  int64_t first, last;
  team.share(p.width, first, last);
  for (int64_t m = 0; m < items * steps; m++) {
    float* x = p.x + m * p.width;
    for (int64_t d = first; d < last; d++) x[d] = 0;
    for (int64_t k = 0; k < p.codebooks; k++) {
      const float* row = p.embedding + (k * p.rows + ids[m * p.codebooks + k]) * p.width;
      for (int64_t d = first; d < last; d++) x[d] += row[d];
    }
    if (p.condition)
      for (int64_t d = first; d < last; d++) x[d] += p.condition[m / steps * p.width + d];
    if (p.added)
      for (int64_t d = first; d < last; d++) x[d] += p.added[(start + m % steps) * p.width + d];
  }
}

void self_attention(const Team& team, const Program& p, const Block& block, int64_t items, int64_t steps,
                    int64_t start) {
  const int64_t head = p.head, deep = padded(head, SIXTEEN), repeat = p.heads / p.kv_heads;
  const int64_t pitch = (p.heads + 2 * p.kv_heads) * head;
  int64_t first, last;
  team.share(items * p.kv_heads, first, last);
  // An item's head belongs to one thread, which writes its keys and values and then attends to them.
  for (int64_t task = first; task < last; task++) {
    const int64_t b = task / p.kv_heads, g = task % p.kv_heads;
    float* keys = block.keys + task * p.positions * head;
    float* values = block.values + task * p.positions * deep;
    for (int64_t s = 0; s < steps; s++) {
      float* row = p.heads_out + (b * steps + s) * pitch;
      const int64_t place = start + s;
      float* key = row + (p.heads + g) * head;
      for (int64_t h = g * repeat; h < (g + 1) * repeat; h++) {
        if (block.query_norm.gain) norm_row(block.query_norm, false, p.eps, head, row + h * head, row + h * head);
        if (p.cosine) rotate(row + h * head, p.cosine + place * head, p.sine + place * head, head);
      }
      if (block.key_norm.gain) norm_row(block.key_norm, false, p.eps, head, key, key);
      if (p.cosine) rotate(key, p.cosine + place * head, p.sine + place * head, head);
      for (int64_t e = 0; e < head; e++) keys[(place / PANEL * head + e) * PANEL + place % PANEL] = key[e];
      std::memcpy(values + place * deep, row + (p.heads + p.kv_heads + g) * head, head * sizeof(float));
      for (int64_t r = 0; r < repeat; r += TALL) {
        float* query = row + (g * repeat + r) * head;  // read whole before it is overwritten
        const int64_t rows = repeat - r < TALL ? repeat - r : TALL;
        attend(rows, query, head, p.scale, keys, values, place + 1, team.scores, query);
      }
    }
  }
}

void cross_attention(const Team& team, const Program& p, const Block& block, int64_t items, int64_t steps,
                     int64_t start) {
  const int64_t head = p.cross_head, deep = padded(head, SIXTEEN), repeat = p.cross_heads / p.cross_kv_heads;
  const int64_t pitch = p.cross_heads * head;
  int64_t first, last;
  team.share(items * p.cross_kv_heads, first, last);
  for (int64_t task = first; task < last; task++) {
    const int64_t b = task / p.cross_kv_heads, g = task % p.cross_kv_heads, places = p.memory_lengths[b];
    for (int64_t s = 0; s < steps; s++)
      for (int64_t r = 0; r < repeat; r += TALL) {
        const int64_t rows = repeat - r < TALL ? repeat - r : TALL;
        float* query = p.heads_out + (b * steps + s) * pitch + (g * repeat + r) * head;
        if (p.cross_cosine)
          for (int64_t h = 0; h < rows; h++)
            rotate(query + h * head, p.cross_cosine + (start + s) * head, p.cross_sine + (start + s) * head, head);
        if (places)
          attend(rows, query, head, p.cross_scale, block.memory_keys + task * p.memory_places * head,
                 block.memory_values + task * p.memory_places * deep, places, team.scores, query);
      }
  }
}

// Adds to x, but for items without a memory where `silent` says so.
void add_product(const Team& team, const Program& p, const Matrix& a, int64_t rows, int64_t steps, const float* from,
                 int64_t pitch, bool silent) {
  auto add = [&](int64_t m, int64_t o, int64_t size, const float* sums, const float*) {
    if (silent && p.memory_lengths[m / steps] == 0) return;
    for (int64_t c = 0; c < size; c++) p.x[m * p.width + o + c] += sums[c];
  };
  product(team, a, nullptr, rows, from, pitch, add);
}

void widen(const Team& team, const Program& p, const Block& block, int64_t rows) {
  product(team, block.gate, p.gated ? &block.up : nullptr, rows, p.h, p.width,
          [&](int64_t m, int64_t o, int64_t size, const float* gate, const float* up) {
            float made[PANEL];
            for (int64_t c = 0; c < PANEL; c += LANES)
              store(made + c, p.gated ? silu(load(gate + c)) * load(up + c) : gelu(load(gate + c)));
            std::memcpy(p.wide + m * p.feedforward + o, made, size * sizeof(float));
          });
}

void run(const Team& team, const Program& p, const int64_t* ids, int64_t items, int64_t steps, int64_t start,
         float* logits) {
  const int64_t rows = items * steps;
  embed(team, p, ids, items, steps, start);
  wait();
  for (int64_t layer = 0; layer < p.layers; layer++) {
    const Block& block = p.blocks[layer];
    norm_rows(team, p, block.attention_norm, rows);
    wait();
    set_product(team, block.qkv, rows, p.h, p.heads_out);
    wait();
    self_attention(team, p, block, items, steps, start);
    wait();
    // The mixed heads lie where their queries were.
    add_product(team, p, block.attention_out, rows, steps, p.heads_out, block.qkv.out, false);
    wait();
    if (p.memory_lengths) {
      norm_rows(team, p, block.cross_norm, rows);
      wait();
      set_product(team, block.cross_query, rows, p.h, p.heads_out);
      wait();
      cross_attention(team, p, block, items, steps, start);
      wait();
      add_product(team, p, block.cross_out, rows, steps, p.heads_out, block.cross_query.out, true);
      wait();
    }
    norm_rows(team, p, block.feedforward_norm, rows);
    wait();
    widen(team, p, block, rows);
    wait();
    add_product(team, p, block.down, rows, steps, p.wide, p.feedforward, false);
    wait();
  }
  int64_t first, last;
  team.share(items, first, last);
  for (int64_t b = first; b < last; b++)
    norm_row(p.norm, p.layer_norm, p.eps, p.width, p.x + ((b + 1) * steps - 1) * p.width, p.h + b * p.width);
  wait();
  set_product(team, p.head_matrix, items, p.h, logits);
}

}  // namespace

// Rows start .. start + steps - 1 of `items` items: ids [items, steps, K] -> logits [items, K * V] after the last row.
extern "C" void partimento_step(const Program* program, const int64_t* ids, int64_t items, int64_t steps,
                                int64_t start, float* logits) {
#pragma omp parallel num_threads(program->threads)
  {
    int64_t thread = 0, threads = 1;
#ifdef _OPENMP
    thread = omp_get_thread_num(), threads = omp_get_num_threads();
#endif
    float* own = program->own + thread * (program->scores_size + program->sums_size);
    run({thread, threads, own, own + program->scores_size}, *program, ids, items, steps, start, logits);
  }
}
