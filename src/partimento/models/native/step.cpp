// One step of a code decoder on a CPU: from ids to logits in one call, for any batch, length, width and weight type.
//
// Weights are packed into panels of 64 outputs (input-major inside a panel), so that a product of a few rows reads
// every weight once, in order, at the bandwidth of the memory. Each output of each row is one chain of additions in
// the order of its inputs: what a row gives does not depend on the rows beside it. All threads stay in one parallel
// region.
//
// In bfloat16 both factors of every product (weights and activations, queries and keys, mixture and values) lie in
// pairs of inputs, which one instruction multiplies and adds to a float32: twice the arithmetic, for half the bytes.
//
// The structures below are mirrored, field by field, in structures.py.
// Names: B items, S rows of the grid of each, M = B * S, D width, G key-value heads, E head width, P positions.

#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

// The vectors of this processor, how many columns of a panel are summed at once for up to six rows (its registers are
// full then), and how many rows are summed at once, if need be for half of those columns.
#if defined(__AVX512F__)
constexpr int64_t LANES = 16, STRIP = 64, TALL = 8;
#elif defined(__AVX__)
constexpr int64_t LANES = 8, STRIP = 16, TALL = 6;
#else
constexpr int64_t LANES = 4, STRIP = 16, TALL = 6;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t Shorts __attribute__((vector_size(2 * LANES)));
// So many bytes of a panel stay in the first cache for all rows.
constexpr int64_t PANEL = 64, NEAR = 32768, LINE = 64, SIXTEEN = 16;

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

// Two inputs of an output in bfloat16, the upper half of a float; the first lies in the lower half.
struct Pair {
  uint32_t both;
};
template <class W> struct Inputs { typedef float Type; static constexpr int64_t TOGETHER = 1; };
template <> struct Inputs<Pair> { typedef uint16_t Type; static constexpr int64_t TOGETHER = 2; };

inline Shorts rounded(Floats x) {
#ifdef __AVX512BF16__
  const __m256bh narrow = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(x));
  Shorts made;
  std::memcpy(&made, &narrow, sizeof made);
  return made;
#else
  Ints bits;
  std::memcpy(&bits, &x, sizeof bits);
  return __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, Shorts);
#endif
}
inline uint16_t rounded(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline void put(float x, float* to) { *to = x; }
inline void put(float x, uint16_t* to) { *to = rounded(x); }

// sum + weight * x, for one input of every row or a pair of them
inline Floats plus(Floats sum, Floats weight, float x) { return sum + weight * x; }
inline Floats plus(Floats sum, Floats weight, Pair x) {
  const Ints both = static_cast<int32_t>(x.both) - Ints{};
#ifdef __AVX512BF16__
  __m512bh a, b;
  std::memcpy(&a, &weight, sizeof a);
  std::memcpy(&b, &both, sizeof b);
  return reinterpret_cast<Floats>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), a, b));
#else
  Ints pair;
  std::memcpy(&pair, &weight, sizeof pair);
  sum += floats_of(pair << 16) * floats_of(both << 16);
  return sum + floats_of(pair & -65536) * floats_of(both & -65536);
#endif
}

// The weights of columns c .. c + LANES of a row of a panel. Those of int8 lie beside those 16, 32 and 48 columns
// further on, in one int32: taken apart by shifts, which every compiler makes well (of widening conversions it makes one
// lane at a time).
inline Floats column(const float* row, int64_t c) { return load(row + c); }
inline Floats column(const Pair* row, int64_t c) {
  Floats v;
  std::memcpy(&v, row + c, sizeof v);
  return v;
}
inline Floats column(const int8_t* row, int64_t c) {
  Ints four;
  std::memcpy(&four, row + c % SIXTEEN * 4, sizeof four);
  return __builtin_convertvector(four << (24 - c / SIXTEEN * 8) >> 24, Floats);
}

// What is fetched into the cache while something else is computed: so many lines for every input, up to the end.
struct Ahead {
  const char *at = nullptr, *end = nullptr;
  int64_t lines = 0;
  Ahead() = default;
  Ahead(const void* from, int64_t bytes, int64_t inputs)
      : at(static_cast<const char*>(from)), end(at ? at + bytes : at),
        lines(inputs ? (bytes / LINE + inputs - 1) / inputs : 0) {}
};

// out[r][FIRST .. FIRST + C * LANES) = x[r][0..in) times a panel whose rows are `pitch` apart; `more`: added to out.
template <int R, int C, int FIRST, class W, class X>
void tile(const W* panel, int64_t pitch, int64_t in, const X* x, int64_t x_pitch, float* out, int64_t out_pitch,
          bool more, Ahead& ahead) {
  Floats sum[R][C] = {};
  if (more)
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) sum[r][c] = load(out + r * out_pitch + FIRST + c * LANES);
  const char *fetch = ahead.at, *const end = ahead.end;
  const int64_t step = ahead.lines * LINE;
  for (int64_t i = 0; i < in; i++) {
    if (fetch < end)
      for (const char* stop = fetch + step; fetch < stop; fetch += LINE) __builtin_prefetch(fetch, 0, 2);
    Floats weight[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) weight[c] = column(panel + i * pitch, FIRST + c * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) sum[r][c] = plus(sum[r][c], weight[c], x[r * x_pitch + i]);
  }
  ahead.at = fetch;
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) store(out + r * out_pitch + FIRST + c * LANES, sum[r][c]);
}

// The first COLUMNS of a panel, a strip at a time, times R rows.
template <int R, int COLUMNS, int FIRST, class W, class X>
void strips(const W* panel, int64_t pitch, int64_t in, const X* x, int64_t x_pitch, float* out, int64_t out_pitch,
            bool more, Ahead& ahead) {
  constexpr int64_t WIDE = R > 6 ? STRIP / 2 : STRIP;
  tile<R, (COLUMNS < WIDE ? COLUMNS : WIDE) / LANES, FIRST>(panel, pitch, in, x, x_pitch, out, out_pitch, more, ahead);
  if constexpr (COLUMNS > WIDE)
    strips<R, COLUMNS - WIDE, FIRST + WIDE>(panel, pitch, in, x, x_pitch, out, out_pitch, more, ahead);
}

// The same times `rows` <= TALL rows.
template <int COLUMNS, int R = TALL, class W, class X>
void tiles(int64_t rows, const W* panel, int64_t pitch, int64_t in, const X* x, int64_t x_pitch, float* out,
           int64_t out_pitch, bool more, Ahead& ahead) {
  if constexpr (R > 1)
    if (rows < R) return tiles<COLUMNS, R - 1>(rows, panel, pitch, in, x, x_pitch, out, out_pitch, more, ahead);
  strips<R, COLUMNS, 0>(panel, pitch, in, x, x_pitch, out, out_pitch, more, ahead);
}

}  // namespace

extern "C" {

struct Matrix {
  const void* weight;  // [panels][in][64], in bfloat16 [panels][in / 2][64][2], in int8 see `column`
  const float *scale, *bias;  // of an output, or null
  int64_t in, out, kind;  // kind 0 float32, 1 bfloat16, 2 int8
};

struct Norm {
  const float *gain, *bias;
};

// A second feed-forward of the same rows: narrowed by `in`, up, out, widened by `back`. A matrix without a weight is not
// there.
struct Expert {
  Matrix in, up, out, back;
};

struct Block {
  Norm attention_norm, cross_norm, feedforward_norm, query_norm, key_norm;
  Matrix qkv, attention_out, cross_query, cross_out, gate, up, down;  // gate, up, down are not there beside no expert
  Expert attention_expert, expert;  // of what attention reads, of what the feed-forward reads
  // [B][G][P / 64][E][64] and [B][G][P][E]; P a multiple of 64, E of values padded to 16. If `paired`, bfloat16 in
  // [B][G][P / 64][E / 2][64][2] and [B][G][P / 2][E][2].
  void *keys, *values;
  const void *memory_keys, *memory_values;  // the same with the places of the memory
};

struct Program {
  int64_t width, codebooks, rows, heads, kv_heads, head, cross_heads, cross_kv_heads, cross_head;
  int64_t layers, layer_norm, positions, memory_places, threads, paired;
  float eps, scale, cross_scale, unused;
  const float *embedding, *condition, *added;  // condition [B, D], added [positions, D], or null
  const float *cosine, *sine, *cross_cosine, *cross_sine;  // [positions, E], the first half of the sines negative
  const int64_t* memory_lengths;  // [B] or null
  const int64_t* before;  // [B]: places of the cache that are filled before the first row; or null, for none
  Norm norm;
  Matrix head_matrix;
  const Block* blocks;
  // [M, D], [M, D], [M, most of all], [M, F], [M, what experts narrow to], [threads, scores + sums + pairs]
  float *x, *h, *heads_out, *wide, *narrow, *own;
  int64_t scores_size, sums_size, pairs_size;
};

}  // extern "C"

namespace {

struct Team {
  int64_t thread, threads;
  float *scores, *sums, *pairs;  // of this thread: [TALL, places], [2, M, 64], [M or TALL, most inputs or places]
  void share(int64_t n, int64_t& first, int64_t& last) const {
    first = n * thread / threads;
    last = n * (thread + 1) / threads;
  }
};

inline void wait() {
#pragma omp barrier
}

inline int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// [rows][in] floats as pairs in bfloat16, [rows][padded(in, 32) / 2].
const Pair* paired(int64_t rows, int64_t in, const float* x, int64_t x_pitch, float* pairs) {
  const int64_t pitch = padded(in, 2 * SIXTEEN);
  uint16_t* made = reinterpret_cast<uint16_t*>(pairs);
  for (int64_t r = 0; r < rows; r++) {
    int64_t i = 0;
    for (; i + LANES <= in; i += LANES) {
      const Shorts narrow = rounded(load(x + r * x_pitch + i));
      std::memcpy(made + r * pitch + i, &narrow, sizeof narrow);
    }
    for (; i < in; i++) put(x[r * x_pitch + i], made + r * pitch + i);
    if (in % 2) put(0.0f, made + r * pitch + in);
  }
  return reinterpret_cast<const Pair*>(pairs);
}

const char* panel_at(const Matrix& a, int64_t panel) {
  const int64_t bytes = a.kind == 0 ? a.in * 4 : a.kind == 1 ? (a.in + 1) / 2 * 4 : a.in;
  return static_cast<const char*>(a.weight) + panel * bytes * PANEL;
}

// One panel of a matrix, of `in` rows, times all rows: sums, not scaled and without bias yet, in out[rows][64]. `after`
// is what is read next.
template <class W, class X>
void panel_of(const W* panel, int64_t in, int64_t rows, const X* x, int64_t x_pitch, float* out, const void* after) {
  const int64_t parts = (rows + TALL - 1) / TALL, passes = parts * (rows / parts > 6 ? 2 : 1) * (PANEL / STRIP);
  constexpr int64_t DEEP = NEAR / (PANEL * sizeof(W));
  for (int64_t i = 0; i < in; i += DEEP) {
    const int64_t deep = in - i < DEEP ? in - i : DEEP;
    const W* at = panel + i * PANEL;
    // Memory and arithmetic at one time. (One or two rows of wide weights wait for memory
    // alone, which the processor fetches best by itself.)
    const void* next = i + deep < in ? at + deep * PANEL : after;
    Ahead ahead(rows > 2 || sizeof(W) == 1 ? next : nullptr, deep * PANEL * sizeof(W), deep * passes);
    for (int64_t part = 0; part < parts; part++) {
      const int64_t begin = rows * part / parts, count = rows * (part + 1) / parts - begin;
      tiles<PANEL>(count, at, PANEL, deep, x + begin * x_pitch + i, x_pitch, out + begin * PANEL, PANEL, i > 0, ahead);
    }
  }
}

// The same, finished; `pairs` are the rows x where the matrix is in pairs.
void finished_panel_of(const Matrix& a, int64_t panel, int64_t rows, const float* x, int64_t x_pitch,
                       const Pair* pairs, float* out, const void* after) {
  const char* at = panel_at(a, panel);
  if (a.kind == 0)
    panel_of(reinterpret_cast<const float*>(at), a.in, rows, x, x_pitch, out, after);
  else if (a.kind == 1)
    panel_of(reinterpret_cast<const Pair*>(at), (a.in + 1) / 2, rows, pairs, padded(a.in, 2 * SIXTEEN) / 2, out, after);
  else
    panel_of(reinterpret_cast<const int8_t*>(at), a.in, rows, x, x_pitch, out, after);
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
// `next` is the matrix that is read after these.
template <class Visit>
void product(const Team& team, const Matrix& one, const Matrix* two, const Matrix* next, int64_t rows, const float* x,
             int64_t pitch, Visit visit) {
  float *sums = team.sums, *others = team.sums + rows * PANEL;
  const Pair* pairs = one.kind == 1 ? paired(rows, one.in, x, pitch, team.pairs) : nullptr;
  int64_t first, last, first_next, last_next;
  team.share((one.out + PANEL - 1) / PANEL, first, last);
  if (next) team.share((next->out + PANEL - 1) / PANEL, first_next, last_next);
  for (int64_t panel = first; panel < last; panel++) {
    const char* after = panel + 1 < last ? panel_at(one, panel + 1) : next ? panel_at(*next, first_next) : nullptr;
    finished_panel_of(one, panel, rows, x, pitch, pairs, sums, two ? panel_at(*two, panel) : after);
    if (two) finished_panel_of(*two, panel, rows, x, pitch, pairs, others, after);
    const int64_t o = panel * PANEL, size = one.out - o < PANEL ? one.out - o : PANEL;
    for (int64_t r = 0; r < rows; r++) visit(r, o, size, sums + r * PANEL, others + r * PANEL);
  }
}

void set_product(const Team& team, const Matrix& a, const Matrix* next, int64_t rows, const float* x, float* to) {
  auto set = [&](int64_t row, int64_t o, int64_t size, const float* sums, const float*) {
    std::memcpy(to + row * a.out + o, sums, size * sizeof(float));
  };
  product(team, a, nullptr, next, rows, x, a.in, set);
}

void accumulate(float* to, const float* from, int64_t size) {
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) store(to + i, load(to + i) + load(from + i));
  for (; i < size; i++) to[i] += from[i];
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

// `scores` of one query over its places become their softmax; zeros up to a multiple of 16 places.
void softmax(float* scores, int64_t places, float scale) {
  const int64_t end = padded(places, SIXTEEN);
  for (int64_t n = places; n < end; n++) scores[n] = -INFINITY;
  Floats most = load(scores) * scale;
  for (int64_t n = 0; n < end; n += LANES) {
    const Floats s = load(scores + n) * scale;
    store(scores + n, s);
    most = s > most ? s : most;
  }
  float top = most[0];
  for (int64_t l = 1; l < LANES; l++) top = most[l] > top ? most[l] : top;
  Floats sum = {};
  for (int64_t n = 0; n < end; n += LANES) {
    const Floats s = load(scores + n);
    const Floats e = s < -1e38f ? Floats{} : exponential(s - top);
    sum += e;
    store(scores + n, e);
  }
  float total = 0;
  for (int64_t l = 0; l < LANES; l++) total += sum[l];
  for (int64_t n = 0; n < end; n += LANES) store(scores + n, load(scores + n) / total);
}

inline const float* as_inputs(const float*, const Team&, int64_t, int64_t, const float* x, int64_t x_pitch,
                              int64_t& pitch) {
  pitch = x_pitch;
  return x;
}
inline const Pair* as_inputs(const Pair*, const Team& team, int64_t rows, int64_t in, const float* x, int64_t x_pitch,
                             int64_t& pitch) {
  pitch = padded(in, 2 * SIXTEEN) / 2;
  return paired(rows, in, x, x_pitch, team.pairs);
}

// `rows` <= TALL queries [rows][head] of one key-value head over its first `places` places; the mixtures take their
// place. `next`: the keys that are read next, or null.
template <class W>
void attend(const Team& team, int64_t rows, float* query, int64_t head, float scale, const W* keys, const W* values,
            int64_t places, const W* next) {
  constexpr int64_t TOGETHER = Inputs<W>::TOGETHER;
  const int64_t panels = (places + PANEL - 1) / PANEL, pitch = panels * PANEL, deep = padded(head, SIXTEEN);
  const int64_t inputs = (head + TOGETHER - 1) / TOGETHER, together = (places + TOGETHER - 1) / TOGETHER;
  float* scores = team.scores;
  int64_t x_pitch;
  auto x = as_inputs(keys, team, rows, head, query, head, x_pitch);
  Ahead ahead(values, together * deep * sizeof(W), panels * inputs);
  for (int64_t n = 0; n < places; n += PANEL) {
    const W* block = keys + n * inputs;
    if (places - n <= SIXTEEN)
      tiles<SIXTEEN>(rows, block, PANEL, inputs, x, x_pitch, scores + n, pitch, false, ahead);
    else if (places - n <= 2 * SIXTEEN)
      tiles<2 * SIXTEEN>(rows, block, PANEL, inputs, x, x_pitch, scores + n, pitch, false, ahead);
    else
      tiles<PANEL>(rows, block, PANEL, inputs, x, x_pitch, scores + n, pitch, false, ahead);
  }
  for (int64_t r = 0; r < rows; r++) softmax(scores + r * pitch, places, scale);
  x = as_inputs(values, team, rows, padded(places, SIXTEEN), scores, pitch, x_pitch);
  // (Of a panel that is not half full most would be fetched in vain.)
  ahead = {next, (places + PANEL / 2) / PANEL * PANEL * inputs * int64_t(sizeof(W)),
           together * ((deep + PANEL - 1) / PANEL)};
  float part[TALL * PANEL];
  for (int64_t e = 0; e < deep; e += PANEL) {
    const int64_t left = deep - e < PANEL ? deep - e : PANEL;
    if (left == PANEL)
      tiles<PANEL>(rows, values + e, deep, together, x, x_pitch, part, PANEL, false, ahead);
    else
      for (int64_t c = 0; c < left; c += SIXTEEN)
        tiles<SIXTEEN>(rows, values + e + c, deep, together, x, x_pitch, part + c, PANEL, false, ahead);
    for (int64_t r = 0; r < rows; r++)
      std::memcpy(query + r * head + e, part + r * PANEL, (head - e < left ? head - e : left) * sizeof(float));
  }
}

void embed(const Team& team, const Program& p, const int64_t* ids, int64_t items, int64_t steps, int64_t start) {
  int64_t first, last;
  team.share(p.width, first, last);
  for (int64_t m = 0; m < items * steps; m++) {
    float* x = p.x + m * p.width + first;
    std::memset(x, 0, (last - first) * sizeof(float));
    for (int64_t k = 0; k < p.codebooks; k++)
      accumulate(x, p.embedding + (k * p.rows + ids[m * p.codebooks + k]) * p.width + first, last - first);
    if (p.condition) accumulate(x, p.condition + m / steps * p.width + first, last - first);
    if (p.added) accumulate(x, p.added + (start + m % steps) * p.width + first, last - first);
  }
}

// Writes key and value of a place.
template <class W>
void remember(const float* key, const float* value, int64_t head, int64_t place, W* keys, W* values) {
  constexpr int64_t TOGETHER = Inputs<W>::TOGETHER;
  typedef typename Inputs<W>::Type Type;
  const int64_t inputs = (head + TOGETHER - 1) / TOGETHER, deep = padded(head, SIXTEEN);
  Type* to = reinterpret_cast<Type*>(keys + place / PANEL * inputs * PANEL + place % PANEL);
  for (int64_t e = 0; e < head; e++) put(key[e], to + e / TOGETHER * PANEL * TOGETHER + e % TOGETHER);
  to = reinterpret_cast<Type*>(values + place / TOGETHER * deep);
  for (int64_t e = 0; e < head; e++) {
    put(value[e], to + e * TOGETHER + place % TOGETHER);
    if (TOGETHER == 2 && place % 2 == 0) put(0.0f, to + e * 2 + 1);  // nothing of an earlier playing
  }
}

template <class W>
void self_attention(const Team& team, const Program& p, const Block& block, int64_t items, int64_t steps,
                    int64_t start) {
  constexpr int64_t TOGETHER = Inputs<W>::TOGETHER;
  const int64_t head = p.head, deep = padded(head, SIXTEEN), repeat = p.heads / p.kv_heads;
  const int64_t pitch = (p.heads + 2 * p.kv_heads) * head;
  const int64_t keys_size = p.positions * ((head + TOGETHER - 1) / TOGETHER);
  const int64_t values_size = p.positions / TOGETHER * deep;
  int64_t first, last;
  team.share(items * p.kv_heads, first, last);
  // An item's head belongs to one thread, which writes its keys and values and then attends to them.
  for (int64_t task = first; task < last; task++) {
    const int64_t b = task / p.kv_heads, g = task % p.kv_heads;
    W* keys = static_cast<W*>(block.keys) + task * keys_size;
    W* values = static_cast<W*>(block.values) + task * values_size;
    for (int64_t s = 0; s < steps; s++) {
      float* row = p.heads_out + (b * steps + s) * pitch;
      const int64_t place = start + s + (p.before ? p.before[b] : 0);
      float* key = row + (p.heads + g) * head;
      for (int64_t h = g * repeat; h < (g + 1) * repeat; h++) {
        if (block.query_norm.gain) norm_row(block.query_norm, false, p.eps, head, row + h * head, row + h * head);
        if (p.cosine) rotate(row + h * head, p.cosine + place * head, p.sine + place * head, head);
      }
      if (block.key_norm.gain) norm_row(block.key_norm, false, p.eps, head, key, key);
      if (p.cosine) rotate(key, p.cosine + place * head, p.sine + place * head, head);
      remember(key, row + (p.heads + p.kv_heads + g) * head, head, place, keys, values);
      for (int64_t r = 0; r < repeat; r += TALL) {
        const int64_t rows = repeat - r < TALL ? repeat - r : TALL;
        const W* next = s + 1 == steps && r + TALL >= repeat && task + 1 < last ? keys + keys_size : nullptr;
        attend<W>(team, rows, row + (g * repeat + r) * head, head, p.scale, keys, values, place + 1, next);
      }
    }
  }
}

template <class W>
void cross_attention(const Team& team, const Program& p, const Block& block, int64_t items, int64_t steps,
                     int64_t start) {
  constexpr int64_t TOGETHER = Inputs<W>::TOGETHER;
  const int64_t head = p.cross_head, deep = padded(head, SIXTEEN), repeat = p.cross_heads / p.cross_kv_heads;
  const int64_t pitch = p.cross_heads * head;
  const int64_t keys_size = p.memory_places * ((head + TOGETHER - 1) / TOGETHER);
  const int64_t values_size = p.memory_places / TOGETHER * deep;
  int64_t first, last;
  team.share(items * p.cross_kv_heads, first, last);
  for (int64_t task = first; task < last; task++) {
    const int64_t b = task / p.cross_kv_heads, g = task % p.cross_kv_heads, places = p.memory_lengths[b];
    const W* keys = static_cast<const W*>(block.memory_keys) + task * keys_size;
    const W* values = static_cast<const W*>(block.memory_values) + task * values_size;
    for (int64_t s = 0; s < steps; s++)
      for (int64_t r = 0; r < repeat; r += TALL) {
        const int64_t rows = repeat - r < TALL ? repeat - r : TALL;
        float* query = p.heads_out + (b * steps + s) * pitch + (g * repeat + r) * head;
        if (p.cross_cosine)
          for (int64_t h = 0; h < rows; h++)
            rotate(query + h * head, p.cross_cosine + (start + s) * head, p.cross_sine + (start + s) * head, head);
        const W* next = s + 1 == steps && r + TALL >= repeat && task + 1 < last ? keys + keys_size : nullptr;
        if (places) attend<W>(team, rows, query, head, p.cross_scale, keys, values, places, next);
      }
  }
}

// Adds to x, but for items without a memory where `silent` says so.
void add_product(const Team& team, const Program& p, const Matrix& a, const Matrix* next, int64_t rows, int64_t steps,
                 const float* from, int64_t pitch, bool silent) {
  auto add = [&](int64_t m, int64_t o, int64_t size, const float* sums, const float*) {
    if (silent && p.memory_lengths[m / steps] == 0) return;
    accumulate(p.x + m * p.width + o, sums, size);
  };
  product(team, a, nullptr, next, rows, from, pitch, add);
}

// to[rows][gate.out] = silu(gate x) * up x, or gelu(gate x) where there is no `up`.
void widen(const Team& team, const Matrix& gate, const Matrix& up, const Matrix* next, int64_t rows, const float* x,
           float* to) {
  const bool gated = up.weight;
  auto act = [&](int64_t m, int64_t o, int64_t size, const float* one, const float* two) {
    float made[PANEL];
    for (int64_t c = 0; c < PANEL; c += LANES)
      store(made + c, gated ? silu(load(one + c)) * load(two + c) : gelu(load(one + c)));
    std::memcpy(to + m * gate.out + o, made, size * sizeof(float));
  };
  product(team, gate, gated ? &up : nullptr, next, rows, x, gate.in, act);
}

// Adds to x what an expert makes of h. `next` is the matrix that is read after it.
void add_expert(const Team& team, const Program& p, const Expert& e, const Matrix* next, int64_t rows, int64_t steps) {
  const float* from = p.h;
  if (e.in.weight) {
    set_product(team, e.in, &e.up, rows, p.h, p.narrow);
    wait();
    from = p.narrow;
  }
  widen(team, e.up, Matrix{}, &e.out, rows, from, p.wide);
  wait();
  if (e.back.weight) {
    set_product(team, e.out, &e.back, rows, p.wide, p.narrow);
    wait();
    add_product(team, p, e.back, next, rows, steps, p.narrow, e.back.in, false);
  } else {
    add_product(team, p, e.out, next, rows, steps, p.wide, e.out.in, false);
  }
  wait();
}

template <class W>
void run(const Team& team, const Program& p, const int64_t* ids, int64_t items, int64_t steps, int64_t start,
         float* logits) {
  const int64_t rows = items * steps;
  embed(team, p, ids, items, steps, start);
  wait();
  for (int64_t layer = 0; layer < p.layers; layer++) {
    const Block& block = p.blocks[layer];
    norm_rows(team, p, block.attention_norm, rows);
    wait();
    set_product(team, block.qkv, &block.attention_out, rows, p.h, p.heads_out);
    wait();
    self_attention<W>(team, p, block, items, steps, start);
    wait();
    // The mixed heads lie where their queries were.
    const Matrix* next = p.memory_lengths ? &block.cross_query : block.gate.weight ? &block.gate : nullptr;
    if (block.attention_expert.up.weight) next = &block.attention_expert.up;
    add_product(team, p, block.attention_out, next, rows, steps, p.heads_out, block.qkv.out, false);
    wait();
    if (block.attention_expert.up.weight) add_expert(team, p, block.attention_expert, &block.gate, rows, steps);
    if (p.memory_lengths) {
      norm_rows(team, p, block.cross_norm, rows);
      wait();
      set_product(team, block.cross_query, &block.cross_out, rows, p.h, p.heads_out);
      wait();
      cross_attention<W>(team, p, block, items, steps, start);
      wait();
      add_product(team, p, block.cross_out, &block.gate, rows, steps, p.heads_out, block.cross_query.out, true);
      wait();
    }
    norm_rows(team, p, block.feedforward_norm, rows);
    wait();
    next = layer + 1 < p.layers ? &p.blocks[layer + 1].qkv : &p.head_matrix;
    if (block.gate.weight) {
      widen(team, block.gate, block.up, &block.down, rows, p.h, p.wide);
      wait();
      const Matrix* after = block.expert.in.weight ? &block.expert.in : block.expert.up.weight ? &block.expert.up : next;
      add_product(team, p, block.down, after, rows, steps, p.wide, block.down.in, false);
      wait();
    }
    if (block.expert.up.weight) add_expert(team, p, block.expert, next, rows, steps);
  }
  int64_t first, last;
  team.share(items, first, last);
  for (int64_t b = first; b < last; b++)
    norm_row(p.norm, p.layer_norm, p.eps, p.width, p.x + ((b + 1) * steps - 1) * p.width, p.h + b * p.width);
  wait();
  set_product(team, p.head_matrix, nullptr, items, p.h, logits);
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
    const Program& p = *program;
    float* own = p.own + thread * (p.scores_size + p.sums_size + p.pairs_size);
    const Team team{thread, threads, own, own + p.scores_size, own + p.scores_size + p.sums_size};
    if (p.paired)
      run<Pair>(team, p, ids, items, steps, start, logits);
    else
      run<float>(team, p, ids, items, steps, start, logits);
  }
}
