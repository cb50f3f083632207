#define _GNU_SOURCE
#include "stream.h"

#include <ctype.h>
#include <string.h>

enum { CHUNK_SIZE, CHUNK_DATA, CHUNK_END };

static uint64_t digits(const char *p, const char *end) {
  uint64_t value = 0;
  const char *begin = p;
  while (p < end && isdigit((unsigned char)*p)) value = value * 10 + (uint64_t)(*p++ - '0');
  /* A number that the read cut short is none. */
  return p == end || p == begin ? 0 : value;
}

static void keep_tail(stream *s, const char *data, size_t length, size_t wanted) {
  if (length < wanted) {
    size_t old = s->tail_length;
    if (old + length > wanted) {
      size_t drop = old + length - wanted;
      memmove(s->tail, s->tail + drop, old - drop);
      old -= drop;
    }
    memcpy(s->tail + old, data, length);
    s->tail_length = (uint8_t)(old + length);
    return;
  }
  memcpy(s->tail, data + length - wanted, wanted);
  s->tail_length = (uint8_t)wanted;
}

/* Look for the mark in a part of a unit's line; it may be spread over two parts. */
static void search(stream *s, const char *data, size_t length) {
  size_t wanted = strlen(s->mark);
  if (s->tail_length) {
    char seam[2 * MARK_MAX];
    size_t more = length < wanted - 1 ? length : wanted - 1;
    memcpy(seam, s->tail, s->tail_length);
    memcpy(seam + s->tail_length, data, more);
    s->is_marked = memmem(seam, s->tail_length + more, s->mark, wanted) != NULL;
  }
  if (s->is_marked) return;
  const char *found = memmem(data, length, s->mark, wanted);
  if (found) {
    s->is_marked = 1;
    s->stamp = digits(found + wanted, data + length);
  } else {
    keep_tail(s, data, length, wanted - 1);
  }
}

static void end_unit(stream *s, const stream_events *events, void *owner) {
  int marked = s->is_marked;
  uint64_t stamp = s->stamp;
  s->is_marked = s->is_begun = s->tail_length = 0;
  s->stamp = 0;
  events->line(owner);
  if (marked) events->unit(owner, stamp);
}

static void end_line(stream *s, const stream_events *events, void *owner) {
  s->tail_length = 0;
  if (!s->is_sse) {
    if (s->is_begun) end_unit(s, events, owner);
  } else if (s->is_begun == 1) {
    s->is_begun = 2; /* Between lines: an empty one ends the event. */
  } else if (s->is_begun == 2) {
    end_unit(s, events, owner);
  }
}

static void take_text(stream *s, const char *data, size_t length, const stream_events *events, void *owner) {
  const char *end = data + length;
  while (data < end) {
    const char *newline = memchr(data, '\n', (size_t)(end - data));
    const char *stop = newline ? newline : end;
    size_t part = (size_t)(stop - data);
    if (s->is_sse && part && stop[-1] == '\r') part--;
    if (part) {
      s->is_begun = 1;
      if (!s->is_marked) search(s, data, part);
    }
    if (!newline) return;
    end_line(s, events, owner);
    data = newline + 1;
  }
}

/* WebSocket (RFC 6455, section 5.2): servers never mask. */

static size_t header_length(const uint8_t *head, size_t have) {
  if (have < 2) return 2;
  int short_length = head[1] & 127;
  return short_length == 126 ? 4 : short_length == 127 ? 10 : 2;
}

static void begin_frame(stream *s) {
  s->is_final = s->head[0] >> 7;
  s->opcode = s->head[0] & 15 ? s->head[0] & 15 : 1; /* A continuation goes on with text. */
  s->left = s->head[1] & 127;
  if (s->left >= 126) {
    size_t size = s->left == 126 ? 2 : 8;
    s->left = 0;
    for (size_t i = 0; i < size; i++) s->left = s->left << 8 | s->head[2 + i];
  }
  s->head_length = s->control_length = 0;
  s->state = 1;
}

static void end_frame(stream *s, const stream_events *events, void *owner) {
  s->state = 0;
  if (s->opcode == 9) events->ping(owner, s->control, s->control_length);
  if (s->opcode == 8) events->closed(owner);
  if (s->opcode < 8 && s->is_final) end_line(s, events, owner);
}

static void feed_websocket(stream *s, const uint8_t *p, const uint8_t *end, const stream_events *events, void *owner) {
  while (p < end) {
    if (s->state == 0) {
      s->head[s->head_length++] = *p++;
      if (s->head_length < header_length(s->head, s->head_length)) continue;
      begin_frame(s);
    }
    size_t part = (uint64_t)(end - p) < s->left ? (size_t)(end - p) : (size_t)s->left;
    if (s->opcode < 8) {
      take_text(s, (const char *)p, part, events, owner);
    } else if (s->control_length + part <= CONTROL_MAX) {
      memcpy(s->control + s->control_length, p, part);
      s->control_length += (uint8_t)part;
    }
    p += part;
    s->left -= part;
    if (!s->left) end_frame(s, events, owner);
  }
}

/* Chunked transfer coding (RFC 9112, section 7.1): a chunk may end anywhere in an event. */

static void feed_chunked(stream *s, const uint8_t *p, const uint8_t *end, const stream_events *events, void *owner) {
  while (p < end) {
    if (s->state == CHUNK_DATA) {
      size_t part = (uint64_t)(end - p) < s->left ? (size_t)(end - p) : (size_t)s->left;
      take_text(s, (const char *)p, part, events, owner);
      p += part;
      s->left -= part;
      if (!s->left) s->state = CHUNK_END;
      continue;
    }
    int c = *p++;
    if (s->state == CHUNK_END) {
      if (c == '\n') s->state = CHUNK_SIZE;
    } else if (c == '\n') {
      if (!s->left) events->closed(owner);
      s->state = s->left ? CHUNK_DATA : CHUNK_END;
    } else if (isxdigit(c)) {
      s->left = s->left << 4 | (uint64_t)(isdigit(c) ? c - '0' : tolower(c) - 'a' + 10);
    }
  }
}

void stream_feed(stream *s, const uint8_t *data, size_t length, const stream_events *events, void *owner) {
  if (!s->is_sse)
    feed_websocket(s, data, data + length, events, owner);
  else if (s->is_chunked)
    feed_chunked(s, data, data + length, events, owner);
  else
    take_text(s, (const char *)data, length, events, owner);
}
