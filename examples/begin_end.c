/* begin_end.c: a server that decodes many requests at once, and tells of each of them step by step.
 *
 *   cc begin_end.c -o begin_end $(pkg-config --cflags --libs tokenjoule) && ./begin_end telemetry.db
 *
 * In a loop like this (continuous batching, server slots) there is no function to wrap: every turn of the loop works on
 * all requests that have a slot. So a request's call begins when it arrives, is told of its tokens as they come, and
 * ends when the server is done with it, in whichever way.
 */
#define _POSIX_C_SOURCE 200809L /* clock_gettime, nanosleep */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <tokenjoule.h>

enum { SLOTS = 3, CONTEXT = 4096, PROPOSED = 3, STEPS = 14 };

/* What the clients send, and what the model will make of it. */
struct request {
  const char *id;
  uint64_t prompt_tokens, cached_tokens;
  uint32_t answer_tokens;
};

static const struct request arriving[] = {
    {"chat-1", 812, 0, 16},
    {"chat-2", 640, 512, 9},  /* its prefix is in the cache */
    {"hung-up", 300, 0, 400}, /* its client goes away after four steps */
    {"chat-3", 96, 0, 16},    /* from here on they wait for a slot */
    {"too-long", 5000, 0, 0},
    {"left-over", 64, 0, 4000}, /* is not done when the server stops */
};
enum { REQUESTS = sizeof arriving / sizeof *arriving };

struct slot {
  const struct request *request; /* NULL: the slot is free, and so is call */
  tj_call *call;
  double queue_seconds;
  uint32_t answered;
};

static void check(tj_status status, const tj_error *error) {
  if (status == TJ_OK) return;
  fprintf(stderr, "%s: %s\n", tj_status_name(status), error->message);
  exit(EXIT_FAILURE);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static tj_call *arrive(const struct request *arrived) {
  tj_generate_request about = TJ_GENERATE_REQUEST_INIT;
  about.model = "small";
  about.operation = "chat";
  about.request_id = arrived->id;
  tj_call *call = NULL;
  tj_error error;
  check(tj_call_begin("slots", &about, &call, &error), &error); /* the clock runs from here, the queue included */
  return call;
}

/* Ends the slot's call, and with it the slot. */
static void leave(struct slot *slot, tj_outcome outcome, const char *finish_reason, const char *error_type) {
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  result.queue_seconds = slot->queue_seconds;
  result.finish_reason = finish_reason;
  result.error_type = error_type;
  tj_error error;
  check(tj_call_end(slot->call, outcome, &result, &error), &error);
  tj_call_free(slot->call);
  printf("%-9s %4u tokens, %s\n", slot->request->id, slot->answered, error_type ? error_type : finish_reason);
  *slot = (struct slot){0};
}

/* One token of the model's own, and those of the draft model's proposals that it agrees with. */
static void step(struct slot *slot, uint32_t turn) {
  if (tj_call_cancelled(slot->call)) {
    leave(slot, TJ_OUTCOME_CANCELLED, "cancelled", NULL);
    return;
  }
  const uint32_t left = slot->request->answer_tokens - slot->answered;
  uint32_t accepted = turn % (PROPOSED + 1);
  if (accepted >= left) accepted = left - 1;
  slot->answered += accepted + 1;
  tj_call_draft(slot->call, PROPOSED, accepted);
  tj_call_tokens(slot->call, accepted + 1); /* all of them exist as of now: one event */
  if (slot->answered == slot->request->answer_tokens) leave(slot, TJ_OUTCOME_OK, "stop", NULL);
}

static void serve(void) {
  tj_call *calls[REQUESTS];
  const double arrived = now();
  for (int i = 0; i < REQUESTS; i++) calls[i] = arrive(&arriving[i]);

  struct slot slots[SLOTS] = {{0}};
  int next = 0;
  for (uint32_t turn = 0; turn < STEPS; turn++) {
    for (int i = 0; i < SLOTS && next < REQUESTS; i++) {
      struct slot *slot = &slots[i];
      if (slot->request != NULL) continue;
      *slot = (struct slot){&arriving[next], calls[next], now() - arrived, 0};
      next++;
      tj_call_prompt(slot->call, slot->request->prompt_tokens, slot->request->cached_tokens);
      if (slot->request->prompt_tokens > CONTEXT) leave(slot, TJ_OUTCOME_ERROR, NULL, "context_overflow");
    }
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL); /* the batch is being decoded */
    for (int i = 0; i < SLOTS; i++)
      if (slots[i].request != NULL) step(&slots[i], turn);
    if (turn == 3) tj_call_cancel(slots[2].call); /* a server does it on the thread that sees the connection close */
  }

  /* The server stops. A call that is freed without an end is recorded as abandoned, with its tokens. */
  for (int i = 0; i < SLOTS; i++) {
    if (slots[i].request == NULL) continue;
    printf("%-9s %4u tokens, still running\n", slots[i].request->id, slots[i].answered);
    tj_call_free(slots[i].call);
  }
  for (; next < REQUESTS; next++) tj_call_free(calls[next]);
}

static tj_aggregated_stats ask(tj_store *store, uint32_t outcome_mask) {
  tj_query query = TJ_QUERY_INIT;
  query.outcome_mask = outcome_mask;
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  tj_error error;
  check(tj_aggregate(store, &query, &stats, &error), &error);
  return stats;
}

int main(int argc, char **argv) {
  tj_error error;
  tj_store *store = NULL;
  check(tj_store_open(argc > 1 ? argv[1] : ":memory:", NULL, &store, &error), &error);
  check(tj_store_subscribe(store, &error), &error);

  serve();

  tj_aggregated_stats all = ask(store, 0), abandoned = ask(store, 1u << TJ_OUTCOME_ABANDONED);
  printf("\n%d calls: %d failed, %d cancelled, %d abandoned; %d tokens\n", (int)all.total_calls, (int)all.error_count,
         (int)all.cancelled_count, (int)abandoned.total_calls, (int)all.total_tokens);
  printf("TTFT p50 %.2f ms, p99 %.2f ms; between tokens p50 %.2f ms\n", all.ttft.p50 * 1e3, all.ttft.p99 * 1e3,
         all.itl_ms.p50);
  tj_aggregated_stats_free(&all);
  tj_aggregated_stats_free(&abandoned);
  check(tj_store_close(store, &error), &error);
  return 0;
}
