/* A crowd of subscribers on loopback: one thread, one epoll. Counts what each was told.
 *
 *   crowd -p PORT -n COUNT [-k ws|sse] [-u PATH] [-s TEXT]... [-a TEXT] [-r TEXT]
 *         [-c N] [-x N]
 *
 *   -s TEXT  sent when connected; a second one when the first line of an answer has come; in it
 *            `%d` stands for the subscriber's number, from 0
 *   -a TEXT  in the place of the last -s, for every second subscriber
 *   -r TEXT  in the line or event with which a subscriber is ready; none: the handshake
 *   -c N     most subscribers that are not ready at once (default 256)
 *   -x N     so many subscribers stop reading when `begin` comes, and don't count
 *
 * A line or event with `"t":` in it counts as a delivery; the number behind is when it was sent,
 * nanoseconds of CLOCK_MONOTONIC.
 *
 * It says `ready {...}` once all are ready (`delay`: of what was told to those who were it before
 * the last one), `done K T` whenever everybody has had K deliveries (T: when, nanoseconds),
 * `report {...}` when asked to, and `failed WHY` before it gives up.
 * It is told `begin` (count from now on) and `report`, a line each.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stream.h"
#include "times.h"

#define ANSWER_MAX 2048
#define RING 65536 /* Deliveries that the fastest may be ahead of the slowest. */
#define STEPS 2
#define MARK "\"t\":"
#define STDIN_TAG UINT64_MAX

enum { CONNECTING, SHAKING, OPEN, GONE };

typedef struct {
  int fd;
  uint8_t phase, is_ready, sent_steps, is_stalled;
  uint64_t count;
  char *answer;
  size_t answer_length;
  stream in;
} subscriber;

static struct {
  int port, count, at_once, stalled, is_sse;
  const char *path, *steps[STEPS], *other, *ready;
  int step_count;
} options = {.count = 1000, .at_once = 256, .path = "/"};

static subscriber *crowd;
static int epoll, started, ready_count, counting, is_counted;
static uint64_t began_ns, read_ns, deliveries, read_bytes, reads, done, told_done;
static uint32_t reached[RING];

static histogram delays, readiness;

static void give_up(const char *why, const char *detail) {
  printf("failed %s%s\n", why, detail);
  exit(1);
}

/* What subscribers are told */

static void send_frame(subscriber *s, int opcode, const void *payload, size_t length) {
  static uint8_t frame[262144];
  size_t head = 2;
  if (length > 65535) give_up("a command is too long", "");
  frame[0] = (uint8_t)(0x80 | opcode);
  frame[1] = (uint8_t)(0x80 | (length < 126 ? length : 126));
  if (length >= 126) {
    frame[2] = (uint8_t)(length >> 8);
    frame[3] = (uint8_t)length;
    head = 4;
  }
  memset(frame + head, 0, 4); /* A mask of zeros leaves the payload as it is. */
  memcpy(frame + head + 4, payload, length);
  size_t total = head + 4 + length;
  if (send(s->fd, frame, total, MSG_NOSIGNAL) != (ssize_t)total) give_up("a command was not taken", "");
}

static void next_step(subscriber *s) {
  if (s->sent_steps >= options.step_count) return;
  const char *text = options.steps[s->sent_steps++];
  if (s->sent_steps == options.step_count && options.other && (s - crowd) % 2) text = options.other;
  const char *number = strstr(text, "%d");
  if (!number) {
    send_frame(s, 1, text, strlen(text));
    return;
  }
  char filled[4096];
  int length = snprintf(filled, sizeof filled, "%.*s%d%s", (int)(number - text), text, (int)(s - crowd), number + 2);
  if (length >= (int)sizeof filled) give_up("a command is too long", "");
  send_frame(s, 1, filled, (size_t)length);
}

static void become_ready(subscriber *s) {
  s->is_ready = 1;
  s->in.mark = MARK;
  ready_count++;
  note(&readiness, now_ns() - began_ns);
}

static void on_line(void *owner) { next_step(owner); }

static void on_unit(void *owner, uint64_t stamp) {
  subscriber *s = owner;
  if (!s->is_ready) {
    become_ready(s);
    return;
  }
  if (s->is_stalled) return;
  if (stamp && stamp < read_ns) note(&delays, read_ns - stamp);
  if (!counting) return;
  deliveries++;
  if (++s->count >= done + RING) give_up("a subscriber is too far ahead of another", "");
  reached[s->count % RING]++;
  while (reached[(done + 1) % RING] == (uint32_t)is_counted) reached[++done % RING] = 0;
}

static void on_ping(void *owner, const uint8_t *payload, size_t length) { send_frame(owner, 10, payload, length); }

static void on_closed(void *owner) {
  (void)owner;
  give_up("the server closed a stream", "");
}

static const stream_events events = {on_unit, on_line, on_ping, on_closed};

/* Connections */

static void watch(int fd, uint32_t what, uint64_t tag, int how) {
  struct epoll_event event = {.events = what, .data.u64 = tag};
  if (epoll_ctl(epoll, how, fd, &event)) give_up("epoll: ", strerror(errno));
}

static void start(void) {
  subscriber *s = &crowd[started];
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (s->fd < 0) give_up("socket: ", strerror(errno));
  int on = 1;
  struct linger reset = {1, 0}; /* Thousands of sockets left in TIME_WAIT would use up the ports. */
  setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  int little = 4096; /* Who stops reading is soon known to the server, not hidden by the kernel. */
  if (started < options.stalled) setsockopt(s->fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
  if (connect(s->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
    give_up("connect: ", strerror(errno));
  s->in.is_sse = (uint8_t)options.is_sse;
  s->in.mark = options.ready ? options.ready : MARK;
  s->answer = malloc(ANSWER_MAX);
  if (!s->answer) give_up("no memory", "");
  watch(s->fd, EPOLLOUT, (uint64_t)started++, EPOLL_CTL_ADD);
}

static void ask(subscriber *s) {
  char request[2048];
  const char *upgrade =
      "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
  int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s\r\n",
                        options.path, options.port, options.is_sse ? "Accept: text/event-stream\r\n" : upgrade);
  if (send(s->fd, request, (size_t)length, MSG_NOSIGNAL) != length) give_up("a request was not taken", "");
  s->phase = SHAKING;
  watch(s->fd, EPOLLIN, (uint64_t)(s - crowd), EPOLL_CTL_MOD);
}

/* Take the head of the answer; return how much of `data` belongs to it, all while it goes on. */
static size_t shake(subscriber *s, const uint8_t *data, size_t length) {
  size_t before = s->answer_length, room = ANSWER_MAX - 1 - before, part = length < room ? length : room;
  memcpy(s->answer + before, data, part);
  s->answer[before + part] = 0;
  char *end = strstr(s->answer, "\r\n\r\n");
  if (!end) {
    s->answer_length += part;
    if (part == room) give_up("the head of an answer is too long", "");
    return length;
  }
  *end = 0;
  if (strncmp(s->answer + 9, options.is_sse ? "200" : "101", 3)) give_up("the server answered ", strtok(s->answer, "\r\n"));
  s->in.is_chunked = strcasestr(s->answer, "transfer-encoding: chunked") != NULL;
  size_t head = (size_t)(end + 4 - s->answer) - before;
  free(s->answer);
  s->answer = NULL;
  s->phase = OPEN;
  next_step(s);
  if (!options.ready) become_ready(s);
  return head;
}

static void receive(subscriber *s) {
  static uint8_t buffer[1 << 18];
  ssize_t length = recv(s->fd, buffer, sizeof buffer, 0);
  if (length < 0 && errno == EAGAIN) return;
  if (length <= 0) give_up("a connection was lost", "");
  read_ns = now_ns();
  reads++;
  read_bytes += (uint64_t)length;
  size_t head = s->phase == SHAKING ? shake(s, buffer, (size_t)length) : 0;
  if (s->phase == OPEN) stream_feed(&s->in, buffer + head, (size_t)length - head, &events, s);
}

/* What it is told, and says */

static double cpu_s(void) {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static double cpu_at_begin;

static void begin(void) {
  for (int i = 0; i < options.count; i++) {
    crowd[i].count = 0;
    if (i < options.stalled && !crowd[i].is_stalled) {
      crowd[i].is_stalled = 1;
      epoll_ctl(epoll, EPOLL_CTL_DEL, crowd[i].fd, NULL);
    }
  }
  is_counted = options.count - options.stalled;
  memset(reached, 0, sizeof reached);
  memset(&delays, 0, sizeof delays);
  deliveries = reads = read_bytes = done = told_done = 0;
  began_ns = now_ns();
  cpu_at_begin = cpu_s();
  counting = 1;
  printf("begun\n");
}

static void report(void) {
  printf("report {\"seconds\":%.6f,\"deliveries\":%llu,\"done\":%llu,\"bytes\":%llu,\"reads\":%llu,\"cpu_s\":%.3f,",
         (double)(now_ns() - began_ns) / 1e9, (unsigned long long)deliveries, (unsigned long long)done,
         (unsigned long long)read_bytes, (unsigned long long)reads, cpu_s() - cpu_at_begin);
  print_times("delay", &delays);
  printf("}\n");
}

static void obey(void) {
  char text[256];
  ssize_t length = read(STDIN_FILENO, text, sizeof text - 1);
  if (length <= 0) exit(0);
  text[length] = 0;
  for (char *word = strtok(text, "\n"); word; word = strtok(NULL, "\n")) {
    if (!strcmp(word, "begin")) begin();
    if (!strcmp(word, "report")) report();
  }
}

static void tell(void) {
  static int is_told;
  if (!is_told && ready_count == options.count) {
    is_told = 1;
    printf("ready {\"seconds\":%.6f,\"cpu_s\":%.3f,\"bytes\":%llu,", (double)(now_ns() - began_ns) / 1e9, cpu_s(),
           (unsigned long long)read_bytes);
    print_times("readiness", &readiness);
    printf(",");
    print_times("delay", &delays);
    printf("}\n");
  }
  if (done != told_done) {
    told_done = done;
    printf("done %llu %llu\n", (unsigned long long)done, (unsigned long long)now_ns());
  }
  fflush(stdout);
}

static void turn(void) {
  struct epoll_event happened[512];
  while (started < options.count && started - ready_count < options.at_once) start();
  int count = epoll_wait(epoll, happened, 512, -1);
  for (int i = 0; i < count; i++) {
    if (happened[i].data.u64 == STDIN_TAG) {
      obey();
      continue;
    }
    subscriber *s = &crowd[happened[i].data.u64];
    if (s->phase == CONNECTING)
      ask(s);
    else if (!s->is_stalled)
      receive(s);
  }
  tell();
}

static void read_options(int count, char **words) {
  int option;
  while ((option = getopt(count, words, "p:n:k:u:s:a:r:c:x:")) > 0) switch (option) {
      case 'p': options.port = atoi(optarg); break;
      case 'n': options.count = atoi(optarg); break;
      case 'k': options.is_sse = !strcmp(optarg, "sse"); break;
      case 'u': options.path = optarg; break;
      case 's':
        if (options.step_count == STEPS) give_up("more than two -s", "");
        options.steps[options.step_count++] = optarg;
        break;
      case 'a': options.other = optarg; break;
      case 'r': options.ready = optarg; break;
      case 'c': options.at_once = atoi(optarg); break;
      case 'x': options.stalled = atoi(optarg); break;
      default: exit(2);
    }
  if (options.ready && strlen(options.ready) >= MARK_MAX) give_up("-r is too long", "");
  if (options.count < 1 || options.stalled >= options.count) give_up("nobody would count", "");
}

int main(int count, char **words) {
  read_options(count, words);
  crowd = calloc((size_t)options.count, sizeof *crowd);
  epoll = epoll_create1(EPOLL_CLOEXEC);
  if (!crowd || epoll < 0) give_up("no memory", "");
  watch(STDIN_FILENO, EPOLLIN, STDIN_TAG, EPOLL_CTL_ADD);
  began_ns = now_ns();
  for (;;) turn();
}
