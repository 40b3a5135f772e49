/* httpload: an epoll HTTP/1.1 load generator. Each connection is kept, and asks again when it has the answer.
 *
 *   httpload [options] PORT
 *     -c N   connections (default 100)        -d S   seconds of measuring (5)        -w S   warm-up seconds (1)
 *     -u PATH  path (/)
 * An answer ends after its Content-Length, or, chunked, with the last chunk; its status must be 200.
 * On stdout a line `measuring` when the warm-up is over, then one line of JSON, as wsload's.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUCKETS 1280
#define ROOM 65536
typedef struct { int fd, have; double sent_at; char got[ROOM]; } Conn;

static long hist[BUCKETS], answers, failed;
static int measuring;
static char request[2048];
static int request_size;

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static int bucket(double us) { if (us < 1) return 0; int b = (int)(log2(us) * 40); return b >= BUCKETS ? BUCKETS - 1 : b; }
static double quantile(double part) {
  long sum = 0;
  for (int b = 0; b < BUCKETS; b++) if ((sum += hist[b]) >= part * answers) return pow(2, (b + 0.5) / 40);
  return 0;
}

static void ask(Conn *c) {
  c->sent_at = now(); c->have = 0;
  if (send(c->fd, request, request_size, MSG_NOSIGNAL) != request_size) { failed++; close(c->fd); c->fd = -1; }
}

/* Whether the answer is there: 1; not yet: 0; it is none that we know: -1. */
static int complete(const Conn *c) {
  const char *end = memmem(c->got, c->have, "\r\n\r\n", 4);
  if (!end) return c->have < ROOM ? 0 : -1;
  if (c->have < 12 || memcmp(c->got + 9, "200", 3)) return -1;
  int head = end + 4 - c->got;
  for (const char *line = memchr(c->got, '\n', head); line && line < end; line = memchr(line + 1, '\n', end - line)) {
    if (!strncasecmp(line + 1, "content-length:", 15)) return c->have - head >= atol(line + 16);
    if (!strncasecmp(line + 1, "transfer-encoding:", 18)) return c->have >= head + 5 && !memcmp(c->got + c->have - 5, "0\r\n\r\n", 5);
  }
  return -1;
}

int main(int argc, char **argv) {
  int connections = 100, option; double seconds = 5, warm_up = 1; const char *path = "/";
  while ((option = getopt(argc, argv, "c:d:w:u:")) != -1) {
    if (option == 'c') connections = atoi(optarg);
    else if (option == 'd') seconds = atof(optarg);
    else if (option == 'w') warm_up = atof(optarg);
    else if (option == 'u') path = optarg;
    else return 2;
  }
  if (optind + 1 != argc) { fprintf(stderr, "usage: httpload [options] PORT\n"); return 2; }
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[optind])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  request_size = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nUser-Agent: httpload\r\n\r\n", path);
  int ep = epoll_create1(0); double began = now();
  Conn *all = calloc(connections, sizeof *all);
  for (int i = 0; i < connections; i++) {
    int one = 1; Conn *c = all + i;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) { perror("connect"); return 1; }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &event);
  }
  double connected = now() - began;
  for (int i = 0; i < connections; i++) ask(all + i);
  double start = now() + warm_up, stop = start + seconds, t;
  struct epoll_event events[256];
  while ((t = now()) < stop) {
    if (!measuring && t >= start) { measuring = 1; printf("measuring\n"); fflush(stdout); }
    int n = epoll_wait(ep, events, 256, 100);
    for (int i = 0; i < n; i++) {
      Conn *c = events[i].data.ptr;
      if (c->fd < 0) continue;
      ssize_t k = recv(c->fd, c->got + c->have, ROOM - c->have, MSG_DONTWAIT);
      if (k < 0 && errno == EAGAIN) continue;
      int done = k <= 0 ? -1 : (c->have += k, complete(c));
      if (done < 0) { failed++; close(c->fd); c->fd = -1; }
      if (done <= 0) continue;
      if (measuring) { answers++; hist[bucket((now() - c->sent_at) * 1e6)]++; }
      ask(c);
    }
  }
  printf("{\"msgs\": %ld, \"failed\": %ld, \"closed\": 0, \"msgs_per_s\": %.0f, \"connects_per_s\": %.0f, "
         "\"us\": {\"p50\": %.0f, \"p99\": %.0f, \"p999\": %.0f, \"max\": %.0f}}\n",
         answers, failed, answers / seconds, connections / connected, quantile(0.5), quantile(0.99), quantile(0.999), quantile(1));
  return 0;
}
