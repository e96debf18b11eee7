/* What an instrumented call costs its engine.
 *
 *     call tokens|generate DATABASE TIMES
 *
 * tokens    tj_call_tokens in one long call
 * generate  tj_instrumented_generate, begin to end, around an engine that does nothing
 *
 * A store is subscribed, and somebody listens on the bus; of generate there is a second line without a listener. */
#include "bench.h"

static tj_store *store;

static void listen(const tj_event *event, void *user_data) {
  (void)event, (void)user_data;
}

static int32_t do_nothing(void *engine_data, const tj_generate_request *request, tj_call *call,
                          tj_generate_result *result) {
  (void)engine_data, (void)request, (void)call, (void)result;
  return 0;
}

static void tokens(const tj_generate_request *request, long times) {
  enum { BLOCK = 100 }; /* the clock's own cost is lost among so many */
  long blocks = (times + BLOCK - 1) / BLOCK;
  double *took = some((size_t)blocks, sizeof *took);
  tj_call *call;
  tj_error error;
  check(tj_call_begin("bench", request, &call, &error), &error);
  tj_call_prompt(call, 100, 0);
  for (long block = 0; block < blocks; block++) {
    double begin = now_ns();
    for (int i = 0; i < BLOCK; i++) tj_call_tokens(call, 1);
    took[block] = (now_ns() - begin) / BLOCK;
  }
  check(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error), &error);
  tj_call_free(call);
  print_times("tokens", took, blocks, "");
  free(took);
}

static void generate(const char *what, const tj_generate_request *request, long times) {
  tj_engine engine = TJ_ENGINE_INIT;
  engine.engine_id = "bench", engine.generate = do_nothing;
  double *took = some((size_t)times, sizeof *took);
  long warm_up = times < BURST ? times : BURST;
  for (long i = -warm_up; i < times; i++) {
    if (i % BURST == 0) let_it_keep_up(store);
    tj_generate_result result = TJ_GENERATE_RESULT_INIT;
    tj_error error;
    double begin = now_ns();
    tj_status status = tj_instrumented_generate(&engine, request, &result, &error);
    double end = now_ns();
    check(status, &error);
    if (i >= 0) took[i] = end - begin;
  }
  print_times(what, took, times, "");
  free(took);
}

int main(int argc, char **argv) {
  long times = argc == 4 ? atol(argv[3]) : 0;
  if (times < 1) return fprintf(stderr, "usage: call tokens|generate DATABASE TIMES\n"), 2;
  store = open_store(argv[2]);
  tj_error error;
  uint64_t subscription;
  check(tj_store_subscribe(store, &error), &error);
  check(tj_bus_subscribe(TJ_EVENT_MASK_ALL, listen, NULL, NULL, &subscription, &error), &error);

  tj_message message = {"user", "How much is a joule?"};
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  request.model = "model-00", request.messages = &message, request.message_count = 1;
  if (strcmp(argv[1], "tokens") == 0) tokens(&request, times);
  if (strcmp(argv[1], "generate") == 0) generate("generate", &request, times);
  check(tj_bus_unsubscribe(subscription, &error), &error);
  if (strcmp(argv[1], "generate") == 0) generate("generate.unheard", &request, times);
  check(tj_store_close(store, &error), &error);
  return 0;
}
