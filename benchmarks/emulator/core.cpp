// Functional PTX emulator: a CTA's warps in lockstep per instruction, 32 lanes at a time.
// Built once by core.py; decode.py turns PTX into `Ins`.
#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <tuple>
#include <vector>

typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;
typedef int8_t s8; typedef int16_t s16; typedef int32_t s32; typedef int64_t s64;
typedef unsigned __int128 u128; typedef __int128 s128;

struct Ins {
  u32 op;        // index of the handler
  s32 pred;      // offset of the guard predicate, -1: none
  u32 pneg;      // guard negated
  u32 d[4], s[4];  // byte offsets in a warp's register file
  u32 dw, sw;    // width in bytes of destination and source registers (or of the address)
  u32 n, es, sx; // memory: elements, bytes of one, sign extension
  u32 tgt;       // branch target
  u32 flags;
  s64 imm;
};

struct Shadow { u32 wcta, wepoch, wpc, rcta, repoch, rpc; u16 wthr, rthr; u8 multi, init, pad[2]; };
struct Region { u64 base, size; u8* allowed; Shadow* sh; u32 id; u32 tracked; };
struct Finding { u32 kind, pc, pc2, cta, thread, thread2, region; u64 offset, count; };
enum { OUT_OF_BOUNDS = 1, MISALIGNED, SHARED_RACE, GLOBAL_RACE, CTA_RACE, UNINIT_SHARED, UNINIT_GLOBAL,
       GAP_ACCESS, DIVERGENT_BARRIER, DEADLOCK, HANG, BAD_SYNC, SHARED_OUT, WARP_SHARED, WARP_GLOBAL,
       SAME_VALUE_RACE, STORE_CONFLICT, TRAP };

struct Grp { u32 pc, mask, state; };   // state 0: runs, 1: at the barrier, 2: waits for its warp
struct W {
  u8* rf; u32 alive; int id; std::vector<Grp> g; u64 tsc;
};

static u64 rng_state = 1;
static inline u64 rnd() { rng_state ^= rng_state << 13; rng_state ^= rng_state >> 7; rng_state ^= rng_state << 17; return rng_state * 0x2545F4914F6CDD1DULL; }

static struct Ctx {
  const Ins* code; u32 n_code;
  std::vector<Region> regions; size_t last;
  const u8* params;
  u8* smem; u32 smem_size; Shadow* ssh; u8* local; u32 local_size;
  u32 grid[3], ctaid[3], ntid, cta, epoch, pc;
  int races, profile; double perturb; u64 salt;
  u64 *hits, *lanes, *bytes, *sectors, *waves;
  std::vector<Finding> found; std::map<std::tuple<u32,u32,u32>, size_t> index;
} C;

static void report(u32 kind, u32 pc, u32 pc2, u32 thread, u32 thread2, u32 region, u64 offset) {
  auto key = std::make_tuple(kind, pc, pc2);
  auto it = C.index.find(key);
  if (it != C.index.end()) { C.found[it->second].count++; return; }
  C.index[key] = C.found.size();
  C.found.push_back({kind, pc, pc2, C.cta, thread, thread2, region, offset, 1});
}

typedef void (*Handler)(W&, const Ins&, u32);
struct Op { Handler fn; std::string sig; u32 kind; };
enum { PLAIN, BRANCH, EXIT, BARRIER, SYNC, NOP };
static std::vector<Op>& ops() { static std::vector<Op> v; return v; }
static std::map<std::string, u32>& names() { static std::map<std::string, u32> m; return m; }
static void reg(const std::string& name, const std::string& sig, Handler fn, u32 kind = PLAIN) {
  names()[name] = ops().size(); ops().push_back({fn, sig, kind});
}

template <class T> static inline T* R(W& w, u32 off) { return (T*)(w.rf + off); }
#define FULL 0xffffffffu
#define ACTIVE(l) ((m >> (l)) & 1)

template <class D, class A, class F> static inline void un(W& w, const Ins& i, u32 m, F f) {
  D* d = R<D>(w, i.d[0]); const A* a = R<A>(w, i.s[0]);
  if (m == FULL) {
#pragma GCC ivdep
    for (int l = 0; l < 32; l++) d[l] = f(a[l]);
  } else for (int l = 0; l < 32; l++) if (ACTIVE(l)) d[l] = f(a[l]);
}
template <class D, class A, class B, class F> static inline void bin(W& w, const Ins& i, u32 m, F f) {
  D* d = R<D>(w, i.d[0]); const A* a = R<A>(w, i.s[0]); const B* b = R<B>(w, i.s[1]);
  if (m == FULL) {
#pragma GCC ivdep
    for (int l = 0; l < 32; l++) d[l] = f(a[l], b[l]);
  } else for (int l = 0; l < 32; l++) if (ACTIVE(l)) d[l] = f(a[l], b[l]);
}
template <class D, class A, class B, class E, class F> static inline void tri(W& w, const Ins& i, u32 m, F f) {
  D* d = R<D>(w, i.d[0]); const A* a = R<A>(w, i.s[0]); const B* b = R<B>(w, i.s[1]); const E* c = R<E>(w, i.s[2]);
  if (m == FULL) {
#pragma GCC ivdep
    for (int l = 0; l < 32; l++) d[l] = f(a[l], b[l], c[l]);
  } else for (int l = 0; l < 32; l++) if (ACTIVE(l)) d[l] = f(a[l], b[l], c[l]);
}
template <class A, class F> static inline void cmp(W& w, const Ins& i, u32 m, F f) {
  u32* d = R<u32>(w, i.d[0]); const A* a = R<A>(w, i.s[0]); const A* b = R<A>(w, i.s[1]);
  u32 bits = 0;
  for (int l = 0; l < 32; l++) bits |= (u32)f(a[l], b[l]) << l;
  if (i.flags) {  // combined with a predicate: 1 and, 2 or, 3 xor; 4: negated
    u32 p = *R<u32>(w, i.s[2]); if (i.flags & 4) p = ~p;
    bits = (i.flags & 3) == 1 ? bits & p : (i.flags & 3) == 2 ? bits | p : bits ^ p;
  }
  *d = (*d & ~m) | (bits & m);
}

static inline float ftz(float x) { u32 b; memcpy(&b, &x, 4); if (!(b & 0x7f800000)) b &= 0x80000000; memcpy(&x, &b, 4); return x; }
static inline float canon(float x) { u32 b = 0x7fffffff; float n; memcpy(&n, &b, 4); return x != x ? n : x; }
static inline double canon(double x) { return x; }
template <bool Z> static inline float fz(float x) { return Z ? ftz(x) : x; }
template <bool Z> static inline double fz(double x) { return x; }
template <class T> static inline T fmin_ptx(T a, T b) { if (a != a) return canon(b); if (b != b) return a; if (a == 0 && b == 0) return std::signbit(a) ? a : b; return a < b ? a : b; }
template <class T> static inline T fmax_ptx(T a, T b) { if (a != a) return canon(b); if (b != b) return a; if (a == 0 && b == 0) return std::signbit(a) ? b : a; return a > b ? a : b; }
static inline float sat(float x) { return x != x ? 0.f : x < 0 ? 0.f : x > 1 ? 1.f : x; }
// Approximate instructions: exact to fp64, rounded, then off by a relative error of up to `perturb`.
// The error is a function of the result: the same input gives the same output in every lane.
static inline float approx(double x) {
  if (C.perturb != 0 && std::isfinite(x)) {
    u64 h; memcpy(&h, &x, 8); h = (h ^ C.salt) * 0x9E3779B97F4A7C15ULL; h ^= h >> 29; h *= 0xBF58476D1CE4E5B9ULL; h ^= h >> 32;
    x *= 1 + C.perturb * ((double)(s64)h / 9.3e18);
  }
  return (float)x;
}
static float h2f(u16 h) {
  u32 s = (u32)(h & 0x8000) << 16, e = (h >> 10) & 31, f = h & 1023, b; float x;
  if (e == 31) b = s | 0x7f800000 | (f << 13) | (f ? 0x400000 : 0);
  else if (e) b = s | ((e + 112) << 23) | (f << 13);
  else { x = f * 0x1p-24f; memcpy(&b, &x, 4); b |= s; }
  memcpy(&x, &b, 4); return x;
}
static u16 d2h(double v) {  // round to nearest even; a double holds every fp32 exactly
  if (v != v) return 0x7fff;
  u16 s = std::signbit(v) ? 0x8000 : 0; v = std::fabs(v);
  if (v >= 65520.0) return s | 0x7c00;
  int e; std::frexp(v, &e); e = std::max(e, -13);        // ulp 2**(e-11)
  double q = std::nearbyint(std::ldexp(v, 11 - e));       // exact scaling, one rounding
  u32 k = (u32)q;
  if (k >= 2048) { k >>= 1; e++; }
  return s | (k < 1024 ? k : (u32)((e + 14) << 10) | (k & 1023));
}
static float b2f(u16 h) { u32 b = (u32)h << 16; float x; memcpy(&x, &b, 4); return x; }
static u16 f2b(float x) {
  u32 b; memcpy(&b, &x, 4); if (x != x) return 0x7fff;
  return (u16)((b + 0x7fff + ((b >> 16) & 1)) >> 16);
}

// ---- conversions: registers may be wider than the type
static inline u64 rd(W& w, u32 off, u32 width, int l) {
  switch (width) { case 2: return R<u16>(w, off)[l]; case 4: return R<u32>(w, off)[l]; default: return R<u64>(w, off)[l]; }
}
static inline void wr(W& w, u32 off, u32 width, int l, u64 v) {
  switch (width) { case 2: R<u16>(w, off)[l] = v; break; case 4: R<u32>(w, off)[l] = v; break; default: R<u64>(w, off)[l] = v; }
}
template <class D, class S> static void cvt_int(W& w, const Ins& i, u32 m) {
  for (int l = 0; l < 32; l++) if (ACTIVE(l)) {
    S v = (S)rd(w, i.s[0], i.sw, l);
    if (i.flags & 1) {  // .sat
      s128 x = v, lo = std::is_signed<D>::value ? -((s128)1 << (8 * sizeof(D) - 1)) : 0, hi = ((s128)1 << (8 * sizeof(D) - (std::is_signed<D>::value ? 1 : 0))) - 1;
      v = 0; x = x < lo ? lo : x > hi ? hi : x; wr(w, i.d[0], i.dw, l, (u64)(s64)(D)x); continue;
    }
    D d = (D)v; wr(w, i.d[0], i.dw, l, std::is_signed<D>::value ? (u64)(s64)d : (u64)d);
  }
}
template <class F> static double rounded(F x, int how) {  // 0 nearest even, 1 zero, 2 down, 3 up
  return how == 0 ? std::nearbyint((double)x) : how == 1 ? std::trunc((double)x) : how == 2 ? std::floor((double)x) : std::ceil((double)x);
}
template <class D> static u64 to_int(double x, int how, bool wide) {
  if (x != x) return wide ? (u64)1 << (8 * sizeof(D) - 1) : 0;
  x = rounded(x, how);
  double lo = std::is_signed<D>::value ? -std::ldexp(1.0, 8 * sizeof(D) - 1) : 0, hi = std::ldexp(1.0, 8 * sizeof(D) - (std::is_signed<D>::value ? 1 : 0));
  D v = x <= lo ? (std::is_signed<D>::value ? (D)((u64)1 << (8 * sizeof(D) - 1)) : (D)0) : x >= hi ? (D)(std::is_signed<D>::value ? ((u64)1 << (8 * sizeof(D) - 1)) - 1 : ~(u64)0) : (D)x;
  return std::is_signed<D>::value ? (u64)(s64)v : (u64)v;
}
template <class D, int SB, int HOW, bool Z> static void cvt_f2i(W& w, const Ins& i, u32 m) {
  for (int l = 0; l < 32; l++) if (ACTIVE(l)) {
    u64 b = rd(w, i.s[0], i.sw, l); double x; float f;
    if (SB == 8) memcpy(&x, &b, 8); else if (SB == 4) { u32 c = b; memcpy(&f, &c, 4); x = fz<Z>(f); } else x = h2f(b);
    wr(w, i.d[0], i.dw, l, to_int<D>(x, HOW, SB == 8 || sizeof(D) == 8));
  }
}
template <class S, class F> static void cvt_i2f(W& w, const Ins& i, u32 m) {
  for (int l = 0; l < 32; l++) if (ACTIVE(l)) {
    F f = (F)(S)rd(w, i.s[0], i.sw, l); u64 b = 0; memcpy(&b, &f, sizeof f); wr(w, i.d[0], i.dw, l, b);
  }
}
template <int HOW, class F> static void cvt_round(W& w, const Ins& i, u32 m) { un<F, F>(w, i, m, [](F x) { return canon((F)rounded(x, HOW)); }); }

// ---- memory
static bool find_region(u64 a, u32 size, Region*& r) {
  auto inside = [&] { return a >= r->base && a - r->base <= r->size && size <= r->size - (a - r->base); };
  if (C.last < C.regions.size()) { r = &C.regions[C.last]; if (inside()) return true; }
  for (size_t k = 0; k < C.regions.size(); k++) { r = &C.regions[k]; if (inside()) { C.last = k; return true; } }
  return false;
}
static inline void touch(Shadow& s, bool write, bool same, u32 cta, u32 thr, bool shared, u32 region, u64 off) {
  u32 ep = C.epoch, pc = C.pc, warp = thr >> 5;
  u32 k1 = shared ? SHARED_RACE : GLOBAL_RACE, k2 = shared ? WARP_SHARED : WARP_GLOBAL;
  if (s.wcta && !(write && same && s.wcta == cta && s.wepoch == ep && s.wthr == thr)) {
    if (s.wcta != cta) report(write && same ? SAME_VALUE_RACE : CTA_RACE, pc, s.wpc, thr, s.wthr, region, off);
    else if (s.wepoch == ep && s.wthr >> 5 != warp) report(write && same ? SAME_VALUE_RACE : k1, pc, s.wpc, thr, s.wthr, region, off);
    else if (s.wepoch == ep && s.wthr != thr && s.wpc != pc) report(k2, pc, s.wpc, thr, s.wthr, region, off);
  }
  if (write) {
    if (s.rcta) {
      if (s.rcta != cta || (s.multi & 2)) report(same ? SAME_VALUE_RACE : CTA_RACE, pc, s.rpc, thr, s.rthr, region, off);
      else if (s.repoch == ep && (s.rthr >> 5 != warp || (s.multi & 1))) report(same ? SAME_VALUE_RACE : k1, pc, s.rpc, thr, s.rthr, region, off);
      else if (s.repoch == ep && (s.rthr != thr || (s.multi & 4)) && s.rpc != pc) report(k2, pc, s.rpc, thr, s.rthr, region, off);
    }
    s.wcta = cta; s.wepoch = ep; s.wpc = pc; s.wthr = thr; s.init = 1;
  } else {
    if (s.rcta == cta && s.repoch == ep) { if (s.rthr >> 5 != warp) s.multi |= 1; else if (s.rthr != thr) s.multi |= 4; }
    else s.multi = (s.rcta && s.rcta != cta) ? 2 : (s.multi & 2);
    s.rcta = cta; s.repoch = ep; s.rpc = pc; s.rthr = thr;
  }
}
static u8* gmem(u64 a, u32 size, u32 thr, bool write, const u8* data) {
  Region* r;
  if (a % size) { report(MISALIGNED, C.pc, 0, thr, 0, 0, a); }
  if (!find_region(a, size, r)) {
    Region* best = nullptr; u64 dist = ~0ull;
    for (auto& x : C.regions) { u64 d = a < x.base ? x.base - a : a - x.base; if (d < dist) { dist = d; best = &x; } }
    report(OUT_OF_BOUNDS, C.pc, write, thr, 0, best ? best->id : ~0u, best ? a - best->base : a); return nullptr;
  }
  u64 off = a - r->base;
  if (r->allowed) for (u32 k = 0; k < size; k++) if (!(r->allowed[off + k] & 1)) { report(GAP_ACCESS, C.pc, write, thr, 0, r->id, off + k); break; }
  if (C.races && r->sh) for (u32 k = 0; k < size; k++) {
    Shadow& s = r->sh[off + k];
    if (!write && r->allowed && (r->allowed[off + k] & 2) && !s.init) report(UNINIT_GLOBAL, C.pc, 0, thr, 0, r->id, off + k);
    touch(s, write, write && ((u8*)a)[k] == data[k], C.cta, thr, false, r->id, off + k);
  }
  return (u8*)a;
}
static const u32 SBASE = 1024;
static u8* smem(u32 a, u32 size, u32 thr, bool write, const u8* data) {
  u32 off = a - SBASE;
  if (off > C.smem_size || off + size > C.smem_size) { report(SHARED_OUT, C.pc, write, thr, 0, 0, off); return nullptr; }
  if (a % size) report(MISALIGNED, C.pc, 1, thr, 0, 0, off);
  if (C.races) for (u32 k = 0; k < size; k++) {
    Shadow& s = C.ssh[off + k];
    if (!write && !s.init) report(UNINIT_SHARED, C.pc, 0, thr, 0, 0, off + k);
    touch(s, write, write && C.smem[off + k] == data[k], 1, thr, true, 0, off + k);
  }
  return C.smem + off;
}
static void count_sectors(const u64* a, int n, u32 size) {
  u64 v[96]; int k = 0; bool sorted = true;
  for (int j = 0; j < n; j++) for (u64 s = a[j] >> 5; s <= (a[j] + size - 1) >> 5; s++) { if (k && v[k - 1] > s) sorted = false; if (!k || v[k - 1] != s) v[k++] = s; }
  if (!sorted) { std::sort(v, v + k); k = std::unique(v, v + k) - v; }
  C.sectors[C.pc] += k; C.bytes[C.pc] += (u64)n * size;
  u64 u[32]; std::copy(a, a + n, u); std::sort(u, u + n);  // lanes that ask for the same place count once
  C.waves[C.pc] += (u64)(std::unique(u, u + n) - u) * size;
}
static void count_waves(const u64* a, int n, u32 size) {  // 32 banks of 4 bytes; 8-byte in halves, 16-byte in quarters
  int per = size <= 4 ? 32 : size == 8 ? 16 : 8; u64 total = 0;
  for (int at = 0; at < n; at += per) {
    std::vector<u64> words;
    for (int j = at; j < std::min(n, at + per); j++) for (u64 x = a[j] >> 2; x <= (a[j] + size - 1) >> 2; x++) words.push_back(x);
    std::sort(words.begin(), words.end()); words.erase(std::unique(words.begin(), words.end()), words.end());
    int cnt[32] = {}, mx = 0; for (u64 x : words) mx = std::max(mx, ++cnt[x & 31]);
    total += mx;
  }
  C.waves[C.pc] += total; C.bytes[C.pc] += (u64)n * size;
}
static u8* lmem(u64 a, u32 size, u32 thr) {  // a thread's own
  if (a > C.local_size || a + size > C.local_size) { report(OUT_OF_BOUNDS, C.pc, 0, thr, 0, ~0u, a); return nullptr; }
  return C.local + (size_t)thr * C.local_size + a;
}
enum { SHARED, GLOBAL, LOCAL, GENERIC };  // generic: local or global, told apart by the address
template <int SP> static void ld(W& w, const Ins& i, u32 m) {
  const bool G = SP == GLOBAL;
  u32 size = i.n * i.es; u64 list[32]; int k = 0;
  u64 addr[32];  // a destination may be the address register
  for (int l = 0; l < 32; l++) addr[l] = rd(w, i.s[0], i.sw, l) + i.imm;
  for (int l = 0; l < 32; l++) if (ACTIVE(l)) {
    u64 a = SP ? addr[l] : (u32)addr[l];
    list[k++] = a;
    u8* p = SP == LOCAL || (SP == GENERIC && a < C.local_size) ? lmem(a, size, w.id * 32 + l) : SP ? gmem(a, size, w.id * 32 + l, false, nullptr) : smem((u32)a, size, w.id * 32 + l, false, nullptr);
    for (u32 v = 0; v < i.n; v++) {
      u64 x = 0;
      if (p) memcpy(&x, p + v * i.es, i.es); else x = rnd();
      if (i.sx && i.es < 8) x = (u64)((s64)(x << (64 - 8 * i.es)) >> (64 - 8 * i.es));
      wr(w, i.d[v], i.dw, l, x);
    }
  }
  if (C.profile && SP < LOCAL) { if (G) count_sectors(list, k, size); else count_waves(list, k, size); }
}
template <int SP> static void st(W& w, const Ins& i, u32 m) {
  const bool G = SP == GLOBAL;
  u32 size = i.n * i.es; u64 list[32]; u8* places[32]; int k = 0;
  for (int l = 0; l < 32; l++) if (ACTIVE(l)) {
    u64 a = rd(w, i.d[0], i.dw, l) + i.imm; if (!SP) a = (u32)a;
    u8 data[32];
    for (u32 v = 0; v < i.n; v++) { u64 x = rd(w, i.s[v], i.sw, l); memcpy(data + v * i.es, &x, i.es); }
    if (C.races && SP < LOCAL) for (int j = 0; j < k; j++) if (list[j] == a) {  // two lanes, one place
      if (places[j] && memcmp(places[j], data, size)) report(STORE_CONFLICT, C.pc, 0, w.id * 32 + l, 0, 0, a);
      break;
    }
    list[k++] = a;
    u8* p = SP == LOCAL || (SP == GENERIC && a < C.local_size) ? lmem(a, size, w.id * 32 + l) : SP ? gmem(a, size, w.id * 32 + l, true, data) : smem((u32)a, size, w.id * 32 + l, true, data);
    places[k - 1] = p;
    if (p) memcpy(p, data, size);
  }
  if (C.profile && SP < LOCAL) { if (G) count_sectors(list, k, size); else count_waves(list, k, size); }
}
static void ld_param(W& w, const Ins& i, u32 m) {
  for (u32 v = 0; v < i.n; v++) {
    u64 x = 0; memcpy(&x, C.params + i.imm + v * i.es, i.es);
    if (i.sx && i.es < 8) x = (u64)((s64)(x << (64 - 8 * i.es)) >> (64 - 8 * i.es));
    for (int l = 0; l < 32; l++) if (ACTIVE(l)) wr(w, i.d[v], i.dw, l, x);
  }
}
template <bool T> static void ldmatrix(W& w, const Ins& i, u32 m) {  // i.n matrices of 8 x 8 b16
  u8* row[32]; u32 a[32]; u64 list[32];
  for (u32 l = 0; l < i.n * 8; l++) { a[l] = (u32)(rd(w, i.s[0], i.sw, l) + i.imm); list[l] = a[l]; row[l] = smem(a[l], 16, w.id * 32 + l, false, nullptr); }
  if (C.profile) count_waves(list, i.n * 8, 16);
  for (u32 k = 0; k < i.n; k++) for (int l = 0; l < 32; l++) {
    u32 x = 0;
    for (int h = 0; h < 2; h++) {
      int r = T ? (l % 4) * 2 + h : l / 4, c = T ? l / 4 : (l % 4) * 2 + h; u16 v = 0;
      if (row[k * 8 + r]) memcpy(&v, row[k * 8 + r] + 2 * c, 2);
      x |= (u32)v << (16 * h);
    }
    R<u32>(w, i.d[k])[l] = x;
  }
}
template <bool T> static void stmatrix(W& w, const Ins& i, u32 m) {
  for (u32 k = 0; k < i.n; k++) for (int r = 0; r < 8; r++) {
    u8 data[16];
    for (int c = 0; c < 8; c++) {
      int l = T ? c * 4 + r / 2 : r * 4 + c / 2, h = T ? r % 2 : c % 2;
      u16 v = R<u32>(w, i.s[k])[l] >> (16 * h); memcpy(data + 2 * c, &v, 2);
    }
    u32 l = k * 8 + r, a = (u32)(rd(w, i.d[0], i.dw, l) + i.imm);
    u8* p = smem(a, 16, w.id * 32 + l, true, data); if (p) memcpy(p, data, 16);
  }
  if (C.profile) { u64 list[32]; for (u32 l = 0; l < i.n * 8; l++) list[l] = (u32)(rd(w, i.d[0], i.dw, l) + i.imm); count_waves(list, i.n * 8, 16); }
}
enum { A_ADD, A_MIN, A_MAX, A_AND, A_OR, A_XOR, A_EXCH, A_CAS, A_INC };
template <class T, int OP, bool G> static void atom(W& w, const Ins& i, u32 m) {
  std::vector<int> order; for (int l = 0; l < 32; l++) if (ACTIVE(l)) order.push_back(l);
  for (size_t k = order.size(); k > 1; k--) std::swap(order[k - 1], order[rnd() % k]);
  int saved = C.races; C.races = 0;  // atomics do not race with one another; with others they are not checked
  for (int l : order) {
    u64 a = rd(w, i.s[0], i.sw, l) + i.imm; u8* p = G ? gmem(a, sizeof(T), w.id * 32 + l, false, nullptr) : smem((u32)a, sizeof(T), w.id * 32 + l, false, nullptr);
    T old = 0, v = R<T>(w, i.s[1])[l], r = v; if (p) memcpy(&old, p, sizeof(T));
    if (OP == A_ADD) r = old + v; else if (OP == A_MIN) r = std::min(old, v); else if (OP == A_MAX) r = std::max(old, v); else if (OP == A_CAS) r = old == v ? R<T>(w, i.s[2])[l] : old;
    if constexpr (std::is_integral<T>::value) { if (OP == A_AND) r = old & v; else if (OP == A_OR) r = old | v; else if (OP == A_XOR) r = old ^ v; else if (OP == A_INC) r = old >= v ? 0 : old + 1; }
    if (p) memcpy(p, &r, sizeof(T)); R<T>(w, i.d[0])[l] = old;
  }
  C.races = saved;
}
// ---- warp-wide
template <int MODE> static void shfl(W& w, const Ins& i, u32 m) {
  u32* d = R<u32>(w, i.d[0]); u32 a[32]; memcpy(a, R<u32>(w, i.s[0]), 128);
  const u32 *b = R<u32>(w, i.s[1]), *c = R<u32>(w, i.s[2]); u32 bits = 0, out[32];
  for (int l = 0; l < 32; l++) if (ACTIVE(l)) {
    int bv = b[l] & 31, cv = c[l] & 31, seg = (c[l] >> 8) & 31, mx = (l & seg) | (cv & ~seg), mn = l & seg, j; bool p;
    if (MODE == 0) { j = l - bv; p = j >= mx; } else if (MODE == 1) { j = l + bv; p = j <= mx; }
    else if (MODE == 2) { j = l ^ bv; p = j <= mx; } else { j = mn | (bv & ~seg); p = j <= mx; }
    if (!p) j = l;
    if (!ACTIVE(j)) report(BAD_SYNC, C.pc, 0, w.id * 32 + l, j, 0, 0);
    out[l] = a[j]; bits |= (u32)p << l;
  }
  for (int l = 0; l < 32; l++) if (ACTIVE(l)) d[l] = out[l];
  if (i.flags) { u32* q = R<u32>(w, i.d[1]); *q = (*q & ~m) | bits; }
}
template <class T, class F> static void redux(W& w, const Ins& i, u32 m, F f) {
  const T* a = R<T>(w, i.s[0]); T* d = R<T>(w, i.d[0]); bool first = true; T r = 0;
  for (int l = 0; l < 32; l++) if (ACTIVE(l)) { r = first ? a[l] : f(r, a[l]); first = false; }
  for (int l = 0; l < 32; l++) if (ACTIVE(l)) d[l] = r;
}

template <class T> static inline T shl_(T a, u32 b) { return b >= 8 * sizeof(T) ? 0 : (T)(a << b); }
template <class T> static inline T shr_(T a, u32 b) { return b >= 8 * sizeof(T) ? (T)(a < 0 ? -1 : 0) : (T)(a >> b); }
template <class F> static auto with_round(int mode, F f) -> decltype(f()) { fesetround(mode); volatile auto r = f(); fesetround(FE_TONEAREST); return r; }
static u32 prmt(u32 a, u32 b, u32 c) {
  u64 v = (u64)b << 32 | a; u32 r = 0;
  for (int k = 0; k < 4; k++) { u32 s = c >> (4 * k); u8 x = v >> (8 * (s & 7)); if (s & 8) x = (s8)x < 0 ? 0xff : 0; r |= (u32)x << (8 * k); }
  return r;
}
template <class T, class U> static T bfe(T a, u32 pos, u32 len) {
  const int W_ = 8 * sizeof(T); pos &= 255; len &= 255; const bool sg = std::is_signed<T>::value;
  if (!len) return 0;
  bool sign = sg && ((U)a >> std::min<u32>(pos + len - 1, W_ - 1) & 1); U r = 0;
  for (int k = 0; k < W_; k++) { bool bit = (u32)k < len && pos + k < (u32)W_ ? ((U)a >> (pos + k)) & 1 : sign; r |= (U)bit << k; }
  return (T)r;
}

#define UN(name, sig, D, A, e) reg(name, sig, [](W& w, const Ins& i, u32 m) { un<D, A>(w, i, m, [](A a) -> D { return e; }); })
#define BIN(name, sig, D, A, B, e) reg(name, sig, [](W& w, const Ins& i, u32 m) { bin<D, A, B>(w, i, m, [](A a, B b) -> D { return e; }); })
#define TRI(name, sig, D, A, B, E, e) reg(name, sig, [](W& w, const Ins& i, u32 m) { tri<D, A, B, E>(w, i, m, [](A a, B b, E c) -> D { return e; }); })
typedef std::string S;
#define PRED2(name, e) reg(name, "ppp", [](W& w, const Ins& i, u32 m) { u32 a = *R<u32>(w, i.s[0]), b = *R<u32>(w, i.s[1]), *d = R<u32>(w, i.d[0]); *d = (*d & ~m) | ((e) & m); })
#define PRED1(name, e) reg(name, "pp", [](W& w, const Ins& i, u32 m) { u32 a = *R<u32>(w, i.s[0]), *d = R<u32>(w, i.d[0]); *d = (*d & ~m) | ((e) & m); })

template <class T, class U> static void ints(const S& t, char c, const S& half) {  // T typed, U unsigned
  S s1(2, c), s2(3, c), s3(4, c);
  BIN(S("add.") + t, s2, U, U, U, a + b); BIN(S("sub.") + t, s2, U, U, U, a - b);
  BIN(S("mul.lo.") + t, s2, U, U, U, (U)((u64)a * b));
  TRI(S("mad.lo.") + t, s3, U, U, U, U, (U)((u64)a * b + c));
  BIN(S("min.") + t, s2, T, T, T, a < b ? a : b); BIN(S("max.") + t, s2, T, T, T, a > b ? a : b);
  BIN(S("div.") + t, s2, T, T, T, b == 0 ? (T)-1 : (std::is_signed<T>::value && b == (T)-1) ? (T)(0 - (U)a) : (T)(a / b));
  BIN(S("rem.") + t, s2, T, T, T, b == 0 ? a : (std::is_signed<T>::value && b == (T)-1) ? (T)0 : (T)(a % b));
  BIN(S("shr.") + t, S(1, c) + c + '4', T, T, u32, shr_<T>(a, b));
  UN(S("neg.") + t, s1, U, U, (U)(0 - a)); UN(S("abs.") + t, s1, T, T, a < 0 ? (T)(0 - (U)a) : a);
  auto hi = [](T a, T b) -> T { if (std::is_signed<T>::value) return (T)(((s128)a * b) >> (8 * sizeof(T))); return (T)(((u128)(U)a * (U)b) >> (8 * sizeof(T))); };
  (void)hi;
  reg(S("mul.hi.") + t, s2, [](W& w, const Ins& i, u32 m) { bin<T, T, T>(w, i, m, [](T a, T b) -> T {
    if (sizeof(T) < 8) return (T)(std::is_signed<T>::value ? (u64)((s64)a * (s64)b >> (8 * sizeof(T))) : ((u64)(U)a * (U)b) >> (8 * sizeof(T)));
    return std::is_signed<T>::value ? (T)(((s128)a * b) >> 64) : (T)(((u128)(U)a * (U)b) >> 64); }); });
#define SETP(o, e) reg(S("setp." o ".") + t, S("p") + c + c, [](W& w, const Ins& i, u32 m) { cmp<T>(w, i, m, [](T a, T b) { return e; }); })
  SETP("eq", a == b); SETP("ne", a != b); SETP("lt", a < b); SETP("le", a <= b); SETP("gt", a > b); SETP("ge", a >= b);
  SETP("lo", a < b); SETP("ls", a <= b); SETP("hi", a > b); SETP("hs", a >= b);
}
template <class U> static void bits(const S& t, char c) {
  S s1(2, c), s2(3, c);
  BIN(S("and.") + t, s2, U, U, U, a & b); BIN(S("or.") + t, s2, U, U, U, a | b); BIN(S("xor.") + t, s2, U, U, U, a ^ b);
  UN(S("not.") + t, s1, U, U, (U)~a); BIN(S("shl.") + t, S(1, c) + c + '4', U, U, u32, shl_<U>(a, b)); BIN(S("shr.") + t, S(1, c) + c + '4', U, U, u32, shr_<U>(a, b));
  reg(S("setp.eq.") + t, S("p") + c + c, [](W& w, const Ins& i, u32 m) { cmp<U>(w, i, m, [](U a, U b) { return a == b; }); });
  reg(S("setp.ne.") + t, S("p") + c + c, [](W& w, const Ins& i, u32 m) { cmp<U>(w, i, m, [](U a, U b) { return a != b; }); });
}
template <class U> static void movs(const S& t, char c) {
  UN(S("mov.") + t, S(2, c), U, U, a);
  reg(S("selp.") + t, S(3, c) + 'p', [](W& w, const Ins& i, u32 m) {
    U* d = R<U>(w, i.d[0]); const U *a = R<U>(w, i.s[0]), *b = R<U>(w, i.s[1]); u32 p = *R<u32>(w, i.s[2]);
    for (int l = 0; l < 32; l++) if (ACTIVE(l)) d[l] = (p >> l) & 1 ? a[l] : b[l];
  });
}
template <class F, bool Z> static void floats(const S& t, char c) {
  S z = Z ? ".ftz" : "", s1(2, c), s2(3, c), s3(4, c);
  for (S r : {"", ".rn"}) {
    BIN(S("add") + r + z + "." + t, s2, F, F, F, canon(fz<Z>(fz<Z>(a) + fz<Z>(b)))); BIN(S("sub") + r + z + "." + t, s2, F, F, F, canon(fz<Z>(fz<Z>(a) - fz<Z>(b))));
    BIN(S("mul") + r + z + "." + t, s2, F, F, F, canon(fz<Z>(fz<Z>(a) * fz<Z>(b)))); TRI(S("fma") + r + z + "." + t, s3, F, F, F, F, canon(fz<Z>(std::fma(fz<Z>(a), fz<Z>(b), fz<Z>(c)))));
  }
#define MODE(r, M) \
  BIN(S("add." r) + z + "." + t, s2, F, F, F, canon(fz<Z>(with_round(M, [&] { return (F)(*(volatile F*)&a + *(volatile F*)&b); })))); \
  BIN(S("mul." r) + z + "." + t, s2, F, F, F, canon(fz<Z>(with_round(M, [&] { return (F)(*(volatile F*)&a * *(volatile F*)&b); })))); \
  TRI(S("fma." r) + z + "." + t, s3, F, F, F, F, canon(fz<Z>(with_round(M, [&] { return (F)std::fma(*(volatile F*)&a, *(volatile F*)&b, *(volatile F*)&c); }))));
  MODE("rz", FE_TOWARDZERO) MODE("rm", FE_DOWNWARD) MODE("rp", FE_UPWARD)
  BIN(S("div.rn") + z + "." + t, s2, F, F, F, canon(fz<Z>(fz<Z>(a) / fz<Z>(b)))); UN(S("sqrt.rn") + z + "." + t, s1, F, F, canon(std::sqrt(fz<Z>(a)))); UN(S("rcp.rn") + z + "." + t, s1, F, F, canon(fz<Z>((F)1 / fz<Z>(a))));
  BIN(S("min") + z + "." + t, s2, F, F, F, fmin_ptx(fz<Z>(a), fz<Z>(b))); BIN(S("max") + z + "." + t, s2, F, F, F, fmax_ptx(fz<Z>(a), fz<Z>(b)));
  BIN(S("min") + z + ".NaN." + t, s2, F, F, F, a != a || b != b ? canon((F)NAN) : fmin_ptx(fz<Z>(a), fz<Z>(b))); BIN(S("max") + z + ".NaN." + t, s2, F, F, F, a != a || b != b ? canon((F)NAN) : fmax_ptx(fz<Z>(a), fz<Z>(b)));
  UN(S("neg") + z + "." + t, s1, F, F, -fz<Z>(a)); UN(S("abs") + z + "." + t, s1, F, F, std::fabs(fz<Z>(a)));
#define SETF(o, e) reg(S("setp." o) + z + "." + t, S("p") + c + c, [](W& w, const Ins& i, u32 m) { cmp<F>(w, i, m, [](F x, F y) -> bool { F a = fz<Z>(x), b = fz<Z>(y); (void)a; (void)b; return e; }); })
  SETF("eq", a == b); SETF("ne", a == a && b == b && a != b); SETF("lt", a < b); SETF("le", a <= b); SETF("gt", a > b); SETF("ge", a >= b);
  SETF("equ", !(a < b || a > b)); SETF("neu", !(a == b)); SETF("ltu", !(a >= b)); SETF("leu", !(a > b)); SETF("gtu", !(a <= b)); SETF("geu", !(a < b));
  SETF("num", a == a && b == b); SETF("nan", a != a || b != b);
}
template <class D> static void cvts_from_ints(const S& t) {
#define CI(S_, n) reg(S("cvt.") + t + "." n, "cc", cvt_int<D, S_>); reg(S("cvt.sat.") + t + "." n, "cc", cvt_int<D, S_>);
  CI(u8, "u8") CI(s8, "s8") CI(u16, "u16") CI(s16, "s16") CI(u32, "u32") CI(s32, "s32") CI(u64, "u64") CI(s64, "s64")
#define CF(r, H) reg(S("cvt." r ".") + t + ".f32", "cc", cvt_f2i<D, 4, H, false>); reg(S("cvt." r ".ftz.") + t + ".f32", "cc", cvt_f2i<D, 4, H, true>); reg(S("cvt." r ".") + t + ".f64", "cc", cvt_f2i<D, 8, H, false>); reg(S("cvt." r ".") + t + ".f16", "cc", cvt_f2i<D, 2, H, false>);
  CF("rni", 0) CF("rzi", 1) CF("rmi", 2) CF("rpi", 3)
}
template <class I> static void cvts_to_floats(const S& t) { reg(S("cvt.rn.f32.") + t, "cc", cvt_i2f<I, float>); reg(S("cvt.rn.f64.") + t, "cc", cvt_i2f<I, double>); }
template <class T> static void atoms(const S& t, char c) {
  S s2(3, c);
#define AT(o, K) reg(S("atom.global." o ".") + t, s2, atom<T, K, true>); reg(S("atom.shared." o ".") + t, s2, atom<T, K, false>);
  AT("add", A_ADD) AT("min", A_MIN) AT("max", A_MAX) AT("exch", A_EXCH)
  if constexpr (std::is_integral<T>::value) { AT("and", A_AND) AT("or", A_OR) AT("xor", A_XOR) AT("cas", A_CAS) AT("inc", A_INC) }
}

static void build() {
  ints<s16, u16>("s16", '2', ""); ints<u16, u16>("u16", '2', ""); ints<s32, u32>("s32", '4', ""); ints<u32, u32>("u32", '4', ""); ints<s64, u64>("s64", '8', ""); ints<u64, u64>("u64", '8', "");
  bits<u16>("b16", '2'); bits<u32>("b32", '4'); bits<u64>("b64", '8');
  for (S p : {"b", "u", "s", "f"}) { movs<u16>(p + "16", '2'); movs<u32>(p + "32", '4'); movs<u64>(p + "64", '8'); }
  BIN("mul.wide.s32", "844", s64, s32, s32, (s64)a * b); BIN("mul.wide.u32", "844", u64, u32, u32, (u64)a * b);
  BIN("mul.wide.s16", "422", s32, s16, s16, (s32)a * b); BIN("mul.wide.u16", "422", u32, u16, u16, (u32)a * b);
  TRI("mad.wide.s32", "8448", u64, s32, s32, u64, (u64)((s64)a * b) + c); TRI("mad.wide.u32", "8448", u64, u32, u32, u64, (u64)a * b + c);
  TRI("mad.wide.s16", "4224", u32, s16, s16, u32, (u32)((s32)a * b) + c); TRI("mad.wide.u16", "4224", u32, u16, u16, u32, (u32)a * b + c);
  TRI("mad.hi.u32", "4444", u32, u32, u32, u32, (u32)(((u64)a * b) >> 32) + c); TRI("mad.hi.s32", "4444", u32, s32, s32, u32, (u32)(((s64)a * b) >> 32) + c);
  UN("popc.b32", "44", u32, u32, (u32)__builtin_popcount(a)); UN("popc.b64", "48", u32, u64, (u32)__builtin_popcountll(a));
  UN("clz.b32", "44", u32, u32, a ? (u32)__builtin_clz(a) : 32u); UN("clz.b64", "48", u32, u64, a ? (u32)__builtin_clzll(a) : 64u);
  UN("brev.b32", "44", u32, u32, ([](u32 x) { u32 r = 0; for (int k = 0; k < 32; k++) r |= (x >> k & 1) << (31 - k); return r; })(a));
  UN("bfind.u32", "44", u32, u32, a ? 31u - __builtin_clz(a) : ~0u); UN("bfind.shiftamt.u32", "44", u32, u32, a ? (u32)__builtin_clz(a) : ~0u);
  TRI("bfe.u32", "4444", u32, u32, u32, u32, (bfe<u32, u32>(a, b, c))); TRI("bfe.s32", "4444", s32, s32, u32, u32, (bfe<s32, u32>(a, b, c)));
  TRI("bfe.u64", "8844", u64, u64, u32, u32, (bfe<u64, u64>(a, b, c))); TRI("bfe.s64", "8844", s64, s64, u32, u32, (bfe<s64, u64>(a, b, c)));
  TRI("prmt.b32", "4444", u32, u32, u32, u32, prmt(a, b, c));
  TRI("shf.l.wrap.b32", "4444", u32, u32, u32, u32, (u32)((((u64)b << 32 | a) << (c & 31)) >> 32)); TRI("shf.r.wrap.b32", "4444", u32, u32, u32, u32, (u32)(((u64)b << 32 | a) >> (c & 31)));
  TRI("shf.l.clamp.b32", "4444", u32, u32, u32, u32, (u32)((((u64)b << 32 | a) << std::min(c, 32u)) >> 32)); TRI("shf.r.clamp.b32", "4444", u32, u32, u32, u32, (u32)(((u64)b << 32 | a) >> std::min(c, 32u)));
  reg("lop3.b32", "44444", [](W& w, const Ins& i, u32 m) {
    u32* d = R<u32>(w, i.d[0]); const u32 *a = R<u32>(w, i.s[0]), *b = R<u32>(w, i.s[1]), *c = R<u32>(w, i.s[2]); u32 t = *R<u32>(w, i.s[3]);
    for (int l = 0; l < 32; l++) if (ACTIVE(l)) { u32 r = 0; for (int k = 0; k < 8; k++) if (t >> k & 1) r |= (k & 4 ? a[l] : ~a[l]) & (k & 2 ? b[l] : ~b[l]) & (k & 1 ? c[l] : ~c[l]); d[l] = r; } });
  PRED2("and.pred", a & b); PRED2("or.pred", a | b); PRED2("xor.pred", a ^ b); PRED1("not.pred", ~a); PRED1("mov.pred", a);
  floats<float, false>("f32", '4'); floats<float, true>("f32", '4'); floats<double, false>("f64", '8');
  for (S z : {"", ".ftz"}) {
    BIN(S("div.full") + z + ".f32", "444", float, float, float, canon(approx((double)ftz(a) / ftz(b)))); BIN(S("div.approx") + z + ".f32", "444", float, float, float, canon(approx((double)ftz(a) / ftz(b))));
    UN(S("rcp.approx") + z + ".f32", "44", float, float, canon(approx(1.0 / a))); UN(S("sqrt.approx") + z + ".f32", "44", float, float, canon(approx(std::sqrt((double)a)))); UN(S("rsqrt.approx") + z + ".f32", "44", float, float, canon(approx(1.0 / std::sqrt((double)a))));
    UN(S("lg2.approx") + z + ".f32", "44", float, float, canon(approx(std::log2((double)a)))); UN(S("sin.approx") + z + ".f32", "44", float, float, canon(approx(std::sin((double)a)))); UN(S("cos.approx") + z + ".f32", "44", float, float, canon(approx(std::cos((double)a))));
  }
  UN("ex2.approx.f32", "44", float, float, canon(approx(std::exp2((double)a)))); UN("ex2.approx.ftz.f32", "44", float, float, canon(ftz(approx(std::exp2((double)ftz(a))))));
  UN("tanh.approx.f32", "44", float, float, canon(approx(std::tanh((double)a))));
  UN("rcp.approx.ftz.f64", "88", u64, u64, ([](u64 b) { b &= ~0xffffffffull; double x; memcpy(&x, &b, 8); x = 1.0 / x; memcpy(&b, &x, 8); b &= ~0xffffffffull; return b; })(a));
  UN("neg.f16", "22", u16, u16, (u16)(a ^ 0x8000)); UN("neg.bf16", "22", u16, u16, (u16)(a ^ 0x8000)); UN("abs.f16", "22", u16, u16, (u16)(a & 0x7fff));
  for (S r : {"", ".rn"}) { BIN(S("add") + r + ".f16", "222", u16, u16, u16, d2h((double)h2f(a) + h2f(b))); BIN(S("sub") + r + ".f16", "222", u16, u16, u16, d2h((double)h2f(a) - h2f(b))); BIN(S("mul") + r + ".f16", "222", u16, u16, u16, d2h((double)h2f(a) * h2f(b))); }
  cvts_from_ints<u8>("u8"); cvts_from_ints<s8>("s8"); cvts_from_ints<u16>("u16"); cvts_from_ints<s16>("s16"); cvts_from_ints<u32>("u32"); cvts_from_ints<s32>("s32"); cvts_from_ints<u64>("u64"); cvts_from_ints<s64>("s64");
  cvts_to_floats<u8>("u8"); cvts_to_floats<s8>("s8"); cvts_to_floats<u16>("u16"); cvts_to_floats<s16>("s16"); cvts_to_floats<u32>("u32"); cvts_to_floats<s32>("s32"); cvts_to_floats<u64>("u64"); cvts_to_floats<s64>("s64");
  UN("cvt.u64.u32", "84", u64, u32, (u64)a); UN("cvt.s64.s32", "84", s64, s32, (s64)a);  // plain registers; decode() takes the others
  UN("cvt.u32.u64", "48", u32, u64, (u32)a);
  reg("cvt.u64.u32*", "cc", cvt_int<u64, u32>); reg("cvt.s64.s32*", "cc", cvt_int<s64, s32>); reg("cvt.u32.u64*", "cc", cvt_int<u32, u64>);
  UN("cvt.f64.f32", "84", double, float, (double)a); UN("cvt.rn.f32.f64", "48", float, double, canon((float)a)); UN("cvt.f32.f16", "42", float, u16, canon(h2f(a))); UN("cvt.f32.bf16", "42", float, u16, b2f(a));
  UN("cvt.rn.f16.f32", "24", u16, float, d2h(a)); UN("cvt.rn.bf16.f32", "24", u16, float, f2b(a));
  BIN("cvt.rn.bf16x2.f32", "444", u32, float, float, (u32)f2b(a) << 16 | f2b(b)); BIN("cvt.rn.f16x2.f32", "444", u32, float, float, (u32)d2h(a) << 16 | d2h(b));
#define CR(r, H) reg("cvt." r ".f32.f32", "44", cvt_round<H, float>); reg("cvt." r ".f64.f64", "88", cvt_round<H, double>);
  CR("rni", 0) CR("rzi", 1) CR("rmi", 2) CR("rpi", 3)
  UN("cvt.sat.f32.f32", "44", float, float, sat(a)); UN("cvt.ftz.f32.f32", "44", float, float, ftz(a));
  reg("ld.global", "", ld<GLOBAL>); reg("ld.shared", "", ld<SHARED>); reg("st.global", "", st<GLOBAL>); reg("st.shared", "", st<SHARED>); reg("ld.local", "", ld<LOCAL>); reg("st.local", "", st<LOCAL>); reg("ld.generic", "", ld<GENERIC>); reg("st.generic", "", st<GENERIC>); reg("ld.param", "", ld_param);
  reg("ldmatrix", "", ldmatrix<false>, SYNC); reg("ldmatrix.trans", "", ldmatrix<true>, SYNC); reg("stmatrix", "", stmatrix<false>, SYNC); reg("stmatrix.trans", "", stmatrix<true>, SYNC);
  atoms<s32>("s32", '4'); atoms<u32>("u32", '4'); atoms<u32>("b32", '4'); atoms<s64>("s64", '8'); atoms<u64>("u64", '8'); atoms<u64>("b64", '8'); atoms<float>("f32", '4'); atoms<double>("f64", '8');
  reg("shfl.sync.up.b32", "44444", shfl<0>, SYNC); reg("shfl.sync.down.b32", "44444", shfl<1>, SYNC); reg("shfl.sync.bfly.b32", "44444", shfl<2>, SYNC); reg("shfl.sync.idx.b32", "44444", shfl<3>, SYNC);
#define RX(n, T, e) reg("redux.sync." n, "444", [](W& w, const Ins& i, u32 m) { redux<T>(w, i, m, [](T a, T b) -> T { return e; }); }, SYNC)
  RX("add.s32", u32, a + b); RX("add.u32", u32, a + b); RX("min.s32", s32, std::min(a, b)); RX("max.s32", s32, std::max(a, b)); RX("min.u32", u32, std::min(a, b)); RX("max.u32", u32, std::max(a, b));
  RX("and.b32", u32, a & b); RX("or.b32", u32, a | b); RX("xor.b32", u32, a ^ b); RX("min.f32", float, fmin_ptx(a, b)); RX("max.f32", float, fmax_ptx(a, b));
  RX("min.NaN.f32", float, a != a || b != b ? canon(NAN) : fmin_ptx(a, b)); RX("max.NaN.f32", float, a != a || b != b ? canon(NAN) : fmax_ptx(a, b));
  reg("vote.sync.ballot.b32", "4p4", [](W& w, const Ins& i, u32 m) { u32 b = *R<u32>(w, i.s[0]) & m; for (int l = 0; l < 32; l++) if (ACTIVE(l)) R<u32>(w, i.d[0])[l] = b; }, SYNC);
  reg("vote.sync.any.pred", "pp4", [](W& w, const Ins& i, u32 m) { u32 b = *R<u32>(w, i.s[0]) & m, *d = R<u32>(w, i.d[0]); *d = (*d & ~m) | (b ? m : 0); }, SYNC);
  reg("vote.sync.all.pred", "pp4", [](W& w, const Ins& i, u32 m) { u32 b = *R<u32>(w, i.s[0]) & m, *d = R<u32>(w, i.d[0]); *d = (*d & ~m) | (b == m ? m : 0); }, SYNC);
  reg("elect.sync", "44", [](W& w, const Ins& i, u32 m) { int f = __builtin_ctz(m); for (int l = 0; l < 32; l++) if (ACTIVE(l)) R<u32>(w, i.d[0])[l] = f; if (i.flags) { u32* q = R<u32>(w, i.d[1]); *q = (*q & ~m) | (1u << f); } }, SYNC);
  reg("bar.warp.sync", "", [](W&, const Ins&, u32) {}, SYNC);
  reg("special", "", [](W& w, const Ins& i, u32 m) {
    for (int l = 0; l < 32; l++) if (ACTIVE(l)) {
      u32 t = w.id * 32 + l; u64 v = 0;
      switch (i.imm) { case 0: v = t; break; case 3: v = C.ntid; break; case 4: case 5: v = 1; break; case 6: case 7: case 8: v = C.ctaid[i.imm - 6]; break; case 9: case 10: case 11: v = C.grid[i.imm - 9]; break;
        case 12: v = l; break; case 13: v = w.id; break; case 14: v = 1u << l; break; case 15: v = (1u << l) - 1; break; case 16: v = (2ull << l) - 1; break; case 17: v = ~((2ull << l) - 1); break; case 18: v = ~((1ull << l) - 1); break; case 19: v = rnd(); break; case 20: v = C.smem_size; break; }
      wr(w, i.d[0], i.dw, l, v);
    } });
  reg("pack", "", [](W& w, const Ins& i, u32 m) { for (int l = 0; l < 32; l++) if (ACTIVE(l)) { u64 x = 0; for (u32 k = 0; k < i.n; k++) x |= rd(w, i.s[k], i.sw, l) << (8 * i.es * k); wr(w, i.d[0], i.dw, l, x); } });
  reg("unpack", "", [](W& w, const Ins& i, u32 m) { for (int l = 0; l < 32; l++) if (ACTIVE(l)) { u64 x = rd(w, i.s[0], i.sw, l); for (u32 k = 0; k < i.n; k++) wr(w, i.d[k], i.dw, l, x >> (8 * i.es * k)); } });
  reg("activemask.b32", "4", [](W& w, const Ins& i, u32 m) { for (int l = 0; l < 32; l++) if (ACTIVE(l)) R<u32>(w, i.d[0])[l] = m; });
  reg("trap", "", [](W& w, const Ins& i, u32 m) { report(TRAP, C.pc, 0, w.id * 32 + __builtin_ctz(m), 0, 0, 0); });
  reg("nop", "", nullptr, NOP); reg("bra", "", nullptr, BRANCH); reg("exit", "", nullptr, EXIT); reg("bar.sync", "", nullptr, BARRIER);
}
static bool built = false;

extern "C" {
s32 emu_op(const char* name) { if (!built) { build(); built = true; } auto it = names().find(name); return it == names().end() ? -1 : (s32)it->second; }
const char* emu_sig(u32 op) { return ops()[op].sig.c_str(); }
u32 emu_ins_size() { return sizeof(Ins); }
u32 emu_shadow_size() { return sizeof(Shadow); }

// sched: 0 random quanta, 1 each warp up to the barrier in random order, 2 every instruction another warp.
// Returns the number of warp instructions, or 0 after a fatal finding.
u64 emu_run(const Ins* code, u32 n_code, const u8* init_rf, u32 rf_size, u32 const_off, const u8* params,
            u32 gx, u32 gy, u32 gz, u32 threads, u32 smem_size, u32 local_size, const Region* regions, u32 n_regions,
            u64 seed, u32 sched, u32 races, u32 profile, u32 diverge, double perturb, u64 limit,
            u64* hits, u64* lanes, u64* bytes, u64* sectors, u64* waves, Finding* out, u32 max_out, u32* n_out) {
  C.code = code; C.n_code = n_code; C.params = params; C.regions.assign(regions, regions + n_regions); C.last = 0;
  C.grid[0] = gx; C.grid[1] = gy; C.grid[2] = gz; C.ntid = threads; C.races = races; C.profile = profile; C.perturb = perturb; C.salt = seed;
  C.hits = hits; C.lanes = lanes; C.bytes = bytes; C.sectors = sectors; C.waves = waves; C.found.clear(); C.index.clear();
  rng_state = seed * 0x9E3779B97F4A7C15ULL + 0x1234567; for (int k = 0; k < 8; k++) rnd();
  u32 nw = (threads + 31) / 32; u64 total = 0; bool fatal = false;
  std::vector<u8> rf((size_t)rf_size * nw), sm(smem_size + 16); std::vector<Shadow> ssh(smem_size + 16);
  C.smem = sm.data(); C.smem_size = smem_size; C.ssh = ssh.data();
  std::vector<u8> local((size_t)local_size * threads + 16, 0xff); C.local = local.data(); C.local_size = local_size;
  std::vector<u32> ctas((size_t)gx * gy * gz); for (u32 k = 0; k < ctas.size(); k++) ctas[k] = k;
  for (size_t k = ctas.size(); k > 1; k--) std::swap(ctas[k - 1], ctas[rnd() % k]);
  std::vector<W> ws(nw);
  for (u32 cta : ctas) {
    C.cta = cta + 1; C.ctaid[0] = cta % gx; C.ctaid[1] = cta / gx % gy; C.ctaid[2] = cta / gx / gy; C.epoch = 1;
    if (races) memset(ssh.data(), 0, ssh.size() * sizeof(Shadow));
    for (auto& x : sm) x = rnd() >> 32;  // shared memory and registers start as anything
    u64 junk = rnd();
    for (u32 k = 0; k < nw; k++) {
      W& w = ws[k]; w.rf = rf.data() + (size_t)k * rf_size; w.id = k; w.alive = threads - k * 32 >= 32 ? FULL : (1u << (threads - k * 32)) - 1;
      u64* q = (u64*)w.rf; u64 j = junk + k; for (u32 z = 0; z < const_off / 8; z++) { j = j * 6364136223846793005ULL + 1442695040888963407ULL; q[z] = j; }
      memcpy(w.rf + const_off, init_rf + const_off, rf_size - const_off);
      w.g.assign(1, Grp{0, w.alive, 0});
    }
    std::vector<u32> ready;
    while (!fatal) {
      ready.clear();
      u32 barred = 0, live = 0;
      for (u32 k = 0; k < nw; k++) { bool run = false, bar = true; for (auto& g : ws[k].g) { run |= g.state == 0; bar &= g.state == 1; } if (!ws[k].g.empty()) { live++; if (bar) barred++; } if (run) ready.push_back(k); }
      if (!live) break;
      if (ready.empty()) {
        if (barred == live) {
          u32 at = 0; bool same = true, first = true;
          for (auto& w : ws) for (auto& g : w.g) { if (first) { at = g.pc; first = false; } else same &= g.pc == at; }
          if (!same) report(DIVERGENT_BARRIER, at - 1, 0, 0, 0, 0, 0);
          for (auto& w : ws) { for (auto& g : w.g) g.state = 0; }
          for (auto& w : ws) for (size_t a = 0; a < w.g.size(); a++) for (size_t b = a + 1; b < w.g.size();) { if (w.g[a].pc == w.g[b].pc) { w.g[a].mask |= w.g[b].mask; w.g.erase(w.g.begin() + b); } else b++; }
          C.epoch++; continue;
        }
        for (auto& w : ws) for (auto& g : w.g) report(DEADLOCK, g.pc, g.state, w.id * 32 + __builtin_ctz(g.mask), 0, 0, 0);
        fatal = true; break;
      }
      W& w = ws[ready[rnd() % ready.size()]];
      u64 quantum = sched == 1 ? ~0ull : sched == 2 ? 1 : 1 + rnd() % (1u << (rnd() % 12));
      size_t cur = ~0ul;
      while (quantum--) {
        if (w.g.size() == 1) cur = 0;
        else if (cur >= w.g.size() || w.g[cur].state || !diverge || rnd() % 4 == 0) {
          size_t best = ~0ul, runnable = 0;
          for (size_t k = 0; k < w.g.size(); k++) if (!w.g[k].state) { runnable++; if (best == ~0ul || (diverge ? rnd() % runnable == 0 : w.g[k].pc < w.g[best].pc)) best = k; }
          cur = best;
        }
        if (cur == ~0ul || cur >= w.g.size() || w.g[cur].state) break;
        Grp& g = w.g[cur];
        if (g.pc >= n_code) { report(TRAP, g.pc, 1, w.id * 32, 0, 0, 0); fatal = true; break; }
        const Ins& i = code[g.pc]; const Op& op = ops()[i.op]; C.pc = g.pc;
        u32 m = g.mask;
        if (i.pred >= 0) { u32 p = *R<u32>(w, i.pred); m &= i.pneg ? ~p : p; }
        hits[g.pc]++; lanes[g.pc] += __builtin_popcount(m);
        if (++total > limit) { report(HANG, g.pc, 0, w.id * 32, 0, 0, 0); fatal = true; break; }
        bool shape = false;
        switch (op.kind) {
          case PLAIN: if (m) op.fn(w, i, m); g.pc++; break;
          case NOP: g.pc++; break;
          case SYNC: {
            if (!m) { g.pc++; break; }
            u32 member = (i.flags & 2 ? FULL : R<u32>(w, i.s[3])[__builtin_ctz(m)]) & w.alive;
            if ((m & member) == member && (m & ~member) == 0) { op.fn(w, i, m); g.pc++; break; }
            if (m & ~member || (i.pred >= 0 && (g.mask & member) == member)) { report(BAD_SYNC, g.pc, 1, w.id * 32 + __builtin_ctz(m), 0, 0, member); op.fn(w, i, m); g.pc++; break; }
            g.state = 2; hits[g.pc]--; lanes[g.pc] -= __builtin_popcount(m); shape = true;  // wait for the others of the warp
            u32 all = 0; for (auto& o : w.g) if (o.state == 2 && o.pc == g.pc) all |= o.mask;
            if ((all & member) == member) { u32 pc = g.pc; Grp merged{pc, all, 0}; std::vector<Grp> rest; for (auto& o : w.g) if (!(o.state == 2 && o.pc == pc)) rest.push_back(o); rest.push_back(merged); w.g = rest; cur = ~0ul; }
            break; }
          case BRANCH:
            if (m == g.mask) g.pc = i.tgt;
            else if (!m) g.pc++;
            else { u32 rest = g.mask & ~m, next = g.pc + 1; g.mask = m; g.pc = i.tgt; w.g.push_back(Grp{next, rest, 0}); shape = true; }
            break;
          case EXIT: {
            w.alive &= ~m; u32 rest = g.mask & ~m;
            if (rest) { g.mask = rest; g.pc++; } else { w.g.erase(w.g.begin() + cur); cur = ~0ul; shape = true; }
            break; }
          case BARRIER: if (m != g.mask) report(BAD_SYNC, g.pc, 2, w.id * 32, 0, 0, 0); g.state = 1; g.pc++; shape = true; break;
        }
        if (w.g.size() > 1) {  // merge whoever stands at one place
          bool merged = false;
          for (size_t a = 0; a < w.g.size(); a++) if (!w.g[a].state) for (size_t b = a + 1; b < w.g.size();) { if (!w.g[b].state && w.g[a].pc == w.g[b].pc) { w.g[a].mask |= w.g[b].mask; w.g.erase(w.g.begin() + b); merged = true; } else b++; }
          if (merged || shape) cur = ~0ul;
        } else if (shape) cur = ~0ul;
        if (w.g.empty()) break;
      }
    }
    if (fatal) break;
  }
  *n_out = std::min<size_t>(max_out, C.found.size());
  memcpy(out, C.found.data(), *n_out * sizeof(Finding));
  return fatal ? 0 : total;
}
}
