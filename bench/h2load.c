/* Load for the ext-proc service: plays a script on many gRPC streams and tells how long it took.
 *
 * usage: h2load PORT SCRIPT CONNECTIONS STREAMS REQUESTS RATE
 *   RATE 0: closed loop, STREAMS at a time on each connection; else requests per second, Poisson arrivals.
 *
 * SCRIPT, little endian: u32 length of the header block, the block, u32 number of steps, and for each step
 * u32 gRPC messages to wait for, u32 length, payload (gRPC-framed messages, sent in DATA frames of 16 KiB).
 * The last step closes the stream and waits for its end.
 * Prints one JSON line; latencies are of the first step (the pick) and of the whole request, in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 1 << 16, INPUT = 1 << 22, FRAME = 16384 };

typedef struct { uint32_t replies, length; const uint8_t *payload; } Step;
typedef struct { uint32_t id, step, replies, left, have; uint8_t prefix[5]; double start; } Stream;
typedef struct {
    int fd, open, blocked;
    uint32_t next;
    int64_t window, received;
    uint8_t *in, *out;
    size_t in_length, out_start, out_length, out_size;
    Stream *streams;
} Conn;

static uint8_t *script;
static uint32_t head_length, steps;
static const uint8_t *head;
static Step step_of[4096];
static double *first, *whole;
static long started, done, errors, total, first_count;
static int poller;

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static uint32_t big(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }

static void put(Conn *c, const void *data, size_t length) {
    if (c->out_length + length > c->out_size) {
        c->out_size = (c->out_length + length) * 2;
        c->out = realloc(c->out, c->out_size);
    }
    memcpy(c->out + c->out_length, data, length);
    c->out_length += length;
}

static void frame(Conn *c, int kind, int flags, uint32_t id, const void *data, uint32_t length) {
    uint8_t h[9] = {length >> 16, length >> 8, length, kind, flags, id >> 24, id >> 16, id >> 8, id};
    put(c, h, 9);
    if (length) put(c, data, length);
}

static void send_step(Conn *c, Stream *s) {
    Step *step = &step_of[s->step];
    int last = s->step + 1 == steps;
    uint32_t at = 0;
    do {
        uint32_t part = step->length - at > FRAME ? FRAME : step->length - at;
        frame(c, 0, last && at + part == step->length, s->id, step->payload + at, part);
        at += part;
    } while (at < step->length);
    c->window -= step->length;
    s->replies = 0;
}

static void begin(Conn *c, double at) {
    Stream *s = &c->streams[c->next / 2 % SLOTS];
    if (s->id) { fprintf(stderr, "too many streams open\n"); exit(1); }
    memset(s, 0, sizeof *s);
    s->id = c->next;
    s->start = at;
    c->next += 2;
    c->open++;
    started++;
    frame(c, 1, 4, s->id, head, head_length);
    send_step(c, s);
}

static void flush(Conn *c) {
    while (c->out_start < c->out_length) {
        ssize_t n = write(c->fd, c->out + c->out_start, c->out_length - c->out_start);
        if (n < 0) {
            if (errno != EAGAIN) { perror("write"); exit(1); }
            if (!c->blocked) {
                struct epoll_event e = {EPOLLIN | EPOLLOUT, {.ptr = c}};
                epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
                c->blocked = 1;
            }
            return;
        }
        c->out_start += n;
    }
    c->out_start = c->out_length = 0;
    if (c->blocked) {
        struct epoll_event e = {EPOLLIN, {.ptr = c}};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
        c->blocked = 0;
    }
}

static void replied(Conn *c, Stream *s) {
    s->replies++;
    if (s->step + 1 < steps && s->replies == step_of[s->step].replies) {
        if (s->step == 0 && first_count < total) first[first_count++] = (now() - s->start) * 1e6;
        s->step++;
        send_step(c, s);
    }
}

static void data(Conn *c, Stream *s, const uint8_t *p, uint32_t length) {
    while (length) {
        if (s->left) {
            uint32_t part = length < s->left ? length : s->left;
            s->left -= part; p += part; length -= part;
            if (!s->left) replied(c, s);
            continue;
        }
        s->prefix[s->have++] = *p++;
        length--;
        if (s->have == 5) {
            s->have = 0;
            s->left = big(s->prefix + 1);
            if (!s->left) replied(c, s);
        }
    }
}

static void ended(Conn *c, Stream *s, int good) {
    if (good && s->step + 1 == steps) whole[done] = (now() - s->start) * 1e6; else errors++;
    done++;
    s->id = 0;
    c->open--;
}

static void one_frame(Conn *c, int kind, int flags, uint32_t id, const uint8_t *p, uint32_t length) {
    Stream *s = &c->streams[id / 2 % SLOTS];
    int mine = id && s->id == id;
    switch (kind) {
    case 0: c->received += length; if (mine) data(c, s, p, length); break;
    case 3: if (mine) ended(c, s, 0); return;
    case 4: if (!(flags & 1)) frame(c, 4, 1, 0, 0, 0); return;
    case 6: if (!(flags & 1)) frame(c, 6, 1, 0, p, 8); return;
    case 7: if (p[7]) { fprintf(stderr, "GOAWAY %d\n", p[7]); exit(1); } return;
    case 8: if (!id) c->window += big(p) & 0x7fffffff; return;
    default: break;
    }
    if (kind < 2 && flags & 1 && mine) ended(c, s, 1);
}

static void input(Conn *c) {
    ssize_t n = read(c->fd, c->in + c->in_length, INPUT - c->in_length);
    if (n <= 0) { if (n < 0 && errno == EAGAIN) return; fprintf(stderr, "closed by the server\n"); exit(1); }
    c->in_length += n;
    size_t at = 0;
    while (c->in_length - at >= 9) {
        uint8_t *h = c->in + at;
        uint32_t length = big(h) >> 8;
        if (c->in_length - at - 9 < length) break;
        one_frame(c, h[3], h[4], big(h + 5) & 0x7fffffff, h + 9, length);
        at += 9 + length;
    }
    memmove(c->in, c->in + at, c->in_length - at);
    c->in_length -= at;
    if (c->received > 1 << 20) {
        uint8_t w[4] = {c->received >> 24, c->received >> 16, c->received >> 8, c->received};
        frame(c, 8, 0, 0, w, 4);
        c->received = 0;
    }
}

static void load(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) { perror(path); exit(1); }
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    script = malloc(size);
    if (fread(script, 1, size, file) != (size_t)size) exit(1);
    fclose(file);
    uint8_t *p = script;
    memcpy(&head_length, p, 4); head = p + 4; p += 4 + head_length;
    memcpy(&steps, p, 4); p += 4;
    for (uint32_t i = 0; i < steps; i++) {
        memcpy(&step_of[i].replies, p, 4); memcpy(&step_of[i].length, p + 4, 4);
        step_of[i].payload = p + 8; p += 8 + step_of[i].length;
    }
}

static void dial(Conn *c, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (void *)&a, sizeof a)) { perror("connect"); exit(1); }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->next = 1; c->window = 65535;
    c->in = malloc(INPUT);
    c->streams = calloc(SLOTS, sizeof(Stream));
    /* windows and frame size as Envoy sets them: 256 MiB, 16 KiB */
    uint8_t settings[12] = {0, 4, 0x10, 0, 0, 0, 0, 2, 0, 0, 0, 0}, wider[4] = {0x0f, 0xff, 0, 0};
    put(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    frame(c, 4, 0, 0, settings, 12);
    frame(c, 8, 0, 0, wider, 4);
    struct epoll_event e = {EPOLLIN, {.ptr = c}};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
    flush(c);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double part(double *values, long count, double share) {
    return count ? values[(long)((count - 1) * share)] : -1;
}

int main(int argc, char **argv) {
    if (argc != 7) { fprintf(stderr, "usage: h2load PORT SCRIPT CONNECTIONS STREAMS REQUESTS RATE\n"); return 2; }
    load(argv[2]);
    int conns = atoi(argv[3]), streams = atoi(argv[4]), turn = 0;
    double rate = atof(argv[6]);
    total = atol(argv[5]);
    first = calloc(total, sizeof(double)); whole = calloc(total, sizeof(double));
    poller = epoll_create1(0);
    Conn *all = calloc(conns, sizeof(Conn));
    for (int i = 0; i < conns; i++) dial(all + i, atoi(argv[1]));
    int64_t need = 0;
    for (uint32_t i = 0; i < steps; i++) need += step_of[i].length;
    usleep(100000);
    srand48(7);
    double start = now(), next = start, quiet = start;
    while (done < total) {
        double t = now();
        for (int i = 0; i < conns && rate == 0; i++)
            while (all[i].open < streams && started < total && (all[i].window > need || all[i].open == 0))
                begin(all + i, t);
        while (rate > 0 && next <= t && started < total) {
            begin(all + turn++ % conns, next);
            next -= log(1 - drand48()) / rate;
        }
        for (int i = 0; i < conns; i++) if (all[i].out_length) flush(all + i);
        int wait = rate > 0 && started < total ? 0 : 1000;
        struct epoll_event events[64];
        int n = epoll_wait(poller, events, 64, wait);
        if (n) quiet = t; else if (t - quiet > 10) { fprintf(stderr, "no answer for 10 s\n"); return 1; }
        for (int i = 0; i < n; i++) {
            Conn *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) flush(c);
            if (events[i].events & EPOLLIN) input(c);
            if (c->out_length) flush(c);
        }
    }
    double seconds = now() - start;
    long good = 0;
    for (long i = 0; i < done; i++) if (whole[i] > 0) whole[good++] = whole[i];
    qsort(first, first_count, sizeof(double), ascending);
    qsort(whole, good, sizeof(double), ascending);
    printf("{\"requests\": %ld, \"errors\": %ld, \"seconds\": %.6f, \"first_p50\": %.1f, \"first_p99\": %.1f, "
           "\"whole_p50\": %.1f, \"whole_p99\": %.1f}\n", done, errors, seconds, part(first, first_count, .5),
           part(first, first_count, .99), part(whole, good, .5), part(whole, good, .99));
    return 0;
}
