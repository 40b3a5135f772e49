/* hold: opens very many WebSocket connections and keeps them, at next to no cost: 32 bytes of memory each.
 *
 *   hold [options] PORT
 *     -c N     connections in all (1000)              -P N   processes to spread them over (by need)
 *     -r N     new connections in flight at a time, in each process (100)
 *     -u PATH  request path (/)                       -i IP  server address (127.0.0.1)
 *
 * Pings are answered, messages counted. A JSON line on stdout each second, of all processes together:
 *   opened, failed, closed: connections; pings: answered; messages; last: CLOCK_MONOTONIC seconds of the last message.
 * Source addresses are 127.1.0.1, 127.1.0.2, ...: one for each 8,000 connections: the kernel is slow to find the last free ports.
 * It ends when its standard input does.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define EACH 19000 /* connections a process; 20,000 descriptors are usual */
#define PER_ADDRESS 8000
#define LARGEST 65536 /* bytes of a frame that is understood; a longer one ends its connection */

static int connections = 1000, processes = 0, in_flight = 100, port;
static const char *path = "/", *address = "127.0.0.1";

typedef struct { volatile long opened, failed, closed, pings, messages; volatile double last; } Counts;
static Counts *all, *mine;

enum { CONNECTING, HANDSHAKE, OPEN, DEAD };
typedef struct { char *tail; int fd; uint16_t tail_size; uint8_t state, matched; } Connection; /* tail: an unfinished frame */

static int poller, under_way;
static uint8_t scratch[LARGEST * 5];

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }

static void drop(Connection *c) {
  if (c->state == DEAD) return;
  if (c->state == OPEN) mine->closed++; else { mine->failed++; under_way--; }
  c->state = DEAD; close(c->fd); free(c->tail); c->tail = NULL;
}

static int pong(Connection *c, const uint8_t *payload, int size) {
  uint8_t frame[6 + 125] = {0x8a, 0x80 | size}; /* the masking key is 0: nothing to do */
  memcpy(frame + 6, payload, size);
  mine->pings++;
  return send(c->fd, frame, 6 + size, MSG_NOSIGNAL) == 6 + size;
}

static void parse(Connection *c, uint8_t *p, uint8_t *end) {
  while (end - p >= 2) {
    uint64_t size = p[1] & 127; int head = 2;
    if (size == 126) { head = 4; if (end - p < 4) break; size = p[2] << 8 | p[3]; }
    else if (size == 127) { drop(c); return; }
    if ((uint64_t)(end - p) < head + size) break;
    int opcode = p[0] & 15;
    if (opcode == 9) { if (size > 125 || !pong(c, p + head, size)) { drop(c); return; } }
    else if (opcode == 8) { drop(c); return; }
    else if (opcode < 3 && p[0] & 0x80) { mine->messages++; mine->last = now(); }
    p += head + size;
  }
  if (p < end) { c->tail_size = end - p; c->tail = malloc(c->tail_size); memcpy(c->tail, p, c->tail_size); }
}

static void on_data(Connection *c) {
  int kept = c->tail_size;
  if (kept) { memcpy(scratch, c->tail, kept); free(c->tail); c->tail = NULL; c->tail_size = 0; }
  ssize_t n = recv(c->fd, scratch + kept, LARGEST, 0);
  if (n <= 0) { if (n == 0 || errno != EAGAIN) drop(c); else if (kept) parse(c, scratch, scratch + kept); return; }
  uint8_t *p = scratch, *end = scratch + kept + n;
  if (c->state == HANDSHAKE) {
    if (c->matched == 0 && (n < 12 || memcmp(p, "HTTP/1.1 101", 12))) { drop(c); return; }
    while (p < end && (c->matched & 7) < 4) { int m = c->matched & 7; c->matched = 8 | ((*p == "\r\n\r\n"[m]) ? m + 1 : (*p == '\r')); p++; }
    if ((c->matched & 7) < 4) return;
    c->state = OPEN; mine->opened++; under_way--;
  }
  parse(c, p, end);
}

static void dial(Connection *c, int number, const struct sockaddr_in *server) {
  int one = 1;
  struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f010001 + number / PER_ADDRESS)};
  c->state = CONNECTING; under_way++;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (c->fd < 0) { perror("hold: socket"); exit(1); }
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  if (ntohl(server->sin_addr.s_addr) >> 24 == 127 && bind(c->fd, (void *)&source, sizeof source)) perror("hold: bind");
  if (connect(c->fd, (void *)server, sizeof *server) && errno != EINPROGRESS) { drop(c); return; }
  struct epoll_event event = {EPOLLOUT, {.ptr = c}};
  epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void run(int first, int count) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Connection *held = calloc(count, sizeof *held);
  struct epoll_event events[1024];
  struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(port)};
  char request[1024];
  int size = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", path, address, port);
  inet_pton(AF_INET, address, &server.sin_addr);
  poller = epoll_create1(0);
  for (int started = 0;;) {
    while (started < count && under_way < in_flight) { dial(held + started, first + started, &server); started++; }
    int n = epoll_wait(poller, events, 1024, started < count ? 20 : 1000);
    for (int i = 0; i < n; i++) {
      Connection *c = events[i].data.ptr;
      if (c->state == CONNECTING) {
        int error = 0; socklen_t length = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error || send(c->fd, request, size, MSG_NOSIGNAL) != size) { drop(c); continue; }
        c->state = HANDSHAKE;
        struct epoll_event event = {EPOLLIN, {.ptr = c}};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
      } else if (c->state != DEAD) on_data(c);
    }
  }
}

static int number(const char *text) {
  char *end; long value = strtol(text, &end, 10);
  if (*end || value < 1 || value > 100000000) { fprintf(stderr, "hold: a number from 1, not %s\n", text); exit(2); }
  return value;
}

int main(int argc, char **argv) {
  int option; struct rlimit files;
  while ((option = getopt(argc, argv, "c:P:r:u:i:")) != -1) switch (option) {
    case 'c': connections = number(optarg); break; case 'P': processes = number(optarg); break;
    case 'r': in_flight = number(optarg); break; case 'u': path = optarg; break; case 'i': address = optarg; break;
    default: return 2;
  }
  if (optind + 1 != argc) { fprintf(stderr, "usage: hold [options] PORT (see the source's head)\n"); return 2; }
  port = number(argv[optind]);
  if (!processes) processes = (connections + EACH - 1) / EACH;
  getrlimit(RLIMIT_NOFILE, &files); files.rlim_cur = files.rlim_max; setrlimit(RLIMIT_NOFILE, &files);
  all = mmap(0, sizeof *all * processes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  for (int i = 0, first = 0; i < processes; i++) {
    int count = connections / processes + (i < connections % processes);
    if (fork() == 0) { mine = all + i; run(first, count); }
    first += count;
  }
  for (struct pollfd input = {0, POLLIN, 0};;) {
    char byte;
    if (poll(&input, 1, 1000) > 0 && read(0, &byte, 1) <= 0) return 0; /* the children go with us */
    Counts sum = {0};
    for (int i = 0; i < processes; i++) {
      sum.opened += all[i].opened; sum.failed += all[i].failed; sum.closed += all[i].closed;
      sum.pings += all[i].pings; sum.messages += all[i].messages; if (all[i].last > sum.last) sum.last = all[i].last;
    }
    printf("{\"opened\":%ld,\"failed\":%ld,\"closed\":%ld,\"pings\":%ld,\"messages\":%ld,\"last\":%.6f}\n", sum.opened, sum.failed, sum.closed, sum.pings, sum.messages, sum.last);
    fflush(stdout);
  }
}
