/* Reads what a server streams, WebSocket or SSE, and counts what a client was told.
 *
 * A unit is a line of a WebSocket text message, or a server-sent event: servers join several
 * changes in one message, so messages say nothing. A unit counts when it contains a mark.
 */
#ifndef ZONECAST_STREAM_H
#define ZONECAST_STREAM_H

#include <stddef.h>
#include <stdint.h>

#define MARK_MAX 32
#define CONTROL_MAX 125

/* What is told of a stream. None of it may close it. */
typedef struct {
  void (*unit)(void *owner, uint64_t stamp_ns); /* A marked unit is complete; 0: without a stamp. */
  void (*line)(void *owner);                    /* A unit is complete, marked or not. */
  void (*ping)(void *owner, const uint8_t *payload, size_t length);
  void (*closed)(void *owner);
} stream_events;

typedef struct {
  uint64_t left;    /* Of the frame's or chunk's payload. */
  uint64_t stamp;   /* Found behind the mark of this unit. */
  const char *mark; /* What a unit must contain to count. */
  uint8_t is_sse, is_chunked, state, is_final, opcode, is_marked, is_begun, head_length;
  uint8_t tail_length, control_length;
  uint8_t head[14];
  char tail[MARK_MAX];
  uint8_t control[CONTROL_MAX];
} stream;

/* Feed what was read behind the head of the HTTP answer. */
void stream_feed(stream *s, const uint8_t *data, size_t length, const stream_events *events, void *owner);

#endif
