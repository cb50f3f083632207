/* The clock that all processes share, and times counted in about 64 steps to each power of two. */
#ifndef ZONECAST_TIMES_H
#define ZONECAST_TIMES_H

#include <stdint.h>
#include <stdio.h>
#include <time.h>

typedef struct {
  uint64_t count, most;
  uint32_t slots[64 * 64];
} histogram;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void note(histogram *h, uint64_t value) {
  int slot = (int)value;
  if (value >= 64) {
    int exponent = 63 - __builtin_clzll(value);
    slot = (exponent - 5) * 64 + (int)(value >> (exponent - 6) & 63);
  }
  h->slots[slot]++;
  h->count++;
  if (value > h->most) h->most = value;
}

static double quantile_ms(const histogram *h, double share) {
  uint64_t wanted = (uint64_t)((double)h->count * share), seen = 0;
  for (int slot = 0; slot < 64 * 64; slot++) {
    seen += h->slots[slot];
    if (seen > wanted) {
      uint64_t value = (uint64_t)slot;
      if (slot >= 64) value = (64u | (uint64_t)(slot & 63)) << (slot / 64 - 1);
      return (double)value / 1e6;
    }
  }
  return (double)h->most / 1e6;
}

static void print_times(const char *name, const histogram *h) {
  printf("\"%s\":{\"samples\":%llu,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f}", name,
         (unsigned long long)h->count, quantile_ms(h, 0.5), quantile_ms(h, 0.99), (double)h->most / 1e6);
}

#endif
