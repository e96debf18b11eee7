/*
 * A process that records, for tests/processes.rs.
 *
 *   recorder PATH NAME THREADS COUNT [--tell]
 *       Each thread records COUNT calls, with request_id NAME-<thread>-<n>. --tell: and writes each request_id to
 *       stdout, a line each, as soon as its tj_record has returned.
 *   recorder PATH NAME --call
 *       Begins a call, tells of its tokens, writes "begun" to stdout and waits to be killed.
 */
#include "check.h"

#include <pthread.h>

static tj_store *store;
static const char *name;
static int count, is_telling;

static void *record_calls(void *user_data) {
  int n, thread = *(int *)user_data;
  for (n = 0; n < count; n++) {
    char id[128];
    int length = snprintf(id, sizeof id - 1, "%s-%d-%d", name, thread, n);
    tj_telemetry_record record = TJ_TELEMETRY_RECORD_INIT;
    tj_error why;
    record.model_id = "model";
    record.engine = name;
    record.request_id = id;
    record.completion_tokens = (uint64_t)n;
    record.latency_seconds = 0.5;
    if (tj_record(store, &record, &why) != TJ_OK) {
      check_fail(__FILE__, __LINE__, "%s was not recorded: %.503s", id, why.message);
    } else if (is_telling) {
      id[length] = '\n';
      CHECK(write(STDOUT_FILENO, id, (size_t)length + 1) == length + 1);
    }
  }
  return NULL;
}

static void record_on_threads(int threads) {
  pthread_t started[64];
  int numbers[64], i;
  for (i = 0; i < threads && i < 64; i++) {
    numbers[i] = i;
    CHECK(pthread_create(&started[i], NULL, record_calls, &numbers[i]) == 0);
  }
  for (i = 0; i < threads && i < 64; i++) {
    pthread_join(started[i], NULL);
  }
}

static void begin_a_call_and_wait(void) {
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_call *call;
  request.model = "model";
  request.request_id = name;
  CHECK_OK(tj_store_subscribe(store, &error));
  CHECK_OK(tj_call_begin("engine", &request, &call, &error));
  tj_call_prompt(call, 12, 0);
  tj_call_tokens(call, 2);
  tj_call_tokens(call, 3);
  CHECK(write(STDOUT_FILENO, "begun\n", 6) == 6);
  pause();
}

int main(int argc, char **argv) {
  tj_store_options options = TJ_STORE_OPTIONS_INIT;
  if (argc < 4) {
    fprintf(stderr, "usage: recorder PATH NAME THREADS COUNT [--tell] | recorder PATH NAME --call\n");
    return 2;
  }
  check_promise = name = argv[2];
  options.busy_timeout_ms = 60000;
  CHECK_OK(tj_store_open(argv[1], &options, &store, &error));
  if (argc == 4) {
    begin_a_call_and_wait();
  } else {
    count = atoi(argv[4]);
    is_telling = argc > 5;
    record_on_threads(atoi(argv[3]));
  }
  CHECK_OK(tj_store_close(store, &error));
  return check_failures == 0 ? 0 : 1;
}
