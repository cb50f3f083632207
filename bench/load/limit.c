/* What the kernel lets a fan-out have: lines come in on one port, leave as WebSocket messages.
 *
 *   limit -p PORT -i PORT
 *
 *   -p  where subscribers connect; whatever they say is ignored
 *   -i  where one publisher connects and sends lines
 *
 * All lines of one turn of the loop are joined in one send.
 * It keeps no promise: no handshake is checked, no ping sent, nobody is ever told what it missed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define SUBSCRIBERS_MAX 65536
#define INPUT_MAX (1 << 20)
#define SUBSCRIBERS_DOOR 0
#define PUBLISHER_DOOR 1
#define PUBLISHER 2
#define FIRST_SUBSCRIBER 3

typedef struct {
  int fd, is_open;
  char *left; /* What the kernel did not take. */
  size_t left_length;
} subscriber;

static subscriber subscribers[SUBSCRIBERS_MAX];
static int count, epoll, publisher = -1;
static char input[INPUT_MAX], frames[INPUT_MAX * 2];
static size_t input_length;

static void give_up(const char *why) {
  perror(why);
  exit(1);
}

static void watch(int fd, uint32_t what, uint64_t tag, int how) {
  struct epoll_event event = {.events = what, .data.u64 = tag};
  if (epoll_ctl(epoll, how, fd, &event)) give_up("epoll_ctl");
}

static int open_door(int port, uint64_t tag) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) give_up("listen");
  watch(fd, EPOLLIN, tag, EPOLL_CTL_ADD);
  return fd;
}

static void let_in(int door) {
  int fd, on = 1;
  while ((fd = accept4(door, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
    if (count == SUBSCRIBERS_MAX) give_up("too many subscribers");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    subscribers[count].fd = fd;
    watch(fd, EPOLLIN, (uint64_t)(FIRST_SUBSCRIBER + count++), EPOLL_CTL_ADD);
  }
}

static void keep(subscriber *s, const char *data, size_t length) {
  s->left = realloc(s->left, s->left_length + length);
  if (!s->left) give_up("no memory");
  memcpy(s->left + s->left_length, data, length);
  s->left_length += length;
}

static void send_to(int number, const char *data, size_t length) {
  subscriber *s = &subscribers[number];
  ssize_t taken = 0;
  if (!s->is_open) return;
  if (!s->left_length) taken = send(s->fd, data, length, MSG_NOSIGNAL);
  if (taken < 0 && errno != EAGAIN) return;
  if (taken < 0) taken = 0;
  if ((size_t)taken == length) return;
  if (!s->left_length) watch(s->fd, EPOLLIN | EPOLLOUT, (uint64_t)(FIRST_SUBSCRIBER + number), EPOLL_CTL_MOD);
  keep(s, data + taken, length - (size_t)taken);
}

static void send_left(int number) {
  subscriber *s = &subscribers[number];
  ssize_t taken = send(s->fd, s->left, s->left_length, MSG_NOSIGNAL);
  if (taken <= 0) return;
  s->left_length -= (size_t)taken;
  memmove(s->left, s->left + taken, s->left_length);
  if (!s->left_length) watch(s->fd, EPOLLIN, (uint64_t)(FIRST_SUBSCRIBER + number), EPOLL_CTL_MOD);
}

static void hear(int number) {
  static const char answer[] =
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"; /* For the crowd's one key. */
  char heard[4096];
  subscriber *s = &subscribers[number];
  ssize_t length = recv(s->fd, heard, sizeof heard, 0);
  if (length < 0 && errno == EAGAIN) return;
  if (length <= 0) {
    s->is_open = 0;
    close(s->fd);
  } else if (!s->is_open && memmem(heard, (size_t)length, "\r\n\r\n", 4)) {
    s->is_open = 1;
    send_to(number, answer, sizeof answer - 1);
  }
}

static size_t put_frame(char *at, const char *line, size_t length) {
  size_t head = length < 126 ? 2 : 4;
  at[0] = (char)0x81;
  at[1] = (char)(length < 126 ? length : 126);
  if (head == 4) {
    at[2] = (char)(length >> 8);
    at[3] = (char)length;
  }
  memcpy(at + head, line, length);
  return head + length;
}

static void publish(void) {
  ssize_t length = recv(publisher, input + input_length, INPUT_MAX - input_length, 0);
  if (length <= 0) return;
  input_length += (size_t)length;
  char *line = input, *end = input + input_length, *newline;
  size_t ready = 0;
  while (line < end && (newline = memchr(line, '\n', (size_t)(end - line)))) {
    ready += put_frame(frames + ready, line, (size_t)(newline - line));
    line = newline + 1;
  }
  for (int i = 0; ready && i < count; i++) send_to(i, frames, ready);
  input_length = (size_t)(end - line);
  memmove(input, line, input_length);
}

int main(int words, char **word) {
  int option, port = 0, input_port = 0;
  while ((option = getopt(words, word, "p:i:")) > 0) {
    if (option == 'p') port = atoi(optarg);
    if (option == 'i') input_port = atoi(optarg);
  }
  epoll = epoll_create1(0);
  int door = open_door(port, SUBSCRIBERS_DOOR), back_door = open_door(input_port, PUBLISHER_DOOR);
  for (;;) {
    struct epoll_event happened[512];
    int n = epoll_wait(epoll, happened, 512, -1);
    for (int i = 0; i < n; i++) {
      uint64_t tag = happened[i].data.u64;
      if (tag == SUBSCRIBERS_DOOR) {
        let_in(door);
      } else if (tag == PUBLISHER_DOOR) {
        if (publisher >= 0) close(publisher);
        publisher = accept4(back_door, NULL, NULL, SOCK_NONBLOCK);
        input_length = 0;
        watch(publisher, EPOLLIN, PUBLISHER, EPOLL_CTL_ADD);
      } else if (tag == PUBLISHER) {
        publish();
      } else {
        int number = (int)(tag - FIRST_SUBSCRIBER);
        if (happened[i].events & EPOLLOUT) send_left(number);
        if (happened[i].events & EPOLLIN) hear(number);
      }
    }
  }
}
